"""Grids of tiles: which there are to choose from, how an image fills one, and what a plan of it says, in plain Python.

A grid is (across, down) in tiles. Sizes are pixels, width first. What becomes of an image of some size is a rule of
``pocketvlm.images.rules``.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Grid = tuple[int, int]
Size = tuple[int, int]
Fit = Literal["pad", "stretch", "crop", "square"]
#: Pillow's filters that every platform has.
ResizeFilter = Literal["bicubic", "lanczos", "bilinear"]
#: width, height, tile, the candidates and alpha -> the grid
Choose = Callable[[int, int, int, Sequence[Grid], float], Grid]

#: largest width, height, tile or number of tiles that is computed with: what a 32-bit runtime can hold
MAX_NUMBER = 2**31 - 1
#: most tiles across or down that grid_candidates enumerates
MAX_ENUMERATED = 256


@dataclass(frozen=True)
class PicturePlan:
    """What becomes of an image of some size.

    It is laid in the middle of a ``square`` of so many pixels a side (0: of none), resized to each of ``resizes`` in
    turn, laid with its upper left corner at ``place`` of a canvas of ``grid`` tiles (before it, where that is negative:
    what lies outside is left out), and cut there, row by row. A thumbnail, what the first ``thumbnail_of`` of the
    resizes made (0: the image itself) squashed to one tile, stands at ``thumbnail_index`` of the sequence; None: there
    is none.
    """

    grid: Grid
    resizes: tuple[Size, ...]
    place: tuple[int, int] = (0, 0)
    thumbnail_index: int | None = None
    thumbnail_of: int = 0
    part: Grid = (1, 1)
    """tiles (across, down) of each place of the grid, where those of one see each other (a rule of parts)"""
    thumbnail_part: Grid = (1, 1)
    """the same of the thumbnail"""
    square: int = 0

    @property
    def canvas(self) -> Grid:
        """Tiles (across, down) that are cut, the thumbnail's not counted."""
        return self.grid[0] * self.part[0], self.grid[1] * self.part[1]

    @property
    def tiles(self) -> int:
        """How many go through the encoder, the thumbnail's among them."""
        own = 0 if self.thumbnail_index is None else math.prod(self.thumbnail_part)
        return math.prod(self.canvas) + own

    @property
    def parts(self) -> tuple[Grid, ...]:
        """What stands at each place, in sequence order, of so many tiles (across, down)."""
        found = [self.part] * math.prod(self.grid)
        if self.thumbnail_index is not None:
            found.insert(self.thumbnail_index, self.thumbnail_part)
        return tuple(found)

    def inset(self, size: Size) -> tuple[int, int]:
        """Where the upper left corner of an image of this size lies in the square."""
        return (self.square - size[0]) // 2, (self.square - size[1]) // 2


@dataclass(frozen=True)
class PictureRule:
    """A pure function from an image's size to a plan, and what `pocketvlm tile` assumes where no bundle says more.

    ``check`` gives what is wrong with a tiling that the rule cannot follow, None where it can.
    """

    plan: Callable[[int, int, Tiling], PicturePlan]
    fit: Fit
    thumbnail: Literal["first", "last", "none"]
    thumbnail_of_single_tile: bool
    check: Callable[[Tiling], str | None] = lambda tiling: None
    resize_filter: ResizeFilter = "bicubic"


