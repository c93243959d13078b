"""The conversation that every export is calibrated on and checked with: a test card and questions about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tokenizers import Tokenizer
from torch import Tensor

from pocketvlm.images import Preprocessing, cut_tiles, normalize
from pocketvlm.manifest import Chat, ImageLayout

CARD_LINES = ("AB42", "7K9X", "H53T")
#: Enough plain text for at least 32 tokens of any tokenizer.
TURNS = (
    ("Read all lines.", "\n".join(CARD_LINES)),
    ("What is on line 2?", CARD_LINES[1]),
    ("How many lines are there?", str(len(CARD_LINES))),
)


@dataclass(frozen=True)
class Sample:
    """pixels: float32 [1, 3, size, size], or None for a text-only model; token_ids: int64 [tokens].

    ``image_token`` stands for each image token; scores are taken over the text, from ``first_scored`` on.
    """

    pixels: Tensor | None
    token_ids: Tensor
    image_token: int | None
    first_scored: int

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


def make_sample(
    tokenizer: Tokenizer,
    chat: Chat | None,
    preprocessing: Preprocessing | None,
    layout: ImageLayout | None,
    image_token: int | None,
    tokens_per_tile: int,
) -> Sample:
    """The test card as one tile, if the model sees, and the turns in the model's own chat layout."""
    image_ids: list[int] = []
    pixels = None
    if preprocessing is not None and layout is not None and image_token is not None:
        tile = cut_tiles(draw_test_card(preprocessing.tile_size), preprocessing).pixels[:1]
        pixels = torch.from_numpy(normalize(tile, preprocessing))
        placeholders = [image_token] * tokens_per_tile
        image_ids = [*layout.image_start, *layout.tile[0][0], *placeholders, *layout.row_end, *layout.image_end]
    opening, rest = _conversation(chat)
    ids = [*encode(tokenizer, opening), *image_ids]
    first_scored = max(len(ids) - 1, 0)
    ids += encode(tokenizer, rest)
    return Sample(pixels, torch.from_numpy(np.array(ids, np.int64)), image_token, first_scored)


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of literal text of the checkpoint's own: special tokens in it are special."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _conversation(chat: Chat | None) -> tuple[str, str]:
    """The turns as text, cut where the image stands (before the first question)."""
    if chat is None:
        return "", "\n".join(f"{question}\n{answer}" for question, answer in TURNS)
    user, assistant = chat.roles["user"], chat.roles["assistant"]
    text = "".join(
        f"{user.prefix}{question}{user.suffix}{assistant.prefix}{answer}{assistant.suffix}"
        for question, answer in TURNS
    )
    opening = chat.start
    if chat.default_system is not None:
        system = chat.roles["system"]
        opening += system.prefix + chat.default_system + system.suffix
    return opening + user.prefix, text.removeprefix(user.prefix)
