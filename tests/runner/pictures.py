"""Held-out pictures with questions as the native programs take them, and what the Python runtime answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pocketvlm.layout import image_tokens
from pocketvlm.runtime import GenerationConfig
from pocketvlm.scenes import held_out

if TYPE_CHECKING:
    from pocketvlm.runtime.vlm import PocketVlm

NEW_TOKENS = 48


@dataclass(frozen=True)
class Asked:
    """A picture, the prompt around its tokens, and the answer's tokens."""

    rgba: npt.NDArray[np.uint8]
    """[height, width, 4]"""
    tiles: npt.NDArray[np.uint8]
    """[tiles, tile, tile, 3]"""
    prompt: list[int]
    before: list[int]
    behind: list[int]
    answer: list[int]


def asked(vlm: PocketVlm, count: int, seed: str = "runner") -> Iterator[Asked]:
    """So many pictures, each with one question and Python's greedy answer."""
    manifest = vlm.manifest
    assert manifest.vision is not None
    assert manifest.image_layout is not None
    assert manifest.tokens.image is not None
    for example in held_out(seed, count):
        picture = vlm.prepare(example.image)
        prompt = vlm.tokenize(example.question, [picture]).tolist()
        tokens, _ = image_tokens(
            picture.tiled.grid,
            picture.tiled.thumbnail_index,
            manifest.image_layout,
            placeholder=manifest.tokens.image,
            tokens_per_tile=manifest.vision.tokens_per_tile,
        )
        at = next(i for i in range(len(prompt)) if prompt[i : i + len(tokens)] == tokens.tolist())
        config = GenerationConfig(max_new_tokens=NEW_TOKENS)
        answer = [piece.token_id for piece in vlm.stream(example.question, [picture], config)]
        rgba = np.asarray(example.image.convert("RGBA"))
        behind = prompt[at + len(tokens) :]
        yield Asked(rgba, picture.tiled.pixels, prompt, prompt[:at], behind, answer)
