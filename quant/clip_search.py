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
        return searched(groups, self.bits, symmetric=self.symmetric, positive=self.scales != "float32")


def searched(groups: Tensor, bits: int, *, symmetric: bool, positive: bool, importance: Tensor | None = None) -> Grid:
    """float32 [rows, groups, group_size] -> the grid of each group with the least squared error.

    ``importance`` [1, groups, group_size] weighs the columns' errors; its scale in a group does not matter.
    """
    unit = power_of_two(groups)
    values = groups / unit

    def fitted(grid: Grid) -> Fitted:
        errors = grid.residual(values).square_()
        return Fitted(grid, (errors if importance is None else errors.mul_(importance)).sum(-1, keepdim=True))

    def best_ratio(best: Fitted, grid: Grid, ratios: list[float]) -> Fitted:
        for ratio in ratios:
            best = best.or_better(fitted(replace(grid, scale=grid.scale * ratio)))
        return best

    start = full_range(values, bits, symmetric=symmetric, positive=positive)
    shrink = (NARROWEST / WIDEST) ** (1 / (COARSE - 1))
    best = best_ratio(fitted(start), start, [WIDEST * shrink**step for step in range(COARSE)])
    best = best_ratio(best, best.grid, [shrink**offset for offset in _between(FINE)])
    if not symmetric:
        # Clipping both ends by one ratio leaves the zero point where it is; its neighbours are tried.
        for step in (-1, 1):
            zero_point = (best.grid.zero_point + step).clamp(0, best.grid.top)
            best = best.or_better(fitted(replace(best.grid, zero_point=zero_point)))
    for _ in range(REFITS):
        best = best.or_better(fitted(_least_squares(values, best.grid, importance)))
    return best.grid.scaled(unit)


def _least_squares(groups: Tensor, grid: Grid, importance: Tensor | None) -> Grid:
    """The scale with the smallest squared error for the codes as they are."""
    steps = grid.steps(groups)
    weighed = steps if importance is None else steps * importance
    scale = (weighed * groups).sum(-1, keepdim=True) / (weighed * steps).sum(-1, keepdim=True)
    usable = scale * grid.scale > 0  # not 0 / 0: a group of zeros
    return replace(grid, scale=scale.where(usable, grid.scale))


def _between(count: int) -> list[float]:
    """``count`` numbers evenly between -1 and 1, without these."""
    return [2 * (index + 1) / (count + 1) - 1 for index in range(count)]
