"""Resident memory by phase, in a process of its own: python -m pocketvlm.bench.speed.footprint BUNDLE JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvlm.bench.report.schema import Memory, MemorySample
from pocketvlm.errors import PocketVlmError, one_line
from pocketvlm.machine.module import module_command

if TYPE_CHECKING:
    from pocketvlm.bench.speed.workload import Workload

STATUS = Path("/proc/self/status")
#: Fields of /proc/PID/status, in kB there.
FIELDS = {"VmRSS": "resident", "RssAnon": "anonymous", "RssFile": "mapped", "VmHWM": "peak"}
#: Seconds between two looks at the resident set, and how many are kept.
INTERVAL, MOST_SAMPLES = 0.02, 400


@dataclass(frozen=True)
class Footprint:
    """What a process held after each phase and over time."""

    phases: tuple[Memory, ...] = ()
    over_time: tuple[MemorySample, ...] = ()


def parse_status(phase: str, text: str) -> Memory:
    """What /proc/PID/status says."""
    found = dict.fromkeys(FIELDS.values(), 0)
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if name in FIELDS and len(words) == 2 and words[0].isdecimal():
            found[FIELDS[name]] = int(words[0]) * 1024
    return Memory(phase=phase, **found)


def thin(samples: Sequence[tuple[float, int]], most: int = MOST_SAMPLES) -> list[tuple[float, int]]:
    """At most ``most`` (seconds, bytes), of neighbours the largest: a peak stays."""
    step = max(1, -(-len(samples) // most))
    return [max(samples[first : first + step], key=lambda one: one[1]) for first in range(0, len(samples), step)]


def footprint(bundle: Path, workload: Workload) -> Footprint:
    """One image, one prompt and its answer in a process of their own; empty where there is no /proc.

    :raises PocketVlmError: the process failed
    """
    if not STATUS.is_file():
        return Footprint()
    work = json.dumps(asdict(workload))
    command, environment = module_command("pocketvlm.bench.speed.footprint", str(bundle), work)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise PocketVlmError(f"the memory pass failed: {one_line(done.stderr.strip()[-500:] or done.returncode, 300)}")
    *phases, samples = (json.loads(line) for line in done.stdout.splitlines())
    over_time = (MemorySample(seconds=seconds, resident=resident) for seconds, resident in samples)
    return Footprint(tuple(Memory(**phase) for phase in phases), tuple(over_time))


def _phases(bundle: Path, workload: dict[str, Any]) -> Iterator[str]:
    import numpy as np

    from pocketvlm.bench.speed.cases import generate, prefill
    from pocketvlm.bench.speed.planned import noise, random_tokens
    from pocketvlm.bundle.open import open_bundle
    from pocketvlm.images.prepare import preprocessing_of
    from pocketvlm.runtime.engines import open_engine
    from pocketvlm.runtime.native import NativeVision
    from pocketvlm.runtime.vision import encode, prepare

    opened = open_bundle(bundle).for_engine("onnx")
    manifest, vision = opened.manifest, opened.manifest.vision
    yield "bundle opened"
    engine = open_engine("onnx", opened, workload["threads"], workload["prepacked_cache"])
    yield "loaded"
    if vision is not None and workload["image"] is not None:
        if vision.patches is None:
            engine.encode(engine.patch_embed(np.zeros((vision.tile_batch, 3, *[vision.tile_size] * 2), np.float32)))
        else:  # which goes through as a whole
            look = preprocessing_of(vision)
            picture = prepare(noise(workload["image"]), look)
            encode(engine, picture, look, vision.tile_batch, native=NativeVision.of(opened))
            del picture
        yield "image encoded"
        engine.free_vision()
        yield "vision freed"
    cache, length = engine.new_cache(), max(workload["prompts"], default=0)
    prefill(engine, cache, random_tokens(manifest, length), manifest.prefill_chunk)
    yield f"prefill of {length}"
    new_tokens = min(workload["new_tokens"], manifest.kv_cache.length - length)
    generate(engine, cache, random_tokens(manifest, new_tokens), length)
    yield "decode"


def _watch(samples: list[tuple[float, int]], ended: threading.Event) -> None:
    """Note the resident set until the event comes."""
    started = time.perf_counter()
    while True:
        samples.append((time.perf_counter() - started, parse_status("now", STATUS.read_text()).resident))
        if ended.wait(INTERVAL):
            return


def main(bundle: str, workload: str) -> None:
    """Print a line of JSON after each phase, then one of [seconds, resident bytes] over time."""
    samples: list[tuple[float, int]] = []
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(samples, ended))
    watcher.start()
    try:
        for phase in _phases(Path(bundle), json.loads(workload)):
            sys.stdout.write(parse_status(phase, STATUS.read_text()).model_dump_json() + "\n")
    finally:
        ended.set()
        watcher.join()
    sys.stdout.write(json.dumps(thin(samples)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
