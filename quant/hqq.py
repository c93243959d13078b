"""HQQ, half-quadratic quantization (Badri & Shaji 2023, https://mobiusml.github.io/hqq_blog).

It minimizes the l_p norm, p < 1, of what rounding changes: a few large errors, at outliers, weigh less than under a
squared error. The reference, ``optimize_weights_proximal`` of mobiusml/hqq, alternates the codes, the part of the error
that counts as outliers (a shrinkage) and, in closed form, a real zero point; scales stay those of the range.

Here three things differ:

- Zero points are whole. ONNX Runtime 1.29's MatMulNBits takes float ones on the CPU, at 4 bits only, but has no kernel
  for them: it dequantizes the matrix in every call (2304 x 2304, one token, one thread: 9.2 ms, not 0.1).
- The scale is updated too, in closed form. With the range's scale a whole zero point stays: over the full range the
  mean error, by which the update moves it, is less than half a step (so for more than 1,999 of 2,000 groups of
  Gaussian, Student-t and skewed weights).
- Errors are measured in steps of the full range's scale. In units of the weights the reference's ``beta`` of 10 counts
  no error below 0.17 as an outlier, which is more than most models' weights are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pocketvlm.errors import RecipeError
from pocketvlm.quant.grids import Fitted, Grid, full_range, power_of_two
from pocketvlm.quant.groups import GroupQuantizer

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Hqq(GroupQuantizer):
    """``lp_norm`` is p; ``beta`` weighs the coupling of error and outliers and grows by ``kappa`` each iteration.

    Defaults are the reference's. The best of all iterations is kept for each group, so that no l_p error is larger
    than that of asymmetric round to nearest.
    """

    WEIGHTS_PER_SECOND: ClassVar[float] = 4e6

    symmetric: bool = False
    lp_norm: float = 0.7
    beta: float = 10.0
    kappa: float = 1.01
    iterations: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.symmetric:
            raise RecipeError("symmetric is true; HQQ moves zero points, so it is false")
        for name, low, high in (("lp_norm", 0.1, 1.0), ("beta", 0.1, 1e6), ("kappa", 1.0, 2.0), ("iterations", 1, 100)):
            value = getattr(self, name)
            kinds = (int,) if name == "iterations" else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
                raise RecipeError(f"{name} is {value!r}; it lies between {low} and {high}")

    def fit(self, groups: Tensor) -> Grid:
        unit = power_of_two(groups)
        values = groups / unit
        grid = full_range(values, self.bits, symmetric=False)
        # In steps of this scale the shrinkage x - |x| ** (p - 1) / beta has this beta. In float64: the last bit of a
        # float32 power depends on its place in the tensor (vector or remainder), so on the rows fitted with it.
        beta = self.beta * grid.scale.double().pow(self.lp_norm - 2).float()
        best, grid = _iterate(values, grid, beta, self.lp_norm)
        for _ in range(self.iterations):
            beta = beta * self.kappa
            fitted, grid = _iterate(values, grid, beta, self.lp_norm)
            best = best.or_better(fitted)
        return best.grid.scaled(unit)


def _iterate(groups: Tensor, grid: Grid, beta: Tensor, p: float) -> tuple[Fitted, Grid]:
    """The grid with its l_p error, and the next one: the best zero point, then scale, for the codes without outliers.

    Padding is worth zero on every grid: it votes for the zero point as it is.
    """
    steps = grid.steps(groups)
    residual = steps * grid.scale - groups
    size = residual.abs()
    power = size.pow(p)
    # The proximal step of |x| ** p, a generalized soft threshold: small errors become 0, large ones nearly stay.
    outlier = residual.sign() * (size - power / (beta * size.clamp(min=1e-20))).relu()
    wanted = groups + outlier
    codes = steps + grid.zero_point
    zero_point = (codes - wanted / grid.scale).mean(-1, keepdim=True).round().clamp(0, grid.top)
    steps = codes - zero_point
    scale = (steps * wanted).sum(-1, keepdim=True) / steps.square().sum(-1, keepdim=True)
    usable = scale > 0.1 * grid.scale  # no collapse, and not 0 / 0: a group of zeros
    following = Grid(scale.where(usable, grid.scale), zero_point, grid.bits)
    return Fitted(grid, power.sum(-1, keepdim=True)), following
