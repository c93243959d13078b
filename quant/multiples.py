"""Scales of groups that are whole multiples of one number a row, which is all that Qualcomm's LPBQ holds of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pocketvlm.quant.grids import Grid, power_of_two

if TYPE_CHECKING:
    from torch import Tensor

#: The largest number that a group's scale is of its row's: that of the row's largest scale.
MOST_MULTIPLES = 16
#: By these the largest scale of a row is changed, so that the others come nearer to multiples.
RATIOS = (1.0, 0.94, 0.96, 0.98, 1.02, 1.04, 1.06)
#: The smallest normal float32: a subnormal one is flushed to zero on the way.
LEAST = 2.0**-126


def in_multiples(groups: Tensor, fitted: Grid, importance: Tensor | None = None) -> Grid:
    """float32 [rows, groups, group_size] and each group's grid -> grids whose scales are such multiples.

    Of each group the multiple below its scale or the one above it, and of each row the largest scale as it is or a
    little changed, whichever has the least squared error; ``importance`` [1, groups, group_size] weighs columns.
    """
    row = power_of_two(groups.flatten(1)[:, None])  # [rows, 1, 1]
    values, scale = groups / row, fitted.scale / row
    largest, best, least = scale.amax(1, keepdim=True), scale, None
    for ratio in RATIOS:
        unit = (largest * ratio / MOST_MULTIPLES).clamp(min=LEAST)
        below = (scale / unit).floor().clamp(1, MOST_MULTIPLES).masked_fill(scale == largest, MOST_MULTIPLES)
        above = (below + 1).clamp(max=MOST_MULTIPLES)
        errors = [_error(values, replace(fitted, scale=multiple * unit), importance) for multiple in (below, above)]
        chosen = above.where(errors[1] < errors[0], below) * unit
        error = errors[0].minimum(errors[1]).sum(1, keepdim=True)  # [rows, 1, 1]
        better = error < error.new_full((), float("inf")) if least is None else error < least
        best = chosen.where(better, best)
        least = error if least is None else error.minimum(least)
    return replace(fitted, scale=(best * row).clamp(min=LEAST))


def _error(values: Tensor, grid: Grid, importance: Tensor | None) -> Tensor:
    """Of each group, [rows, groups, 1]."""
    errors = grid.residual(values).square_()
    return (errors if importance is None else errors.mul_(importance)).sum(-1, keepdim=True)
