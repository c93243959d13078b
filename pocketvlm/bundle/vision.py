"""What a manifest says of images: how they are cut, what the tower makes of them, and the tokens around them."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pocketvlm.bundle.fields import MAX_SIDE, Finite, Name, Positive, TokenIds
from pocketvlm.bundle.files import FileName
from pocketvlm.bundle.native import PatchPictures, native_problem
from pocketvlm.images.tiling import PicturePlan, ResizeFilter
from pocketvlm.strict import Closed, dropping_none

#: Rules by which a grid of tiles is chosen.
Strategy = Literal[
    "relaxed",
    "llava-next",
    "internvl",
    "idefics3",
    "center-crop",
    "smart-resize",
    "lfm2",
    "minicpmv",
    "pad-square",
    "gemma4",
]
#: Those of formats 1 and 2.
FIRST_STRATEGIES = ("relaxed", "llava-next", "internvl")
#: Those that keep an image's aspect ratio on a canvas.
PADDED = ("relaxed", "llava-next")
#: Images of a conversation that a layout has numbers for, at most.
MAX_NUMBERS = 256


class ImagePacking(Closed):
    """How the tokens of an image's tiles become one picture again (``pocketvlm.images.packing``).

    ``newline`` is a file of float32 [hidden], the token that ends each row; what is more than ``most_tiles`` tiles have
    is made smaller.
    """

    kind: Literal["anyres"]
    newline: FileName
    most_tiles: Annotated[int, Field(gt=0, le=1024)] | None = None

    _serialize = dropping_none("most_tiles")


class Vision(Closed):
    """Image to tiles to tokens: the arguments of ``images.prepare.Preprocessing`` and what the tower makes of it."""

    tile_size: Annotated[int, Field(gt=0, le=4096)]
    strategy: Strategy
    candidates: Annotated[tuple[tuple[Positive, Positive], ...], Field(min_length=1, max_length=256)]
    alpha: Annotated[float, Field(ge=0, le=1)]
    thumbnail: Literal["first", "last", "none"]
    thumbnail_of_single_tile: bool
    longest_edge: Annotated[int, Field(gt=0, le=4096)] | None = None
    min_pixels: Positive | None = None
    max_pixels: Positive | None = None
    part: Annotated[int, Field(gt=0, le=64)] | None = None
    resize_filter: ResizeFilter
    pad_color: tuple[int, int, int]
    rescale: Finite
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Finite, Finite, Finite]
    tile_batch: Annotated[int, Field(gt=0, le=64)]
    patches_per_tile: Positive
    vision_hidden_size: Positive
    downsample_ratio: Positive
    tokens_per_tile: Annotated[int, Field(gt=0, le=1 << 16)]
    replaces: Name | None = None
    """the way in which the model's own processor cuts pictures, for people, where an export was asked for another"""
    packing: ImagePacking | None = None
    patches: PatchPictures | None = None

    _serialize = dropping_none("longest_edge", "min_pixels", "max_pixels", "part", "replaces", "packing", "patches")

    @property
    def format_version(self) -> int:
        """The oldest format that can say it."""
        if self.patches is not None or self.resize_filter == "bilinear" or self.strategy == "pad-square":
            return 5
        more = self.longest_edge is not None or self.replaces is not None or self.packing is not None
        return 1 if self.strategy in FIRST_STRATEGIES and self.resize_filter == "bicubic" and not more else 3

    def tokens_of(self, plan: PicturePlan) -> int:
        """The tokens of a picture that is cut so, before they are packed."""
        if self.patches is not None and self.patches.queries is not None:
            return self.patches.queries * len(plan.parts)
        return plan.tiles * self.tokens_per_tile

    @property
    def tokens_per_side(self) -> int:
        """Of a tile, whose tokens are a square where they are packed."""
        return math.isqrt(self.tokens_per_tile)

    @model_validator(mode="after")
    def _native_is_whole(self) -> Vision:
        wrong = native_problem(self)
        if wrong is not None:
            raise ValueError(wrong)
        return self

    @model_validator(mode="after")
    def _can_be_packed(self) -> Vision:
        if self.packing is not None:
            if self.thumbnail != "first" or not self.thumbnail_of_single_tile:
                raise ValueError("packing begins with a thumbnail, which not every image has first")
            if self.strategy not in PADDED:
                raise ValueError(f"packing takes padding away, and {self.strategy} stretches images")
            if self.tokens_per_side**2 != self.tokens_per_tile:
                raise ValueError(f"packing needs a square of tokens a tile, not {self.tokens_per_tile}")
        return self


class ImageLayout(Closed):
    """Token ids around an image's tokens: image_start, [thumbnail + tokens], per tile (row-major) tile[row][column] +
    tokens, after each row row_end, image_end. ``thumbnail`` comes last where ``Vision.thumbnail`` says so.

    Of an image of one tile without a thumbnail ``lone`` + tokens is all that stands between start and end; behind the
    last row stands ``last_row_end``, since a tokenizer may join that row's end with what follows. None: as elsewhere.

    Behind each tile's tokens stands ``tile_end``, behind the thumbnail's, and those of a lone tile, ``thumbnail_end``;
    behind image_start the image's number, of the first one of a conversation ``numbers[0]``.
    """

    image_start: TokenIds
    thumbnail: TokenIds
    tile: Annotated[tuple[Annotated[tuple[TokenIds, ...], Field(max_length=MAX_SIDE)], ...], Field(max_length=MAX_SIDE)]
    row_end: TokenIds
    image_end: TokenIds
    lone: TokenIds | None = None
    last_row_end: TokenIds | None = None
    tile_end: TokenIds | None = None
    thumbnail_end: TokenIds | None = None
    numbers: Annotated[tuple[TokenIds, ...], Field(min_length=1, max_length=MAX_NUMBERS)] | None = None

    _serialize = dropping_none("lone", "last_row_end", "tile_end", "thumbnail_end", "numbers")

    @property
    def format_version(self) -> int:
        """The oldest format that can say it."""
        if self.tile_end is not None or self.thumbnail_end is not None or self.numbers is not None:
            return 5
        return 1 if self.lone is None and self.last_row_end is None else 3
