"""The host as a target: each phase on its own, through the runtime's engine, as a conversation would run it."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from pocketvlm.bench.peers.turns import measure_in_turns, prepare_peers
from pocketvlm.bench.report.schema import Limits, Peer, Row
from pocketvlm.bench.speed.cases import cases, measure_cases
from pocketvlm.bench.speed.counts import count
from pocketvlm.bench.speed.footprint import footprint
from pocketvlm.bench.speed.limits import gemm_operations, read_bandwidth, with_limits
from pocketvlm.bench.speed.machine import afterwards, describe
from pocketvlm.bench.speed.planned import LOADS, WHOLE, check_fits
from pocketvlm.bench.speed.projector import projector_seconds
from pocketvlm.bench.targets import Measured
from pocketvlm.bundle.open import open_bundle
from pocketvlm.errors import PocketVlmError
from pocketvlm.runtime import load
from pocketvlm.runtime.engines import open_engine
from pocketvlm.runtime.engines.onnx import OnnxEngine, prepacked_entry

if TYPE_CHECKING:
    from pocketvlm.bench.speed.watch import Watch
    from pocketvlm.bench.speed.workload import Workload
    from pocketvlm.bench.targets.adb.options import DeviceOptions
    from pocketvlm.bundle.open import Bundle
    from pocketvlm.bundle.vision import Vision
    from pocketvlm.runtime.engines import Engine


def run(
    path: Path, workload: Workload, which: str, *, pinned: bool, watch: Watch, options: DeviceOptions | None = None
) -> Measured:
    """Counts and memory first, in sessions and a process of their own, then speed.

    :raises CapacityError: the workload does not fit
    """
    if options is not None:
        raise PocketVlmError("the target host takes no options of a phone")
    if which:
        raise PocketVlmError(f"the target host is this machine; {which!r} says nothing")
    bundle = open_bundle(path).for_engine("onnx")
    check_fits(bundle.manifest, workload)
    machine = describe(workload.threads, pinned=pinned)
    watch("counts")
    with load(path, threads=workload.threads) as vlm:
        counts = count(bundle, vlm)
    fill_cache(bundle, workload)
    watch("memory")
    memory = footprint(path, workload)
    rows, peers = measure(bundle, workload, watch)
    watch("the machine's limits")
    limits = Limits(read_bandwidth=read_bandwidth(workload.threads), gemm_operations=gemm_operations(workload.threads))
    rows = [with_limits(row, bundle.manifest, workload, limits) for row in rows]
    return Measured(afterwards(machine), tuple(rows), memory, limits, counts, peers)


def measure(bundle: Bundle, workload: Workload, watch: Watch = lambda name: None) -> tuple[list[Row], tuple[Peer, ...]]:
    """What peers need, then loads, before anything is mapped; then image, prefill and decode of one loaded engine.

    A prepacked cache is to be filled before (``fill_cache``).

    :raises CapacityError: the workload does not fit
    """
    manifest = bundle.manifest
    check_fits(manifest, workload)
    missing = prepare_peers(bundle, workload, watch)
    rows = measure_loads(bundle, workload, watch)
    peers: tuple[Peer, ...] = ()
    engine = open_engine("onnx", bundle, workload.threads, workload.prepacked_cache)
    try:
        with ThreadPoolExecutor(1) as ahead:
            own = cases(engine, bundle, workload, ahead)
            if workload.peers:
                together = measure_in_turns(bundle, own, workload, watch, missing)
                rows, peers = [*rows, *together.rows], together.peers
            else:
                rows += measure_cases(own, workload, watch)
        if workload.image is not None and manifest.vision is not None:
            rows += measure_projector(engine, manifest.vision, workload, watch)
    finally:
        engine.close()
    return rows, peers


def fill_cache(bundle: Bundle, workload: Workload) -> None:
    """Load once where there is a prepacked cache: writing it belongs to no measurement of loads or memory."""
    if workload.prepacked_cache is not None:
        open_engine("onnx", bundle, workload.threads, workload.prepacked_cache).close()


def measure_loads(bundle: Bundle, workload: Workload, watch: Watch) -> list[Row]:
    """Sessions of all graphs, with the files that are read out of the page cache before each, and in it."""
    files = _files(bundle, workload)
    rows = []
    for name, prepare_files in zip(LOADS, (_forget, _remember), strict=True):
        watch(name)
        seconds = []
        for _ in range(workload.repeats):
            prepare_files(files)
            start = time.perf_counter()
            engine = open_engine("onnx", bundle, workload.threads, workload.prepacked_cache)
            seconds.append(time.perf_counter() - start)
            engine.close()
        rows.append(Row(name=name, phase="load", seconds=tuple(seconds)))
    return rows


def measure_projector(engine: Engine, vision: Vision, workload: Workload, watch: Watch) -> list[Row]:
    """Downsampler and projector of one batch of tiles: a part of the vision encoder, by the engine's own profile."""
    if not isinstance(engine, OnnxEngine):
        return []
    name = f"{vision.tile_batch} tiles projector"
    watch(name)
    if vision.patches is not None:
        return [Row(name=name, phase="projector", missing=WHOLE)]
    seconds = projector_seconds(engine, vision, workload.warmups, workload.repeats)
    if not seconds:
        return [Row(name=name, phase="projector", missing="the graph does not name its operators: export it again")]
    tokens = vision.tile_batch * vision.tokens_per_tile
    return [Row(name=name, phase="projector", seconds=seconds, tokens=tokens)]


def _files(bundle: Bundle, workload: Workload) -> list[Path]:
    """What loading may read: the bundle's files and, where there is one, its entry in the prepacked cache."""
    files = [bundle.location] if bundle.archive is not None else sorted(bundle.location.iterdir())
    if workload.prepacked_cache is None:
        return files
    return [*files, *sorted(prepacked_entry(bundle, Path(workload.prepacked_cache)).glob("*"))]


def _forget(files: list[Path]) -> None:
    """Ask the system to drop the files from its page cache; pages that somebody has mapped stay."""
    for path in files:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _remember(files: list[Path]) -> None:
    """Read the files once."""
    block = bytearray(1 << 20)
    for path in files:
        with path.open("rb", buffering=0) as stream:
            while stream.readinto(block):
                pass
