"""What a workload times of a bundle, case by case: names, token ids and sizes, the same on each target.

The host runs a case through the engine (``cases``), a phone's runner reads it from a plan (``targets/adb/plan``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.bench.report.schema import Phase
from pocketvlm.bench.speed.workload import (
    Workload,
    decode_name,
    first_token_name,
    image_name,
    lookup_name,
    pair_name,
    prefill_name,
)
from pocketvlm.errors import CapacityError
from pocketvlm.images.prepare import preprocessing_of
from pocketvlm.images.rules import RULES_OF_PARTS
from pocketvlm.runtime.vision import count_tokens, prepare

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Manifest
    from pocketvlm.bundle.vision import Vision

SEED = 0
#: A short question, as text behind the image.
QUESTION_TOKENS = 32
#: Why nothing of the paper's pipeline can be chosen.
WHOLE = "a picture goes through the tower as a whole: there are no batches, and nothing runs beside it"
#: Why nothing is guessed.
STATES = "a layer's state cannot take tokens back, so that no guess is made"
#: Sessions of all parts, with the bundle's files out of the page cache before, and in it.
LOADS = ("load cold", "load warm")


@dataclass(frozen=True)
class PlannedCase:
    """One thing to time. ``missing`` says why it cannot be.

    ``tokens`` of a repetition (of an image: what it becomes); ``token_ids`` are computed, the first ``prompt`` of them
    as a prompt in chunks, after ``depth`` that are in the KV cache before. ``chunk`` and ``batch``: the bundle's own
    where None. ``pipelined``: patches are embedded beside the encoder.
    """

    name: str
    phase: Phase
    tokens: int
    token_ids: tuple[int, ...] = ()
    prompt: int = 0
    depth: int = 0
    chunk: int | None = None
    batch: int | None = None
    pipelined: bool = True
    missing: str | None = None


def check_fits(manifest: Manifest, workload: Workload) -> None:
    """:raises CapacityError: the KV cache is too short for a prompt, or for a depth and what is generated after it"""
    if workload.tokens > manifest.kv_cache.length:
        raise CapacityError(
            f"the workload takes {workload.tokens} tokens, {manifest.model.name} has a KV length of "
            f"{manifest.kv_cache.length}: ask for less, or export it with --max-length"
        )


def planned_cases(manifest: Manifest, workload: Workload) -> Iterator[PlannedCase]:
    """All of a workload but loads, in order: image, prefill, decode, both together."""
    if workload.image is not None and manifest.vision is not None:
        yield from _image(manifest, manifest.vision, workload, workload.image)
    for tokens, chunk in product(workload.prompts, workload.chunks or (None,)):
        ids = random_ids(manifest, tokens)
        yield PlannedCase(prefill_name(tokens, chunk), "prefill", tokens, ids, prompt=tokens, chunk=chunk)
    new_tokens = workload.new_tokens
    new_ids = random_ids(manifest, new_tokens)
    for depth in workload.depths:
        yield PlannedCase(decode_name(new_tokens, depth), "decode", new_tokens, new_ids, depth=depth)
    for tokens, depth in product(workload.lookups, workload.depths):
        ids, missing = random_ids(manifest, tokens), STATES if manifest.kv_cache.has_states else None
        yield PlannedCase(lookup_name(tokens, depth), "lookup", tokens, ids, depth=depth, missing=missing)
    for prompt, generated in workload.pairs:
        ids = random_ids(manifest, prompt + generated)
        yield PlannedCase(pair_name(prompt, generated), "prefill and decode", len(ids), ids, prompt=prompt)


def _image(manifest: Manifest, vision: Vision, workload: Workload, size: tuple[int, int]) -> Iterator[PlannedCase]:
    """Each phase with its input ready, the whole as the runtime does it, and an image with a short question."""
    name, tokens = image_name(size), image_tokens(vision, size)
    yield PlannedCase(f"{name} preprocess", "preprocess", tokens)
    in_parts = None
    if vision.strategy in RULES_OF_PARTS:
        in_parts = f"pictures in parts ({vision.strategy}) are measured as a whole"
    yield PlannedCase(f"{name} patch embedding", "patch embedding", tokens, missing=in_parts)
    yield PlannedCase(f"{name} vision encoder", "vision encoder", tokens, missing=in_parts)
    for batch, pipelined in product(workload.tile_batches or (None,), workload.pipelines):
        whole = image_name(size, batch, pipelined=pipelined)
        missing = WHOLE if vision.patches is not None and (batch is not None or not pipelined) else None
        yield PlannedCase(whole, "image", tokens, batch=batch, pipelined=pipelined, missing=missing)
    total, length = tokens + QUESTION_TOKENS, manifest.kv_cache.length
    missing = None if total <= length else f"{total} tokens do not fit into the KV length of {length}"
    question = random_ids(manifest, QUESTION_TOKENS)
    yield PlannedCase(first_token_name(size), "first token", total, question, missing=missing)


def noise(size: tuple[int, int]) -> Image.Image:
    """A picture of random pixels, the same each time; ``size`` is width and height."""
    return Image.fromarray(np.random.default_rng(SEED).integers(0, 256, (*size[::-1], 3), np.uint8))


def image_tokens(vision: Vision, size: tuple[int, int]) -> int:
    """How many tokens a picture of this width and height becomes."""
    picture = prepare(Image.new("RGB", size), preprocessing_of(vision))
    if vision.patches is not None:
        return count_tokens(picture, vision)
    return len(picture.tiled.pixels) * vision.tokens_per_tile


def random_tokens(manifest: Manifest, count: int) -> npt.NDArray[np.int64]:
    """int64 [count], the same each time."""
    return np.random.default_rng(SEED).integers(0, manifest.model.vocab_size, count)


def random_ids(manifest: Manifest, count: int) -> tuple[int, ...]:
    """The same as numbers."""
    return tuple(random_tokens(manifest, count).tolist())
