"""Conversations as token ids and pixels; the one that every export is checked with: a test card and questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tokenizers import Tokenizer
from torch import Tensor

from pocketvlm.bundle.chat import ChatLayout
from pocketvlm.bundle.tokenizer import library_errors
from pocketvlm.bundle.vision import ImageLayout
from pocketvlm.errors import CheckpointError
from pocketvlm.images.layout import image_tokens
from pocketvlm.images.positions import positions_of
from pocketvlm.images.prepare import Preprocessing, TiledImage, cut_tiles, normalize
from pocketvlm.images.rules import NATIVE_RULES
from pocketvlm.images.spans import Spans, last_seen_of
from pocketvlm.images.tiling import Grid

#: Questions with their answers.
Turns = tuple[tuple[str, str], ...]

CARD_LINES = ("AB42", "7K9X", "H53T")
#: Along a side of the card in native resolution, where pictures have room for them; an odd number, so that windows of
#: 2 or 4 tokens a side are not all whole.
CARD_TOKENS = 9
#: Enough plain text for at least 32 tokens of any tokenizer.
TURNS: Turns = (
    ("Read all lines.", "\n".join(CARD_LINES)),
    ("What is on line 2?", CARD_LINES[1]),
    ("How many lines are there?", str(len(CARD_LINES))),
)
#: Of a model that takes text only, no longer than those: what it may be asked, with answers that it could give. The
#: card's letters it cannot know, and what rounding does to a guess says nothing of its answers.
TEXT_TURNS: Turns = (
    ("What is the capital of France?", "Paris."),
    ("What is 7 plus 5?", "12."),
    ("Name a fruit.", "Apple."),
)


@dataclass(frozen=True)
class ImageSettings:
    """What turns an image into pixels and placeholders."""

    preprocessing: Preprocessing
    layout: ImageLayout
    placeholder: int
    tokens_per_tile: int
    queries: int | None = None
    """tokens that a resampler makes of each part of a picture"""
    has_axes: bool = False
    """whether a picture's tokens have rows and columns in the decoder"""
    spans: Spans = "none"
    """which tokens see what is behind them"""

    @property
    def is_native(self) -> bool:
        """Whether pictures go through the tower as a whole."""
        return self.preprocessing.strategy in NATIVE_RULES


@dataclass(frozen=True)
class Sample:
    """pixels: float32 [tiles, 3, size, size], or None without an image; token_ids: int64 [tokens].

    ``image_token`` stands for each image token; scores are taken over the text, from ``first_scored`` on. ``grids``: of
    pictures of native resolution, or each of their parts, (across, down) in tokens; ``has_axes``: these are positions.
    ``spans``: which tokens see what is behind them; where a prompt's do, ``first_scored`` is the last of these.
    """

    pixels: Tensor | None
    token_ids: Tensor
    image_token: int | None
    first_scored: int
    grids: tuple[Grid, ...] | None = None
    has_axes: bool = True
    spans: Spans = "none"

    @cached_property
    def positions(self) -> Tensor:
        """Where the tokens stand: int64 [tokens], or [3, tokens] where pictures have rows and columns."""
        if self.grids is None or self.image_token is None or not self.has_axes:
            return torch.arange(len(self.token_ids))
        counts = [across * down for across, down in self.grids]
        index = np.full(len(self.token_ids), -1, np.int64)
        index[torch.eq(self.token_ids, self.image_token).numpy()] = np.repeat(np.arange(len(counts)), counts)
        return torch.from_numpy(positions_of(index, self.grids))

    def last_seen(self, count: int | None = None) -> Tensor | None:
        """int64 [tokens]: what each of the first ``count`` tokens may see of them; None where that is its own place."""
        if self.spans == "none":
            return None
        ids = self.token_ids[:count]
        is_image = torch.zeros_like(ids) if self.image_token is None else torch.eq(ids, self.image_token)
        return torch.from_numpy(last_seen_of(is_image.bool().numpy(), self.spans, self.first_scored + 1))

    @property
    def scored(self) -> int:
        return len(self.token_ids) - self.first_scored