def positive(name: str, value: int, most: int = MAX_NUMBER) -> int:
    """``value`` as a plain int from 1 to ``most``, or ValueError."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if not 0 < number <= most:
        shown = repr(value) if number.bit_length() < 256 else f"a number of {number.bit_length()} bits"
        raise ValueError(f"{name} must be a whole number from 1 to {most}, not {shown}")
    return number


def grid_candidates(max_across: int, max_down: int, max_tiles: int | None = None) -> tuple[Grid, ...]:
    """Every grid up to ``max_across`` x ``max_down`` with at most ``max_tiles`` tiles, in descending order.

    (3, 3) gives the nine of the paper, (4, 4, 8) those for phone screens, (6, 6, 6) InternVL's with 6 tiles.

    :raises ValueError: a limit is not a positive integer, or enumerates more than MAX_ENUMERATED across or down.
    """
    max_across = positive("the most tiles across", max_across, MAX_ENUMERATED)
    max_down = positive("the most tiles down", max_down, MAX_ENUMERATED)
    limit = max_across * max_down if max_tiles is None else positive("the most tiles", max_tiles)
    return tuple(
        (across, down)
        for across in range(min(max_across, limit), 0, -1)
        for down in range(min(max_down, limit // across), 0, -1)
    )


#: the paper's candidates, 3:3 ... 1:1
PAPER_CANDIDATES = grid_candidates(3, 3)


@dataclass(frozen=True)
class Tiling:
    """A rule and its settings."""

    tile_size: int = 384
    """side of the square tiles, pixels"""
    strategy: str = "relaxed"
    """a key of ``pocketvlm.images.rules.RULES``"""
    candidates: tuple[Grid, ...] = PAPER_CANDIDATES
    """grids to choose from, (across, down); their order counts for llava-next, lfm2 and minicpmv alone"""
    alpha: float = 0.1
    """threshold of the relaxed rule"""
    longest_edge: int | None = None
    """of the idefics3 rule: what the longer side is resized to first, pixels; None: as many as the largest grid has"""
    min_pixels: int | None = None
    """of the rules of native resolution: least pixels of an image"""
    max_pixels: int | None = None
    """of the rules of native resolution: most pixels of an image, of the lfm2 rule as a whole; of minicpmv about those
    of a slice"""
    part: int | None = None
    """of the lfm2 rule: tiles along a side of each part that a large image is cut into"""
    thumbnail: Literal["first", "last", "none"] = "first"
    """where the whole image, squashed to one tile, stands in the sequence"""
    thumbnail_of_single_tile: bool = True
    """whether a 1x1 grid gets a thumbnail as well"""


def thumbnail_index(grid: Grid, tiling: Tiling) -> int | None:
    """Position of the thumbnail in the sequence of an image cut into ``grid``; None if it gets none."""
    tiles = grid[0] * grid[1]
    if tiling.thumbnail == "none" or (tiles == 1 and not tiling.thumbnail_of_single_tile):
        return None
    return 0 if tiling.thumbnail == "first" else tiles


def padded(choose: Choose, *, round_up: bool = False) -> Callable[[int, int, Tiling], PicturePlan]:
    """The plan of a rule that chooses a grid and centres the image on it, its aspect ratio kept."""

    def plan(width: int, height: int, tiling: Tiling) -> PicturePlan:
        tile = tiling.tile_size
        grid = choose(width, height, tile, tiling.candidates, tiling.alpha)
        size = fitted_size(width, height, grid, tile, round_up=round_up)
        place = (grid[0] * tile - size[0]) // 2, (grid[1] * tile - size[1]) // 2
        return PicturePlan(grid, (size,), place, thumbnail_index(grid, tiling))

    return plan


def stretched(choose: Choose) -> Callable[[int, int, Tiling], PicturePlan]:
    """The plan of a rule that chooses a grid and stretches the image over it."""

    def plan(width: int, height: int, tiling: Tiling) -> PicturePlan:
        tile = tiling.tile_size
        grid = choose(width, height, tile, tiling.candidates, tiling.alpha)
        return PicturePlan(grid, ((grid[0] * tile, grid[1] * tile),), (0, 0), thumbnail_index(grid, tiling))

    return plan


def fitted_size(width: int, height: int, grid: Grid, tile: int, *, round_up: bool = False) -> tuple[int, int]:
    """Size (width, height) at which an image fills a grid of ``tile`` px tiles with its aspect ratio kept.

    Rounded down as in Algorithm 1, but never below one pixel (the paper's rule leaves 0 for a 1 x 4000 image). With
    ``round_up`` as LLaVA-NeXT resizes, though it rounds down when it selects (transformers: get_patch_output_size).
    """
    canvas_width, canvas_height = tile * grid[0], tile * grid[1]
    across, down = canvas_width / width, canvas_height / height
    if not round_up:
        scale = min(across, down)
        return max(1, int(width * scale)), max(1, int(height * scale))
    if across < down:
        return canvas_width, min(math.ceil(height * across), canvas_height)
    return min(math.ceil(width * down), canvas_width), canvas_height


def most_windows(tokens: int, side: int) -> int:
    """Of a picture of at most so many tiles, whatever its shape."""
    return max(-(-across // side) * -(-(tokens // across) // side) for across in range(1, tokens + 1))
