"""What is timed of a loaded engine, each phase as a function that can be called again and again.

The host's measurement repeats one case after the other; an interleaved one takes turns with another bundle's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.bench.schema import Phase, Row
from pocketvlm.bench.workload import (
    Workload,
    decode_name,
    first_token_name,
    image_name,
    pair_name,
    prefill_name,
)
from pocketvlm.errors import CapacityError
from pocketvlm.images import normalize, preprocessing_of
from pocketvlm.runtime.vision import encode, prepare

if TYPE_CHECKING:
    from pocketvlm.manifest import Manifest, Vision
    from pocketvlm.runtime.engines import Cache, Engine

SEED = 0
#: A short question, as text behind the image.
QUESTION_TOKENS = 32


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Case:
    """One thing to time: ``run`` after one call of ``set_up``. ``missing`` says why it cannot run.

    ``depth``: tokens that are in the KV cache before.
    """

    name: str
    phase: Phase
    tokens: int
    run: Callable[[], object]
    set_up: Callable[[], object] = _nothing
    missing: str | None = None
    depth: int = 0


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


def cases(engine: Engine, manifest: Manifest, workload: Workload, ahead: Executor) -> Iterator[Case]:
    """All of a workload, in order: image, prefill, decode, both together. ``ahead`` embeds patches beside the encoder.

    The KV cache is shared: a case is run to its end before the next is set up.
    """
    cache = engine.new_cache()
    if workload.image is not None and manifest.vision is not None:
        yield from _image_phases(engine, manifest.vision, workload.image)
        yield from _images(engine, manifest.vision, workload, workload.image, ahead)
        yield _first_token(engine, cache, manifest, workload.image, ahead)
    for tokens, chunk in product(workload.prompts, workload.chunks or (None,)):
        run = partial(prefill, engine, cache, random_tokens(manifest, tokens), chunk or manifest.prefill_chunk)
        yield Case(prefill_name(tokens, chunk), "prefill", tokens, run)
    new_ids = random_tokens(manifest, workload.new_tokens)
    for depth in workload.depths:
        fill = partial(prefill, engine, cache, random_tokens(manifest, depth), manifest.prefill_chunk)
        run = partial(generate, engine, cache, new_ids, depth)
        yield Case(decode_name(workload.new_tokens, depth), "decode", workload.new_tokens, run, fill, depth=depth)
    for prompt, new_tokens in workload.pairs:
        yield _pair(engine, cache, manifest, prompt, new_tokens)


def measure_cases(every: Iterable[Case], workload: Workload, watch: Callable[[str], None]) -> Iterator[Row]:
    """Each case after its warm-ups."""
    for case in every:
        if case.missing is not None:
            yield Row(name=case.name, phase=case.phase, missing=case.missing)
            continue
        watch(case.name)
        case.set_up()
        seconds = []
        for _ in range(workload.warmups + workload.repeats):
            start = time.perf_counter()
            case.run()
            seconds.append(time.perf_counter() - start)
        measured = tuple(seconds[workload.warmups :])
        yield Row(name=case.name, phase=case.phase, seconds=measured, tokens=case.tokens)


def _image_phases(engine: Engine, vision: Vision, size: tuple[int, int]) -> Iterator[Case]:
    """Preprocessing, patch embedding and encoder, each with its input ready."""
    name, image, preprocessing = image_name(size), noise(size), preprocessing_of(vision)
    tiles: list[npt.NDArray[np.float32]] = []
    patches: list[npt.NDArray[np.float32]] = []

    def preprocess() -> None:
        pixels = prepare(image, preprocessing).tiled.pixels
        starts = range(0, len(pixels), vision.tile_batch)
        tiles[:] = [normalize(pixels[first : first + vision.tile_batch], preprocessing) for first in starts]

    def embed_patches() -> None:
        patches[:] = [engine.patch_embed(part) for part in tiles]

    def prepare_patches() -> None:
        preprocess()
        embed_patches()

    def encode_patches() -> None:
        for part in patches:
            engine.encode(part)

    tokens = image_tokens(vision, size)
    yield Case(f"{name} preprocess", "preprocess", tokens, preprocess)
    yield Case(f"{name} patch embedding", "patch embedding", tokens, embed_patches, preprocess)
    yield Case(f"{name} vision encoder", "vision encoder", tokens, encode_patches, prepare_patches)


def _images(
    engine: Engine, vision: Vision, workload: Workload, size: tuple[int, int], ahead: Executor
) -> Iterator[Case]:
    """The whole as the runtime does it, from pixels to image tokens."""
    image, preprocessing = noise(size), preprocessing_of(vision)
    for batch, pipelined in product(workload.tile_batches or (None,), workload.pipelines):

        def run(batch: int = batch or vision.tile_batch, ahead: Executor | None = ahead if pipelined else None) -> None:
            encode(engine, prepare(image, preprocessing), preprocessing, batch, ahead)

        yield Case(image_name(size, batch, pipelined=pipelined), "image", image_tokens(vision, size), run)


def _first_token(engine: Engine, cache: Cache, manifest: Manifest, size: tuple[int, int], ahead: Executor) -> Case:
    """An image with a short question, from pixels to the likeliest first token."""
    vision = manifest.vision
    assert vision is not None
    image, preprocessing = noise(size), preprocessing_of(vision)
    name, tokens, chunk = first_token_name(size), image_tokens(vision, size) + QUESTION_TOKENS, manifest.prefill_chunk
    question = random_tokens(manifest, QUESTION_TOKENS)

    def run() -> None:
        encoded = encode(engine, prepare(image, preprocessing), preprocessing, vision.tile_batch, ahead)
        embeddings = np.concatenate([encoded, engine.embed(question)])
        cache.position = 0
        for first in range(0, tokens, chunk):
            logits = engine.step(embeddings[first : first + chunk], cache, keep=1)
        logits.argmax()

    fits = tokens <= manifest.kv_cache.length
    missing = None if fits else f"{tokens} tokens do not fit into the KV length of {manifest.kv_cache.length}"
    return Case(name, "first token", tokens, run, missing=missing)


def _pair(engine: Engine, cache: Cache, manifest: Manifest, prompt: int, new_tokens: int) -> Case:
    """A prompt and what is generated after it, as one."""
    ids = random_tokens(manifest, prompt + new_tokens)

    def run() -> None:
        prefill(engine, cache, ids[:prompt], manifest.prefill_chunk)
        generate(engine, cache, ids[prompt:], prompt)

    return Case(pair_name(prompt, new_tokens), "prefill and decode", len(ids), run)


def noise(size: tuple[int, int]) -> Image.Image:
    """A picture of random pixels, the same each time; ``size`` is width and height."""
    return Image.fromarray(np.random.default_rng(SEED).integers(0, 256, (*size[::-1], 3), np.uint8))


def image_tokens(vision: Vision, size: tuple[int, int]) -> int:
    """How many tokens a picture of this width and height becomes."""
    return len(prepare(Image.new("RGB", size), preprocessing_of(vision)).tiled.pixels) * vision.tokens_per_tile


def random_tokens(manifest: Manifest, count: int) -> npt.NDArray[np.int64]:
    """int64 [count], the same each time."""
    return np.random.default_rng(SEED).integers(0, manifest.model.vocab_size, count)


def prefill(engine: Engine, cache: Cache, ids: npt.NDArray[np.int64], chunk: int) -> None:
    """Run random tokens from position 0 on, in chunks."""
    cache.position = 0
    for first in range(0, len(ids), chunk):
        engine.step(engine.embed(ids[first : first + chunk]), cache, keep=1)


def generate(engine: Engine, cache: Cache, ids: npt.NDArray[np.int64], depth: int) -> None:
    """Run tokens one by one after the first ``depth`` in the cache; embedding included, sampling not."""
    cache.position = depth
    for token in ids:
        engine.step(engine.embed(token[None]), cache, keep=1)
