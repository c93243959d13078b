"""Clip search: the range that a group's grid spans is the one with the smallest squared error.

A narrower range than the group's own rounds most weights more finely and clips a few; a slightly wider one can meet the
weights of a small group better. Ratios of the full range are tried, as in AWQ's clipping (arXiv 2306.00978,
``auto_clip`` in mit-han-lab/llm-awq), but against the weights' own error, without data. A least-squares fit of the
scale to the codes found ends the search, as in llama.cpp's ``make_qx_quants``. It comes within 0.2 % of the squared
error of 400 ratios.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from pocketvlm.quant.grids import Fitted, Grid, full_range, power_of_two
from pocketvlm.quant.groups import GroupQuantizer

if TYPE_CHECKING:
    from torch import Tensor

#: Ratios of the full range: twelve from 1.2 down to 0.12, each 0.81 times the one before.
WIDEST, NARROWEST, COARSE = 1.2, 0.12, 12
#: Ratios tried between the best one's neighbours.
FINE = 12
#: Scales fitted to the codes, and codes to the scales, this often.
REFITS = 2


@dataclass(frozen=True)
class ClipSearch(GroupQuantizer):
    """Never a larger squared error than round to nearest, in any group. Costs 29 to 31 roundings of the weights."""

    WEIGHTS_PER_SECOND: ClassVar[float] = 15e6

    def fit(self, groups: Tensor) -> Grid:
        unit = power_of_two(groups)
        values = groups / unit
        start = full_range(values, self.bits, symmetric=self.symmetric, positive=self.scales != "float32")
        best = _fitted(values, start)
        shrink = (NARROWEST / WIDEST) ** (1 / (COARSE - 1))
        best = _best_ratio(values, best, start, [WIDEST * shrink**step for step in range(COARSE)])
        best = _best_ratio(values, best, best.grid, [shrink**offset for offset in _between(FINE)])
        if not self.symmetric:
            best = _best_zero_point(values, best)
        for _ in range(REFITS):
            best = best.or_better(_fitted(values, _least_squares(values, best.grid)))
        return best.grid.scaled(unit)


def _fitted(groups: Tensor, grid: Grid) -> Fitted:
    """A grid with its squared error."""
    return Fitted(grid, grid.residual(groups).square_().sum(-1, keepdim=True))


def _best_ratio(groups: Tensor, best: Fitted, grid: Grid, ratios: list[float]) -> Fitted:
    """Try ``grid`` with its scale times each of ``ratios``."""
    for ratio in ratios:
        best = best.or_better(_fitted(groups, replace(grid, scale=grid.scale * ratio)))
    return best


def _best_zero_point(groups: Tensor, best: Fitted) -> Fitted:
    """Clipping both ends by one ratio leaves the zero point where it is; try its neighbours."""
    grid = best.grid
    for step in (-1, 1):
        moved = (grid.zero_point + step).clamp(0, grid.top)
        best = best.or_better(_fitted(groups, replace(grid, zero_point=moved)))
    return best


def _least_squares(groups: Tensor, grid: Grid) -> Grid:
    """The scale with the smallest squared error for the codes as they are."""
    steps = grid.steps(groups)
    scale = (steps * groups).sum(-1, keepdim=True) / steps.square().sum(-1, keepdim=True)
    usable = scale * grid.scale > 0  # not 0 / 0: a group of zeros
    return replace(grid, scale=scale.where(usable, grid.scale))


def _between(count: int) -> list[float]:
    """``count`` numbers evenly between -1 and 1, without these."""
    return [2 * (index + 1) / (count + 1) - 1 for index in range(count)]
