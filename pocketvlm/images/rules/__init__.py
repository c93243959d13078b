"""What becomes of an image of some size: published rules as pure functions to a plan, in plain Python.

The arithmetic is IEEE double precision in the order of the sources, so that Kotlin and C++ reach the same plans
(``tests/golden/plans``, ``tests/golden/tiling.csv``). A new rule is one file and one line in ``RULES``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from pocketvlm.images.rules import (
    center_crop,
    gemma4,
    idefics3,
    internvl,
    lfm2,
    llava_next,
    minicpmv,
    pad_square,
    relaxed,
    smart_resize,
)
from pocketvlm.images.tiling import PAPER_CANDIDATES, Grid, PicturePlan, PictureRule, Tiling, positive

RULES: dict[str, PictureRule] = {
    "relaxed": relaxed.RULE,
    "llava-next": llava_next.RULE,
    "internvl": internvl.RULE,
    "idefics3": idefics3.RULE,
    "center-crop": center_crop.RULE,
    "pad-square": pad_square.RULE,
}
#: Of pictures that go through a tower as a whole, or in parts of any size: what sees each other is no tile of one size.
NATIVE_RULES: dict[str, PictureRule] = {
    "smart-resize": smart_resize.RULE,
    "lfm2": lfm2.RULE,
    "minicpmv": minicpmv.RULE,
    "gemma4": gemma4.RULE,
}
#: Of these, those that cut large pictures into parts.
RULES_OF_PARTS = ("lfm2", "minicpmv")


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

    ``candidates`` are the grids to choose from (default: the paper's 3x3); their order counts for llava-next alone.
    ``alpha`` is the relaxed rule's threshold.

    :raises ValueError: a size is not a positive integer, there are no candidates, or the strategy is not known.
    """
    width, height = positive("width", width), positive("height", height)
    grids = tuple(_checked(grid) for grid in (PAPER_CANDIDATES if candidates is None else candidates))
    tiling = Tiling(tile_size=tile, strategy=strategy, candidates=grids, alpha=alpha)
    check_tiling(tiling)
    return plan_of((width, height), tiling).grid


def plan_of(size: tuple[int, int], tiling: Tiling) -> PicturePlan:
    """What becomes of an image of ``size`` (width, height) pixels, under a tiling that was checked."""
    return rule_of(tiling.strategy).plan(*size, tiling)


def rule_of(strategy: str) -> PictureRule:
    """A rule by its name, of either kind."""
    return RULES[strategy] if strategy in RULES else NATIVE_RULES[strategy]


def check_tiling(tiling: Tiling) -> None:
    """Whether a rule can follow it.

    :raises ValueError: naming the field that is wrong
    """
    if tiling.strategy not in RULES and tiling.strategy not in NATIVE_RULES:
        raise ValueError(f"unknown tiling strategy {tiling.strategy!r}: choose one of {', '.join(RULES)}")
    alpha = tiling.alpha
    if not (isinstance(alpha, int | float) and math.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"alpha must be a finite number of at least 0, not {alpha!r}")
    positive("tile", tiling.tile_size)
    if not tiling.candidates:
        raise ValueError("no candidate grids to choose from: give at least one (across, down)")
    for grid in tiling.candidates:
        _checked(grid)
    problem = rule_of(tiling.strategy).check(tiling)
    if problem is not None:
        raise ValueError(problem)


def _checked(grid: Grid) -> Grid:
    """A candidate as a pair of plain ints, or ValueError."""
    try:
        across, down = grid
    except (TypeError, ValueError):
        raise ValueError(f"a candidate grid must be a pair (across, down), not {grid!r}") from None
    return positive("a candidate's tiles across", across), positive("a candidate's tiles down", down)
