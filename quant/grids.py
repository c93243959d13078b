"""The uniform grid that a group of weights is rounded to: found by its range, searched, scaled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

#: A candidate replaces a grid only if its error is smaller by more than the rounding of a float32 sum accounts for.
MARGIN = 1 - 1e-4


@dataclass(frozen=True)
class Grid:
    """The values of each group: whole steps of ``scale``, from -``zero_point`` to 2 ** ``bits`` - 1 - ``zero_point``.

    scale: float32 [rows, groups, 1], not zero; zero_point: the code of the value 0, float32 [rows, groups, 1], whole.
    """

    scale: Tensor
    zero_point: Tensor
    bits: int

    @property
    def top(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    def steps(self, groups: Tensor) -> Tensor:
        """[rows, groups, group_size] -> the nearest value's number of steps from zero: code - zero point"""
        # between two numbers: clamping between two tensors takes four times as long
        codes = (groups / self.scale).round_().add_(self.zero_point).clamp_(0, self.top)
        return codes.sub_(self.zero_point)

    def scaled(self, factor: Tensor) -> Grid:
        """The grid of groups * ``factor``; a scale too small for float32 leaves zeros."""
        return replace(self, scale=_not_zero(self.scale * factor))

    def residual(self, groups: Tensor) -> Tensor:
        """[rows, groups, group_size] -> dequantized minus original"""
        return self.steps(groups).mul_(self.scale).sub_(groups)


@dataclass(frozen=True)
class Fitted:
    """A grid and its error in each group, [rows, groups, 1]; what an error is, is the quantizer's to say."""

    grid: Grid
    error: Tensor

    def or_better(self, other: Fitted) -> Fitted:
        """For each group the grid with the smaller error."""
        better = other.error < self.error * MARGIN
        mine, its = self.grid, other.grid
        grid = Grid(
            its.scale.where(better, mine.scale),
            its.zero_point.where(better, mine.zero_point),
            mine.bits,
        )
        return Fitted(grid, other.error.where(better, self.error))


def full_range(groups: Tensor, bits: int, *, symmetric: bool, positive: bool = False) -> Grid:
    """The grid that spans each group's range.

    Symmetric: the value of largest magnitude, with its sign, is the code 0, so that all 2 ** bits codes are used. Where
    scales have to be ``positive``, that is so for a negative value only; the largest positive one is the highest code.
    Asymmetric: from the smallest to the largest value; zero is always among them, so that padding and groups of zeros
    stay exact.
    """
    middle, top = 1 << (bits - 1), (1 << bits) - 1
    if symmetric:
        low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)  # [rows, groups, 1]
        if positive:
            scale = _not_zero((high / (middle - 1)).maximum(low / -middle).clamp(min=0))
        else:
            scale = _not_zero(high.where(high >= -low, low) / -middle)
        return Grid(scale, scale.new_full(scale.shape, middle), bits)
    low, high = groups.amin(-1, keepdim=True).clamp(max=0), groups.amax(-1, keepdim=True).clamp(min=0)
    scale = _not_zero((high - low) / top)
    return Grid(scale, (-low / scale).round().clamp(0, top), bits)


def power_of_two(groups: Tensor) -> Tensor:
    """[rows, groups, 1]: the power of two next to each group's largest magnitude.

    A search divides by it, which is exact, so that squares neither overflow nor vanish, and its errors are those of the
    very values that will be dequantized.
    """
    largest = groups.abs().amax(-1, keepdim=True)
    _, exponent = largest.frexp()
    return largest.new_ones(largest.shape).ldexp(exponent.clamp(-126, 126))


def _not_zero(scale: Tensor) -> Tensor:
    """Where there is nothing to scale, the scale is 1."""
    return scale.masked_fill(scale == 0, 1.0)
