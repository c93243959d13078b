"""Bundles for these tests: exported tiny ones with random weights, and a hand-made manifest without graphs."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pocketvlm.bundle.caches import KvCacheSpec
from pocketvlm.bundle.chat import ChatLayout, Role
from pocketvlm.bundle.manifest import Manifest, MinimumRuntime, Model, Tokens
from pocketvlm.bundle.record import Fidelity, RecipeRecord, TextFidelity
from pocketvlm.bundle.vision import ImageLayout, Vision
from pocketvlm.models.bluelm_v import BluelmV
from tests.support.checkpoints import tiny_config, write_checkpoint

#: KV length of the exported bundles: three tiles with their thumbnail and some text
KV_LENGTH = 192
#: The largest file of the bundle that is split.
SPLIT_BYTES = 100_000


@dataclass(frozen=True)
class Exported:
    """A bundle, and the PyTorch model whose weights it was exported from."""

    path: Path
    model: BluelmV


@functools.cache
def exported(recipe: str = "fp32", family: str = "qwen2", *, vision: bool = True) -> Exported:
    """A bundle with random weights, exported once a test run."""
    from pocketvlm.export import export_bundle

    directory = _directory()
    checkpoint = directory / f"{family}-{vision}"
    # untied: with a tied head a random model says one token for ever
    model = write_checkpoint(checkpoint, tiny_config(family, vision=vision, tie_word_embeddings=False))
    path = directory / f"{family}-{vision}-{recipe}"
    export_bundle(checkpoint, path, recipe=recipe, backends=["onnx"], max_length=KV_LENGTH)
    return Exported(path, model)


@functools.cache
def _directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="pocketvlm-tests-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Coloured noise in blocks, so that tiles differ."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.NEAREST)


PERFECT = TextFidelity(
    tokens=1,
    kl_mean=0.0,
    kl_median=0.0,
    kl_p999=0.0,
    kl_max=0.0,
    top1_agreement=1.0,
    perplexity_ratio=1.0,
    relative_error_by_layer=(),
)


def manifest(**changes: Any) -> Manifest:
    """A manifest of a model that exists only on paper; ``changes`` replace its sections."""
    rows = tuple(tuple((100 + 10 * row + column,) for column in range(3)) for row in range(3))
    sections: dict[str, Any] = {
        "format_version": 1,
        "minimum_runtime": MinimumRuntime(pocketvlm="0.1.0"),
        "model": Model(name="paper", family="bluelm_v", revision="0", vocab_size=512, hidden_size=8, layers=1),
        "vision": Vision(
            tile_size=16,
            strategy="relaxed",
            candidates=((3, 3), (3, 2), (3, 1), (2, 3), (2, 2), (2, 1), (1, 3), (1, 2), (1, 1)),
            alpha=0.1,
            thumbnail="first",
            thumbnail_of_single_tile=True,
            resize_filter="bicubic",
            pad_color=(0, 0, 0),
            rescale=1 / 255,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            tile_batch=4,
            patches_per_tile=4,
            vision_hidden_size=8,
            downsample_ratio=2,
            tokens_per_tile=2,
        ),
        "image_layout": ImageLayout(
            image_start=(90, 91), thumbnail=(92,), tile=rows, row_end=(93,), image_end=(94, 95)
        ),
        "tokens": Tokens(stop=(3,), image=4),
        "tokenizer": "tokenizer.json",
        "chat": ChatLayout(
            start="<s>",
            roles={
                "system": Role(prefix="<|user|>system:", suffix="<|end|>", strip=False),
                "user": Role(prefix="<|user|>", suffix="<|end|>", strip=False),
                "assistant": Role(prefix="<|assistant|>", suffix="<|end|>", strip=False),
            },
            default_system=None,
            generation_prefix="<|assistant|>",
        ),
        "kv_cache": KvCacheSpec(length=64, dtype="float32", heads=1, head_dim=8),
        "prefill_chunk": 16,
        "engines": {},
        "recipe": RecipeRecord(name="none", tensors={}),
        "fidelity": Fidelity(
            lowering_relative_error=0.0,
            vision=None,
            text=PERFECT,
        ),
        "files": {},
        **changes,
    }
    return Manifest.model_construct(**sections)
