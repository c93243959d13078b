"""What a config says of pictures: how they are cut, how their tokens are laid out, and the text around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, GetPydanticSchema
from pydantic import with_config as read_by

from pocketvlm.bundle.vision import Strategy
from pocketvlm.images.tiling import PAPER_CANDIDATES
from pocketvlm.models.values import READ, Byte, Pixels, Positions, Text, Tiles


@read_by(READ)
@dataclass(frozen=True)
class ImageLayoutConfig:
    """The text around an image's tokens, where ``pocketvlm.bundle.vision.ImageLayout`` has ids. ``{row}`` and
    ``{column}`` count from 1, ``{index}`` in image_start counts the images of a conversation from 0."""

    image_start: Text = ""
    thumbnail: Text = ""
    tile: Text = ""
    row_end: Text = ""
    image_end: Text = ""
    lone: Text | None = None
    last_row_end: Text | None = None
    tile_end: Text = ""
    thumbnail_end: Text = ""


@read_by(READ)
@dataclass(frozen=True)
class TilingConfig:
    """How a picture becomes tiles (paper, section 3.2)."""

    strategy: Annotated[str, GetPydanticSchema(lambda _, handler: handler(Strategy))] = "relaxed"
    candidates: Annotated[tuple[tuple[Tiles, Tiles], ...], Field(min_length=1, max_length=256)] = PAPER_CANDIDATES
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.1
    longest_edge: Pixels | None = None
    min_pixels: Positions | None = None
    max_pixels: Positions | None = None
    part: Tiles | None = None
    thumbnail: Literal["first", "last", "none"] = "first"
    thumbnail_of_single_tile: bool = True
    pad_color: tuple[Byte, Byte, Byte] = (127, 127, 127)


@read_by(READ)
@dataclass(frozen=True)
class PackingConfig:
    """How the tokens of a picture's tiles become one picture again (``pocketvlm.images.packing``)."""

    most_tiles: Annotated[int, Field(gt=0, le=1024)] | None = None
