"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): each column's rounding error is made up for by the columns after it.

Not the weights' own error is minimized but that of the layer's output over calibration inputs X, |W X - Q X|, one
column at a time. With the Cholesky factor U of the inverse of X XT (upper, X XT damped) the error e of a column, in
units of U's diagonal, is taken off the later columns as e times U's row. The reference is IST-DASLab/gptq.

As in its ``act_order`` the columns with the largest inputs come first, while they can still be made up for; grids are
found beforehand from the weights as they are ("static groups"), so that groups stay neighbours on disk. They are not
those of the full range, as in the reference, but searched for: with the error of each column weighed by what it costs
after all later ones made up for it, which is e squared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pocketvlm.errors import RecipeError
from pocketvlm.quant.clip_search import searched
from pocketvlm.quant.grids import Grid
from pocketvlm.quant.groups import GroupQuantizer, matrix_shape, parts_of_rows
from pocketvlm.quant.tensors import GroupedTensor

if TYPE_CHECKING:
    from torch import Tensor

#: Columns whose errors are gathered before they are taken off all later columns in one matrix product.
COLUMNS_AT_A_TIME = 64
#: Rows are independent; so many weights at a time are in memory three times, in float32.
WEIGHTS_AT_A_TIME = 1 << 21
#: Where a Gram matrix is singular even with the damping asked for, more of it is tried up to this.
MOST_DAMPING = 1.0


@dataclass(frozen=True)
class Gptq(GroupQuantizer):
    """``damping`` is added to the Gram matrix's diagonal, as a share of its mean (the reference's 0.01)."""

    WEIGHTS_PER_SECOND: ClassVar[float] = 4e6
    CALIBRATED: ClassVar[bool] = True

    damping: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.damping, bool) or not isinstance(self.damping, int | float) or not 0 < self.damping <= 1:
            raise RecipeError(f"damping is {self.damping!r}; it lies between 0 and 1")

    def fit(self, groups: Tensor, importance: Tensor | None = None) -> Grid:
        positive = self.scales != "float32"
        return searched(groups, self.bits, symmetric=self.symmetric, positive=positive, importance=importance)

    def quantize(self, weight: Tensor, gram: Tensor | None = None) -> GroupedTensor:
        """As ``GroupQuantizer.quantize``.

        :raises RecipeError: also when there is no Gram matrix, or it is not finite
        """
        shape = matrix_shape(tuple(weight.shape))
        if gram is None or gram.shape != (shape[1], shape[1]):
            raise RecipeError("GPTQ needs the Gram matrix of the layer's inputs: it has to be calibrated")
        order = gram.diagonal().argsort(descending=True, stable=True)
        factor = _inverse_factor(gram[order][:, order], self.damping)
        used = gram.diagonal() != 0
        importance = self.grouped(_importance(gram.diagonal(), order, factor, self.damping)[None])

        def rounded(rows: Tensor) -> tuple[Grid, Tensor]:
            grid = self._searched(rows, importance)
            size = importance.shape[2]
            scale, zero_point = (_by_column(part, size, shape[1]) for part in (grid.scale, grid.zero_point))
            ordered = Grid(scale.T[order], zero_point.T[order], grid.bits)
            # A column that no input reaches cannot make up for any other.
            steps = rows.new_empty(rows.shape)
            steps[:, order] = _round_columns((rows * used).T[order], ordered, factor).T
            unused = (rows / scale).round().clamp_(-zero_point, grid.top - zero_point)
            return grid, steps.where(used, unused)

        rows = parts_of_rows(*shape, WEIGHTS_AT_A_TIME)
        return self.joined(shape, ((part, *rounded(weight[part].float())) for part in rows))

    def _searched(self, rows: Tensor, importance: Tensor) -> Grid:
        """The grid of each group of [rows, columns]; a search's copies stay in a core's cache if it sees few rows."""
        import torch

        def searched_for(groups: Tensor) -> Grid:
            return self.storable(groups, self.fit(groups, importance), importance)

        few = [searched_for(self.grouped(rows[part])) for part in parts_of_rows(*rows.shape)]
        scale, zero_point = (torch.cat([getattr(grid, name) for grid in few]) for name in ("scale", "zero_point"))
        return Grid(scale, zero_point, self.bits)


def _by_column(of_groups: Tensor, group_size: int, columns: int) -> Tensor:
    """[rows, groups, 1] -> [rows, columns]"""
    return of_groups.squeeze(-1).repeat_interleave(group_size, dim=1)[:, :columns]


def _importance(diagonal: Tensor, order: Tensor, factor: Tensor, damping: float) -> Tensor:
    """What an error of each column costs once the columns after it in ``order`` made up for it, of the largest: float32
    [columns]. Columns that no input of the calibration reached are worth the damping; others may reach them."""
    cost = diagonal.new_empty(diagonal.shape)
    cost[order] = factor.diagonal().square().reciprocal()
    cost = cost.where(diagonal != 0, damping * diagonal.mean())
    largest = cost.amax()
    return cost / largest if largest > 0 else cost.new_ones(cost.shape)


def _inverse_factor(gram: Tensor, damping: float) -> Tensor:
    """U, upper triangular, with UT U the inverse of the damped Gram matrix: float32 [columns, columns]"""
    import torch

    matrix = gram.double()
    if not matrix.isfinite().all():
        raise RecipeError("the calibration's activations are not finite")
    diagonal = matrix.diagonal()
    diagonal[diagonal == 0] = 1.0
    mean, added = float(diagonal.mean()), 0.0
    while damping <= MOST_DAMPING:
        diagonal += damping * mean - added
        added = damping * mean
        lower, failed = torch.linalg.cholesky_ex(matrix)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not failed:
            return upper.float()
        damping *= 10
    raise RecipeError("the Gram matrix of the layer's inputs cannot be inverted, however much it is damped")


def _round_columns(weight: Tensor, grid: Grid, factor: Tensor) -> Tensor:
    """float32 [columns, rows], overwritten -> steps [columns, rows]; the grid's tensors are [columns, rows] too.

    Columns of the weight stand as rows here, so that each is read and written in one piece: a third of the time.
    """
    steps = weight.new_empty(weight.shape)
    columns = weight.shape[0]
    for start in range(0, columns, COLUMNS_AT_A_TIME):
        end = min(start + COLUMNS_AT_A_TIME, columns)
        errors = weight.new_empty((end - start, weight.shape[1]))
        for column in range(start, end):
            value, scale, zero_point = weight[column], grid.scale[column], grid.zero_point[column]
            steps[column] = (value / scale).round_().clamp_(-zero_point, grid.top - zero_point)
            errors[column - start] = error = (value - steps[column] * scale) / factor[column, column]
            weight[column + 1 : end].addr_(factor[column, column + 1 : end], error, alpha=-1)
        weight[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return steps
