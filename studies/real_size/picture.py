"""The paper's two ablations as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pocketvlm.bench.speed.workload import image_name, prefill_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ON, OFF, CHUNKS = "#2b59c3", "#9aa4b2", "#2b59c3"


def draw_ablations(report: dict[str, Any], image: tuple[int, int], prompt: int) -> bytes:
    """Image seconds by tile batch with the pipeline off and on, prefill rate by chunk: PNG.

    ``report`` is the bench's, of a sweep over both.
    """
    from matplotlib.figure import Figure

    rows = {row["name"]: row for row in report["rows"]}
    workload = report["workload"]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    batches = workload["tile_batches"]
    for pipelined, colour in ((False, OFF), (True, ON)):
        names = [image_name(image, batch, pipelined=pipelined) for batch in batches]
        _line(left, batches, [rows[name] for name in names], 1, f"pipeline {'on' if pipelined else 'off'}", colour)
    left.set(title=f"image of {image[0]} x {image[1]}", xlabel="tiles at once", ylabel="s", xticks=batches)
    left.legend(frameon=False)
    chunks = workload["chunks"]
    found = [rows[prefill_name(prompt, chunk)] for chunk in chunks]
    _line(right, range(len(chunks)), found, prompt, "", CHUNKS)
    right.set(title=f"prefill of {prompt} tokens", xlabel="tokens at once", ylabel="tokens/s")
    right.set_xticks(range(len(chunks)), [str(chunk) for chunk in chunks])
    for axes in (left, right):
        axes.set_ylim(0, None)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def _line(
    axes: Axes, places: Sequence[int], rows: Sequence[dict[str, Any]], tokens: int, label: str, colour: str
) -> None:
    """Medians with the smallest and largest as bars; a rate of ``tokens`` where there are several."""
    values = [[tokens / seconds if tokens > 1 else seconds for seconds in row["seconds"]] for row in rows]
    medians = [tokens / row["median_s"] if tokens > 1 else row["median_s"] for row in rows]
    below = [middle - min(some) for middle, some in zip(medians, values, strict=True)]
    above = [max(some) - middle for middle, some in zip(medians, values, strict=True)]
    axes.errorbar(places, medians, yerr=[below, above], marker="o", color=colour, label=label, capsize=3)
