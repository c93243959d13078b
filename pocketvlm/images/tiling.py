"""Grids of tiles: which there are to choose from, and how an image fills one, in plain Python.

A grid is (across, down) in tiles. Sizes are pixels, width first. Which of the grids an image is cut into is a rule of
``pocketvlm.images.rules``.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Grid = tuple[int, int]
Fit = Literal["pad", "stretch"]
#: width, height, tile, the candidates and alpha -> the grid
Choose = Callable[[int, int, int, frozenset[Grid], float], Grid]

#: largest width, height, tile or number of tiles that is computed with: what a 32-bit runtime can hold
MAX_NUMBER = 2**31 - 1
#: most tiles across or down that grid_candidates enumerates
MAX_ENUMERATED = 256


@dataclass(frozen=True)
class TilingRule:
    """How a grid is chosen, how the image is then laid on it, and where the published model puts the thumbnail.

    The thumbnail fields are what `pocketvlm tile` assumes; a bundle says its own.
    """

    choose: Choose
    fit: Fit
    thumbnail: Literal["first", "last", "none"]
    thumbnail_of_single_tile: bool
    #: whether the side that does not fill the grid is rounded up when an image is resized
    round_up: bool = False


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