def draw_test_card(size: int) -> Image.Image:
    """A square picture of three lines of text."""
    image = Image.new("RGB", (size, size), (236, 234, 222))
    canvas = ImageDraw.Draw(image)
    font = ImageFont.load_default(size * 0.3)
    for index, line in enumerate(CARD_LINES):
        canvas.text((size * 0.06, size * (0.2 + 0.3 * index)), line, fill=(24, 32, 64), font=font, anchor="lm")
    return image


def test_card(preprocessing: Preprocessing) -> TiledImage:
    """The test card as one tile, the whole of it, whatever grids the model has; of native resolution as it is."""
    tile, most = preprocessing.tile_size, preprocessing.max_pixels
    if preprocessing.strategy in NATIVE_RULES:
        side = CARD_TOKENS if most is None else min(CARD_TOKENS, math.isqrt(most) // tile)
        return cut_tiles(draw_test_card((side - 1 + side % 2) * tile), preprocessing)
    tiled = cut_tiles(draw_test_card(tile), preprocessing)
    index = tiled.thumbnail_index or 0
    return TiledImage((1, 1), tiled.pixels[index : index + 1], None)


def make_sample(
    tokenizer: Tokenizer,
    chat: ChatLayout | None,
    look: ImageSettings | None,
    turns: Turns,
    images: Sequence[TiledImage],
) -> Sample:
    """A conversation in the model's own chat layout, its images at the start of the first question."""
    shown: list[int] = []
    pixels: list[Tensor] = []
    if look is not None:
        for number, image in enumerate(images):
            placed, _ = image_tokens(
                image.grid,
                image.thumbnail_index,
                look.layout,
                placeholder=look.placeholder,
                tokens_per_tile=look.tokens_per_tile
                if image.parts is None
                else [look.queries or across * down for across, down in image.parts],
                packed=len(image.pixels) if look.is_native and image.parts is None else None,
                number=number,
            )
            shown += placed.tolist()
            pixels.append(torch.from_numpy(normalize(image.pixels, look.preprocessing)))
    once = chat is not None and chat.single_turn
    opening, rest = _conversation(chat, turns[:1] if once else turns, with_images=bool(pixels))
    ids = [*encode(tokenizer, opening), *shown]
    if once:  # the question sees itself and is all given: what is scored is its answer
        answer = turns[0][1]
        ids += encode(tokenizer, rest.removesuffix(answer))
        rest = answer
    first_scored = max(len(ids) - 1, 0)
    ids += encode(tokenizer, rest)
    return Sample(
        torch.cat(pixels) if pixels else None,
        torch.tensor(ids, dtype=torch.int64),
        None if look is None else look.placeholder,
        first_scored,
        tuple(grid for image in images for grid in image.seen)
        if pixels and look is not None and look.is_native
        else None,
        look is not None and look.has_axes,
        "none" if look is None else look.spans,
    )


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of literal text of the checkpoint's own: special tokens in it are special."""
    with library_errors("tokenizer.json fails on a text", CheckpointError):
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _conversation(chat: ChatLayout | None, turns: Turns, *, with_images: bool) -> tuple[str, str]:
    """The turns as text, cut where the images stand (before the first question)."""
    if chat is None:
        return "", "\n".join(f"{question}\n{answer}" for question, answer in turns)
    user, assistant = chat.roles["user"], chat.roles["assistant"]
    text = "".join(
        f"{user.prefix}{question}{user.suffix}{assistant.prefix}{answer}{assistant.suffix}"
        for question, answer in turns
    )
    opening = chat.start
    if chat.default_system is not None:
        system = chat.roles["system"]
        opening += system.prefix + chat.default_system + system.suffix
    opening += chat.prefix_of("user", image_first=with_images)
    rest = (chat.behind_images or "") + text.removeprefix(user.prefix)
    if with_images and chat.image is not None:
        opening, rest = opening + chat.image.prefix, chat.image.suffix + rest
    return opening, rest
