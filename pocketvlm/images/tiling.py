"""Which grid of tiles an image is cut into: three published rules behind one function, in plain Python.

A grid is (across, down) in tiles. Sizes are pixels, width first. The arithmetic is IEEE double precision in the
order of the sources, so that Kotlin and C++ reach the same grids (``tests/golden/tiling.csv``).

A new strategy is one function and one line in ``STRATEGIES``.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Grid = tuple[int, int]
Fit = Literal["pad", "stretch"]
Rule = Callable[[int, int, int, frozenset[Grid], float], Grid]

#: largest width, height, tile or number of tiles that is computed with: what a 32-bit runtime can hold
MAX_NUMBER = 2**31 - 1
#: most tiles across or down that grid_candidates enumerates
MAX_ENUMERATED = 256


def _positive(name: str, value: int, most: int = MAX_NUMBER) -> int:
    """``value`` as a plain int from 1 to ``most``, or ValueError."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if not 0 < number <= most:
        shown = repr(value) if number.bit_length() < 256 else f"a number of {number.bit_length()} bits"
        raise ValueError(f"{name} must be a whole number from 1 to {most}, not {shown}")
    return number


def _checked(grid: Grid) -> Grid:
    """A candidate as a pair of plain ints, or ValueError."""
    try:
        across, down = grid
    except (TypeError, ValueError):
        raise ValueError(f"a candidate grid must be a pair (across, down), not {grid!r}") from None
    return _positive("a candidate's tiles across", across), _positive("a candidate's tiles down", down)


def relaxed(width: int, height: int, tile: int, candidates: frozenset[Grid], alpha: float) -> Grid:
    """Relaxed aspect-ratio matching, Algorithm 1 of BlueLM-V-3B (arXiv 2411.10640).

    A grid replaces the best one so far if it shows more than ``alpha`` more of the image's pixels, or nearly as many
    with less waste. The result hangs on the visiting order, which the paper gives: 3:3 down to 1:1.
    """
    best = (1, 1)
    best_effective, best_wasted = 0, math.inf
    for across, down in sorted(candidates, reverse=True):
        fitted_width, fitted_height = fitted_size(width, height, (across, down), tile)
        effective = min(fitted_width * fitted_height, width * height)
        wasted = tile * across * tile * down - effective
        gain = effective - best_effective
        if gain > alpha * best_effective or (-gain < alpha * best_effective and wasted < best_wasted):
            best, best_effective, best_wasted = (across, down), effective, wasted
    return best


def llava_next(width: int, height: int, tile: int, candidates: frozenset[Grid], alpha: float) -> Grid:
    """LLaVA-NeXT's ``select_best_resolution``: the most effective pixels, then the fewest wasted ones.

    The reference takes the first of two equal candidates and has no order of its own; here the wider one is first.
    ``alpha`` is not used.
    """
    best = (1, 1)
    best_effective, best_wasted = -1, math.inf
    for across, down in sorted(candidates, reverse=True):
        scale = min(tile * across / width, tile * down / height)
        # The reference does not clamp: a side that rounds to 0 makes the whole grid worth nothing.
        effective = min(int(width * scale) * int(height * scale), width * height)
        wasted = tile * across * tile * down - effective
        if effective > best_effective or (effective == best_effective and wasted < best_wasted):
            best, best_effective, best_wasted = (across, down), effective, wasted
    return best


def internvl(width: int, height: int, tile: int, candidates: frozenset[Grid], alpha: float) -> Grid:
    """InternVL 1.5's ``find_closest_aspect_ratio``: the nearest aspect ratio, smaller grids first.

    Among equal ratios a larger grid wins if the image has more than half of its pixels. ``alpha`` is not used.
    """
    best = (1, 1)
    best_difference = math.inf
    for across, down in sorted(candidates, key=lambda grid: (grid[0] * grid[1], grid)):
        difference = abs(width / height - across / down)
        large_enough = width * height > 0.5 * tile * tile * across * down
        if difference < best_difference or (difference == best_difference and large_enough):
            best, best_difference = (across, down), difference
    return best


@dataclass(frozen=True)
class Strategy:
    """A rule, how the image is then laid on its grid, and where the published model puts the thumbnail.

    The thumbnail fields are what `pocketvlm tile` assumes; a bundle says its own.
    """

    rule: Rule
    fit: Fit
    thumbnail: Literal["first", "last", "none"]
    thumbnail_of_single_tile: bool
    #: whether the side that does not fill the grid is rounded up when an image is resized
    round_up: bool = False


STRATEGIES: dict[str, Strategy] = {
    "relaxed": Strategy(relaxed, fit="pad", thumbnail="first", thumbnail_of_single_tile=True),
    "llava-next": Strategy(llava_next, fit="pad", thumbnail="first", thumbnail_of_single_tile=True, round_up=True),
    "internvl": Strategy(internvl, fit="stretch", thumbnail="last", thumbnail_of_single_tile=False),
}


def grid_candidates(max_across: int, max_down: int, max_tiles: int | None = None) -> tuple[Grid, ...]:
    """Every grid up to ``max_across`` x ``max_down`` with at most ``max_tiles`` tiles, in descending order.

    (3, 3) gives the nine of the paper, (4, 4, 8) those for phone screens, (6, 6, 6) InternVL's with 6 tiles.

    Raises:
        ValueError: a limit is not a positive integer, or enumerates more than MAX_ENUMERATED across or down.
    """
    max_across = _positive("the most tiles across", max_across, MAX_ENUMERATED)
    max_down = _positive("the most tiles down", max_down, MAX_ENUMERATED)
    limit = max_across * max_down if max_tiles is None else _positive("the most tiles", max_tiles)
    return tuple(
        (across, down)
        for across in range(min(max_across, limit), 0, -1)
        for down in range(min(max_down, limit // across), 0, -1)
    )


#: the paper's candidates, 3:3 ... 1:1
PAPER_CANDIDATES = grid_candidates(3, 3)


def select_grid(
    width: int,
    height: int,
    *,
    tile: int,
    candidates: Iterable[Grid] | None = None,
    strategy: str = "relaxed",
    alpha: float = 0.1,
) -> Grid:
    """The grid (across, down) that ``strategy`` picks for an image of ``width`` x ``height`` pixels.

    ``candidates`` are the grids to choose from, in any order (default: the paper's 3x3); ``alpha`` is the relaxed
    rule's threshold.

    Raises:
        ValueError: a size is not a positive integer, there are no candidates, or the strategy is not known.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown tiling strategy {strategy!r}: choose one of {', '.join(STRATEGIES)}")
    if not (isinstance(alpha, int | float) and math.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"alpha must be a finite number of at least 0, not {alpha!r}")
    width, height, tile = _positive("width", width), _positive("height", height), _positive("tile", tile)
    grids = frozenset(_checked(grid) for grid in (PAPER_CANDIDATES if candidates is None else candidates))
    if not grids:
        raise ValueError("no candidate grids to choose from: give at least one (across, down)")
    return STRATEGIES[strategy].rule(width, height, tile, grids, alpha)


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
