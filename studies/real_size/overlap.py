"""What of an image's encoding hides behind the typing of the question, and what freeing the vision part gives back.

python -m studies.real_size.overlap BUNDLE THREADS keep|free prints a turn's memory over time as JSON.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from pocketvlm.bench.speed.footprint import STATUS, parse_status
from pocketvlm.runtime import GenerationConfig, load

#: Seconds from the image to the question: none, and what somebody types in.
HEAD_STARTS = (0.0, 5.0, 10.0, 20.0)
#: Two tiles and the thumbnail, 588 image tokens.
SIZE = (384, 768)
QUESTION = "What does the picture show?"
NEW_TOKENS = 16
#: Seconds between two looks at the memory.
LOOK_EVERY = 0.1
SEED = 0
WAIT, PREFILL, KEPT, FREED = "#e08a3c", "#2b59c3", "#9aa4b2", "#2b59c3"


@dataclass(frozen=True)
class HeadStart:
    """A question so many seconds after its image; ``waited_s`` of ``encode_s`` is what the question waited for."""

    head_start_s: float
    time_to_first_token_s: float
    encode_s: float
    waited_s: float
    prefill_s: float


def measure_head_starts(bundle: Path, threads: int, repeats: int) -> list[HeadStart]:
    """Each head start in turn, ``repeats`` times; times are medians."""
    found: dict[float, list[HeadStart]] = {seconds: [] for seconds in HEAD_STARTS}
    with load(bundle, threads=threads, image_cache_bytes=0) as vlm:
        for _ in range(repeats):
            for seconds, rows in found.items():
                with vlm.chat() as chat:
                    chat.add_image(_picture())
                    time.sleep(seconds)
                    answer = chat.stream(QUESTION, GenerationConfig(max_new_tokens=1))
                    answer.read()
                stats = answer.stats
                times = (stats.time_to_first_token_s, stats.encode_s, stats.encode_wait_s, stats.prefill_s)
                rows.append(HeadStart(seconds, *times))
    return [_median(rows) for rows in found.values()]


def measure_memory(bundle: Path, threads: int) -> list[dict[str, Any]]:
    """One turn with an image in a process of its own, with the vision part kept and freed (``memory_of_a_turn``)."""
    rows = []
    for vision in ("keep", "free"):
        command = [sys.executable, "-m", "studies.real_size.overlap", str(bundle), str(threads), vision]
        rows.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
    return rows


def memory_of_a_turn(bundle: Path, threads: int, *, keep_vision: bool) -> dict[str, Any]:
    """{keep_vision, marks: [[seconds, what begins]], curve: [[seconds, resident bytes, of that anonymous]]}"""
    curve: list[tuple[float, int, int]] = []
    over = threading.Event()
    start = time.perf_counter()

    def look() -> None:
        while not over.wait(LOOK_EVERY):
            memory = parse_status("now", STATUS.read_text())
            curve.append((time.perf_counter() - start, memory.resident, memory.anonymous))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        marks = [(0.0, "load")]
        with load(bundle, threads=threads, keep_vision=keep_vision) as vlm, vlm.chat() as chat:
            marks.append((time.perf_counter() - start, "image"))
            chat.add_image(_picture())
            answer = chat.stream(QUESTION, GenerationConfig(max_new_tokens=NEW_TOKENS))
            next(answer)
            decoding = time.perf_counter() - start
            answer.read()
            marks += [(decoding - answer.stats.prefill_s, "prefill"), (decoding, "decode")]
            time.sleep(2 * LOOK_EVERY)
    finally:
        over.set()
        watcher.join()
    return {"keep_vision": keep_vision, "marks": marks, "curve": curve}


def draw(head_starts: Sequence[dict[str, Any]], memory: Sequence[dict[str, Any]]) -> bytes:
    """Time to the first token by head start, and resident memory over a turn: PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    names = [f"{row['head_start_s']:g} s" for row in head_starts]
    waits = [row["waited_s"] for row in head_starts]
    left.bar(names, waits, color=WAIT, label="waiting for the image")
    rest = [row["time_to_first_token_s"] - row["waited_s"] for row in head_starts]
    left.bar(names, rest, bottom=waits, color=PREFILL, label="prefill")
    highest = 1.3 * max(row["time_to_first_token_s"] for row in head_starts)  # room for the legend
    left.set(title="time to first token", xlabel="from the image to the question", ylabel="s", ylim=(0, highest))
    left.legend(frameon=False)
    for row in memory:
        colour, name = (KEPT, "vision part kept") if row["keep_vision"] else (FREED, "vision part freed")
        seconds, resident, _ = zip(*row["curve"], strict=True)
        right.plot(seconds, [size / 1e9 for size in resident], color=colour, label=name)
        for place, what in row["marks"]:
            right.axvline(place, color=colour, linewidth=0.5)
            if not row["keep_vision"]:
                right.text(place, 0, f" {what}", fontsize=7, rotation=90, va="bottom")
    right.set(title="resident memory", xlabel="s", ylabel="GB", ylim=(0, None))
    right.legend(frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def describe(head_starts: Sequence[dict[str, Any]], memory: Sequence[dict[str, Any]]) -> list[str]:
    """A line each."""
    lines = [
        f"question {row['head_start_s']:4.0f} s after the image: first token after {row['time_to_first_token_s']:.1f} s"
        f" ({row['waited_s']:.1f} s waiting for the image, {row['prefill_s']:.1f} s prefill)"
        for row in head_starts
    ]
    for row in memory:
        name = "kept" if row["keep_vision"] else "freed"
        resident = [size for _, size, _ in row["curve"]]
        decode = next(seconds for seconds, what in row["marks"] if what == "decode")
        while_decoding = [size for seconds, size, _ in row["curve"] if seconds >= decode]
        lines.append(
            f"vision part {name}: at most {max(resident) / 1e9:.2f} GB, "
            f"{median(while_decoding) / 1e9:.2f} GB while decoding"
        )
    return lines


def _median(rows: Sequence[HeadStart]) -> HeadStart:
    columns = {name: [asdict(row)[name] for row in rows] for name in asdict(rows[0])}
    return HeadStart(**{name: median(values) for name, values in columns.items()})


def _picture() -> Image.Image:
    width, height = SIZE
    return Image.fromarray(np.random.default_rng(SEED).integers(0, 256, (height, width, 3), dtype=np.uint8))


def main(bundle: str, threads: str, vision: str) -> None:
    json.dump(memory_of_a_turn(Path(bundle), int(threads), keep_vision=vision == "keep"), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
