"""The host as a target: each phase on its own, through the runtime's engine, as a conversation would run it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.bench.workload import Phase, Row, Workload, decode_name, image_name, prefill_name
from pocketvlm.errors import CapacityError
from pocketvlm.images import normalize, preprocessing_of
from pocketvlm.runtime.engines import open_engine
from pocketvlm.runtime.engines.onnx import prepacked_entry
from pocketvlm.runtime.vision import encode, prepare

if TYPE_CHECKING:
    from pocketvlm.bundle import Bundle
    from pocketvlm.manifest import Manifest, Vision
    from pocketvlm.runtime.engines import Cache, Engine

#: Said before each row: its name.
Watch = Callable[[str], None]
SEED = 0


def check_fits(manifest: Manifest, workload: Workload) -> None:
    """
    Raises:
        CapacityError: the KV cache is too short for a prompt, or for a depth and what is generated after it.
    """
    if workload.tokens > manifest.kv_cache.length:
        raise CapacityError(
            f"the workload takes {workload.tokens} tokens, {manifest.model.name} has a KV length of "
            f"{manifest.kv_cache.length}: ask for less, or export it with --max-length"
        )


def measure(bundle: Bundle, workload: Workload, watch: Watch = lambda name: None) -> list[Row]:
    """Loads first, before anything is mapped; then image, prefill and decode of one loaded engine.

    A prepacked cache is to be filled before (``fill_cache``).

    Raises:
        CapacityError: the workload does not fit.
    """
    check_fits(bundle.manifest, workload)
    rows = measure_loads(bundle, workload, watch)
    engine = open_engine("onnx", bundle, workload.threads, workload.prepacked_cache)
    try:
        if workload.image is not None and bundle.manifest.vision is not None:
            rows += measure_image(engine, bundle.manifest.vision, workload, watch)
        rows += measure_prefill(engine, bundle.manifest, workload, watch)
        rows += measure_decode(engine, bundle.manifest, workload, watch)
    finally:
        engine.close()
    return rows


def fill_cache(bundle: Bundle, workload: Workload) -> None:
    """Load once where there is a prepacked cache: writing it belongs to no measurement of loads or memory."""
    if workload.prepacked_cache is not None:
        open_engine("onnx", bundle, workload.threads, workload.prepacked_cache).close()


def measure_loads(bundle: Bundle, workload: Workload, watch: Watch) -> list[Row]:
    """Sessions of all graphs, with the files that are read out of the page cache before each, and in it."""
    files = _files(bundle, workload)
    rows = []
    for name, prepare_files in (("load cold", _forget), ("load warm", _remember)):
        watch(name)
        seconds = []
        for _ in range(workload.repeats):
            prepare_files(files)
            start = time.perf_counter()
            engine = open_engine("onnx", bundle, workload.threads, workload.prepacked_cache)
            seconds.append(time.perf_counter() - start)
            engine.close()
        rows.append(Row(name, "load", tuple(seconds)))
    return rows


def measure_image(engine: Engine, vision: Vision, workload: Workload, watch: Watch) -> list[Row]:
    """Preprocessing, patch embedding and encoder after one another; then the whole as the runtime does it."""
    assert workload.image is not None
    name, preprocessing = image_name(workload.image), preprocessing_of(vision)
    noise = np.random.default_rng(SEED).integers(0, 256, (*workload.image[::-1], 3), np.uint8)
    image = Image.fromarray(noise)
    tokens = len(prepare(image, preprocessing).tiled.pixels) * vision.tokens_per_tile
    watch(f"{name} by phases")
    phases = [_phases(engine, image, vision) for _ in range(workload.warmups + workload.repeats)]
    columns = zip(*phases[workload.warmups :], strict=True)
    kinds: tuple[Phase, ...] = ("preprocess", "patch embedding", "vision encoder")
    rows = [Row(f"{name} {kind}", kind, seconds, tokens) for kind, seconds in zip(kinds, columns, strict=True)]
    with ThreadPoolExecutor(1) as thread:
        for batch, pipelined in product(workload.tile_batches or (None,), workload.pipelines):
            ahead = thread if pipelined else None

            def whole(batch: int = batch or vision.tile_batch, ahead: Executor | None = ahead) -> None:
                encode(engine, prepare(image, preprocessing), preprocessing, batch, ahead)

            row_name = image_name(workload.image, batch, pipelined=pipelined)
            rows.append(Row(row_name, "image", _repeat(whole, row_name, workload, watch), tokens))
    return rows


def measure_prefill(engine: Engine, manifest: Manifest, workload: Workload, watch: Watch) -> list[Row]:
    """Random tokens into an empty cache, in chunks."""
    rows = []
    cache = engine.new_cache()
    for tokens, chunk in product(workload.prompts, workload.chunks or (None,)):
        run = partial(prefill, engine, cache, random_tokens(manifest, tokens), chunk or manifest.prefill_chunk)
        name = prefill_name(tokens, chunk)
        rows.append(Row(name, "prefill", _repeat(run, name, workload, watch), tokens))
    return rows


def measure_decode(engine: Engine, manifest: Manifest, workload: Workload, watch: Watch) -> list[Row]:
    """Random tokens one by one, each depth once filled with random tokens; embedding included, sampling not."""
    rows = []
    cache, ids = engine.new_cache(), random_tokens(manifest, workload.new_tokens)
    for depth in workload.depths:
        prefill(engine, cache, random_tokens(manifest, depth), manifest.prefill_chunk)
        name = decode_name(workload.new_tokens, depth)
        seconds = _repeat(partial(generate, engine, cache, ids, depth), name, workload, watch)
        rows.append(Row(name, "decode", seconds, workload.new_tokens))
    return rows


def random_tokens(manifest: Manifest, count: int) -> npt.NDArray[np.int64]:
    """int64 [count], the same each time."""
    return np.random.default_rng(SEED).integers(0, manifest.model.vocab_size, count)


def prefill(engine: Engine, cache: Cache, ids: npt.NDArray[np.int64], chunk: int) -> None:
    """Run the tokens from position 0 on."""
    cache.position = 0
    for first in range(0, len(ids), chunk):
        engine.step(engine.embed(ids[first : first + chunk]), cache, keep=1)


def generate(engine: Engine, cache: Cache, ids: npt.NDArray[np.int64], depth: int) -> None:
    """Run the tokens one by one after the first ``depth`` in the cache."""
    cache.position = depth
    for token in ids:
        engine.step(engine.embed(token[None]), cache, keep=1)


def _repeat(run: Callable[[], None], name: str, workload: Workload, watch: Watch) -> tuple[float, ...]:
    """Seconds of each repetition, those of the warm-ups left out."""
    watch(name)
    seconds = []
    for _ in range(workload.warmups + workload.repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return tuple(seconds[workload.warmups :])


def _phases(engine: Engine, image: Image.Image, vision: Vision) -> tuple[float, float, float]:
    """Seconds of tiles and normalization, of patch embedding and of the encoder."""
    preprocessing = preprocessing_of(vision)
    started = time.perf_counter()
    pixels = prepare(image, preprocessing).tiled.pixels
    starts = range(0, len(pixels), vision.tile_batch)
    tiles = [normalize(pixels[first : first + vision.tile_batch], preprocessing) for first in starts]
    prepared = time.perf_counter()
    patches = [engine.patch_embed(part) for part in tiles]
    embedded = time.perf_counter()
    for part in patches:
        engine.encode(part)
    return prepared - started, embedded - prepared, time.perf_counter() - embedded


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
