"""Resident memory by phase, in a process that does nothing else: python -m pocketvlm.bench.footprint BUNDLE JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvlm.errors import PocketVlmError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pocketvlm.bench.workload import Workload

STATUS = Path("/proc/self/status")
#: Fields of /proc/PID/status, in kB there.
FIELDS = {"VmRSS": "resident", "RssAnon": "anonymous", "RssFile": "mapped", "VmHWM": "peak"}


@dataclass(frozen=True)
class Memory:
    """Bytes after a phase: resident, of that anonymous and mapped from files; ``peak`` is the largest so far."""

    phase: str
    resident: int
    anonymous: int
    mapped: int
    peak: int


def parse_status(phase: str, text: str) -> Memory:
    """What /proc/PID/status says."""
    found = dict.fromkeys(FIELDS.values(), 0)
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if name in FIELDS and len(words) == 2 and words[0].isdecimal():
            found[FIELDS[name]] = int(words[0]) * 1024
    return Memory(phase, **found)


def footprint(bundle: Path, workload: Workload) -> list[Memory]:
    """The phases of one image, one prompt and its answer in a process of their own; empty where there is no /proc.

    Raises:
        PocketVlmError: the process failed.
    """
    if not STATUS.is_file():
        return []
    command = [sys.executable, "-m", "pocketvlm.bench.footprint", str(bundle), json.dumps(asdict(workload))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PocketVlmError(f"the memory pass failed: {one_line(done.stderr.strip()[-500:] or done.returncode, 300)}")
    return [Memory(**json.loads(line)) for line in done.stdout.splitlines()]


def _phases(bundle: Path, workload: dict[str, Any]) -> Iterator[str]:
    import numpy as np

    from pocketvlm.bench.host import generate, prefill, random_tokens
    from pocketvlm.bundle import open_bundle
    from pocketvlm.runtime.engines import open_engine

    opened = open_bundle(bundle)
    manifest, vision = opened.manifest, opened.manifest.vision
    yield "bundle opened"
    engine = open_engine("onnx", opened, workload["threads"], workload["prepacked_cache"])
    yield "loaded"
    if vision is not None and workload["image"] is not None:
        tiles = np.zeros((vision.tile_batch, 3, vision.tile_size, vision.tile_size), np.float32)
        engine.encode(engine.patch_embed(tiles))
        yield "image encoded"
        del tiles
        engine.free_vision()
        yield "vision freed"
    cache, length = engine.new_cache(), max(workload["prompts"], default=0)
    prefill(engine, cache, random_tokens(manifest, length), manifest.prefill_chunk)
    yield f"prefill of {length}"
    new_tokens = min(workload["new_tokens"], manifest.kv_cache.length - length)
    generate(engine, cache, random_tokens(manifest, new_tokens), length)
    yield "decode"


def main(bundle: str, workload: str) -> None:
    """Print a line of JSON after each phase."""
    for phase in _phases(Path(bundle), json.loads(workload)):
        sys.stdout.write(json.dumps(asdict(parse_status(phase, STATUS.read_text()))) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
