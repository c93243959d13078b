"""The host as a target: each phase on its own, through the runtime's engine, as a conversation would run it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.bench.workload import Row, Workload, decode_name, image_name, prefill_name
from pocketvlm.errors import CapacityError
from pocketvlm.images import normalize, preprocessing_of
from pocketvlm.runtime.engines import open_engine
from pocketvlm.runtime.vision import Picture, prepare

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

    Raises:
        CapacityError: the workload does not fit.
    """
    check_fits(bundle.manifest, workload)
    rows = measure_loads(bundle, workload, watch)
    engine = open_engine("onnx", bundle, workload.threads)
    try:
        if workload.image is not None and bundle.manifest.vision is not None:
            rows += measure_image(engine, bundle.manifest.vision, workload, watch)
        rows += measure_prefill(engine, bundle.manifest, workload, watch)
        rows += measure_decode(engine, bundle.manifest, workload, watch)
    finally:
        engine.close()
    return rows


def measure_loads(bundle: Bundle, workload: Workload, watch: Watch) -> list[Row]:
    """Sessions of all graphs, with the bundle's files out of the page cache before each, and in it."""
    files = [Path(bundle.location)] if bundle.archive is not None else sorted(Path(bundle.location).iterdir())
    rows = []
    for name, prepare_files in (("load cold", _forget), ("load warm", _remember)):
        watch(name)
        seconds = []
        for _ in range(workload.repeats):
            prepare_files(files)
            start = time.perf_counter()
            engine = open_engine("onnx", bundle, workload.threads)
            seconds.append(time.perf_counter() - start)
            engine.close()
        rows.append(Row(name, "load", tuple(seconds)))
    return rows


def measure_image(engine: Engine, vision: Vision, workload: Workload, watch: Watch) -> list[Row]:
    """An image into tiles; then tile batch by tile batch, patch embedding and encoder timed apart."""
    assert workload.image is not None
    name, preprocessing = image_name(workload.image), preprocessing_of(vision)
    noise = np.random.default_rng(SEED).integers(0, 256, (*workload.image[::-1], 3), np.uint8)
    image = Image.fromarray(noise)
    watch(name)
    times: list[tuple[float, float, float]] = []
    tokens = 0
    for _ in range(workload.warmups + workload.repeats):
        start = time.perf_counter()
        picture = prepare(image, preprocessing)
        batches = [normalize(tiles, preprocessing) for tiles in _batches(picture, vision.tile_batch)]
        times.append((time.perf_counter() - start, *_encode(engine, batches)))
        tokens = len(picture.tiled.pixels) * vision.tokens_per_tile
    preprocessed, embedded, encoded = zip(*times[workload.warmups :], strict=True)
    whole = tuple(sum(parts) for parts in times[workload.warmups :])
    return [
        Row(f"{name} preprocess", "preprocess", preprocessed, tokens),
        Row(f"{name} patch embedding", "patch embedding", embedded, tokens),
        Row(f"{name} vision encoder", "vision encoder", encoded, tokens),
        Row(name, "image", whole, tokens),
    ]


def measure_prefill(engine: Engine, manifest: Manifest, workload: Workload, watch: Watch) -> list[Row]:
    """Random tokens into an empty cache, in the bundle's chunks."""
    rows = []
    for tokens in workload.prompts:
        watch(prefill_name(tokens))
        cache, ids = engine.new_cache(), random_tokens(manifest, tokens)
        seconds = [
            _prefill(engine, cache, ids, manifest.prefill_chunk) for _ in range(workload.warmups + workload.repeats)
        ]
        rows.append(Row(prefill_name(tokens), "prefill", tuple(seconds[workload.warmups :]), tokens))
    return rows


def measure_decode(engine: Engine, manifest: Manifest, workload: Workload, watch: Watch) -> list[Row]:
    """Random tokens one by one, each depth once filled with random tokens; embedding included, sampling not."""
    rows = []
    cache = engine.new_cache()
    for depth in workload.depths:
        watch(decode_name(workload.new_tokens, depth))
        _prefill(engine, cache, random_tokens(manifest, depth), manifest.prefill_chunk)
        ids = random_tokens(manifest, workload.new_tokens)
        seconds = []
        for _ in range(workload.warmups + workload.repeats):
            cache.position = depth
            start = time.perf_counter()
            for token in ids:
                engine.step(engine.embed(token[None]), cache, keep=1)
            seconds.append(time.perf_counter() - start)
        name = decode_name(workload.new_tokens, depth)
        rows.append(Row(name, "decode", tuple(seconds[workload.warmups :]), workload.new_tokens))
    return rows


def random_tokens(manifest: Manifest, count: int) -> npt.NDArray[np.int64]:
    """int64 [count], the same each time."""
    return np.random.default_rng(SEED).integers(0, manifest.model.vocab_size, count)


def _prefill(engine: Engine, cache: Cache, ids: npt.NDArray[np.int64], chunk: int) -> float:
    """Seconds that the tokens take from position 0 on."""
    cache.position = 0
    start = time.perf_counter()
    for first in range(0, len(ids), chunk):
        engine.step(engine.embed(ids[first : first + chunk]), cache, keep=1)
    return time.perf_counter() - start


def _batches(picture: Picture, size: int) -> Iterator[npt.NDArray[np.uint8]]:
    pixels = picture.tiled.pixels
    for first in range(0, len(pixels), size):
        yield pixels[first : first + size]


def _encode(engine: Engine, batches: list[npt.NDArray[np.float32]]) -> tuple[float, float]:
    """Seconds of patch embedding and of the encoder."""
    embedded = encoded = 0.0
    for tiles in batches:
        with _timed() as first:
            patches = engine.patch_embed(tiles)
        with _timed() as second:
            engine.encode(patches)
        embedded, encoded = embedded + first[0], encoded + second[0]
    return embedded, encoded


@contextmanager
def _timed() -> Iterator[list[float]]:
    seconds: list[float] = []
    start = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - start)


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
