"""Which grid of tiles an image is cut into: published rules behind one function, in plain Python.

The arithmetic is IEEE double precision in the order of the sources, so that Kotlin and C++ reach the same grids
(``tests/golden/tiling.csv``). A new rule is one file and one line in ``RULES``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from pocketvlm.images.rules import internvl, llava_next, relaxed
from pocketvlm.images.tiling import PAPER_CANDIDATES, Grid, TilingRule, positive

RULES: dict[str, TilingRule] = {
    "relaxed": relaxed.RULE,
    "llava-next": llava_next.RULE,
    "internvl": internvl.RULE,
}


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

    :raises ValueError: a size is not a positive integer, there are no candidates, or the strategy is not known.
    """
    if strategy not in RULES:
        raise ValueError(f"unknown tiling strategy {strategy!r}: choose one of {', '.join(RULES)}")
    if not (isinstance(alpha, int | float) and math.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"alpha must be a finite number of at least 0, not {alpha!r}")
    width, height, tile = positive("width", width), positive("height", height), positive("tile", tile)
    grids = frozenset(_checked(grid) for grid in (PAPER_CANDIDATES if candidates is None else candidates))
    if not grids:
        raise ValueError("no candidate grids to choose from: give at least one (across, down)")
    return RULES[strategy].choose(width, height, tile, grids, alpha)


def _checked(grid: Grid) -> Grid:
    """A candidate as a pair of plain ints, or ValueError."""
    try:
        across, down = grid
    except (TypeError, ValueError):
        raise ValueError(f"a candidate grid must be a pair (across, down), not {grid!r}") from None
    return positive("a candidate's tiles across", across), positive("a candidate's tiles down", down)
