"""What the quantizers share: a matrix in groups along its rows, and the uniform grid that a group is rounded to.

A quantizer is a frozen config that says how a group's grid is found (``fit``); the rest is the same for all of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pocketvlm.errors import RecipeError
from pocketvlm.quant.tensors import Floats, GroupedTensor

#: The blocks that ONNX Runtime 1.29's MatMulNBits knows.
BLOCK_SIZES = (16, 32, 64, 128, 256)
#: What a scale may be.
SCALES = ("float32", "positive", "bfloat16")
#: ``group_size`` of a whole row: one scale an output channel.
CHANNEL = "channel"
#: Weights fitted at a time (one row at least): a search holds some eight float32 copies of them. These are 1 MB each,
#: which stay in a core's cache, however large the matrix is.
WEIGHTS_AT_A_TIME = 1 << 18
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
            torch.where(better, its.scale, mine.scale),
            torch.where(better, its.zero_point, mine.zero_point),
            mine.bits,
        )
        return Fitted(grid, torch.where(better, other.error, self.error))


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
            scale = _not_zero(torch.maximum(high / (middle - 1), low / -middle).clamp(min=0))
        else:
            scale = _not_zero(torch.where(high >= -low, high, low) / -middle)
        return Grid(scale, torch.full_like(scale, middle), bits)
    low, high = groups.amin(-1, keepdim=True).clamp(max=0), groups.amax(-1, keepdim=True).clamp(min=0)
    scale = _not_zero((high - low) / top)
    return Grid(scale, (-low / scale).round().clamp(0, top), bits)


def power_of_two(groups: Tensor) -> Tensor:
    """[rows, groups, 1]: the power of two next to each group's largest magnitude.

    A search divides by it, which is exact, so that squares neither overflow nor vanish, and its errors are those of the
    very values that will be dequantized.
    """
    largest = groups.abs().amax(-1, keepdim=True)
    _, exponent = torch.frexp(largest)
    return torch.ldexp(torch.ones_like(largest), exponent.clamp(-126, 126))


@dataclass(frozen=True)
class GroupQuantizer(ABC):
    """``bits`` of 4 or 8 in groups of ``group_size`` along a row; ``symmetric`` has no zero points.

    A ``group_size`` of "channel" is the whole row. MatMulNBits has no such block: the row is stored in blocks that all
    repeat its scale and its zero point, which is exact.

    ``scales`` says what a scale may be: "float32" any number, "positive" one above zero, "bfloat16" one above zero that
    bfloat16 holds exactly. XNNPACK asks for the second where a row has one scale, and for the third in groups.
    """

    #: What one core fits, for an export's estimate, where it is far slower than reading and writing.
    WEIGHTS_PER_SECOND: ClassVar[float] = math.inf
    #: Whether ``quantize`` has to know the layer's inputs.
    CALIBRATED: ClassVar[bool] = False

    bits: Literal[4, 8]
    group_size: int | Literal["channel"]
    symmetric: bool = True
    scales: Literal["float32", "positive", "bfloat16"] = field(default="float32", kw_only=True)

    def __post_init__(self) -> None:
        if not _whole(self.bits) or self.bits not in (4, 8):
            raise RecipeError(f"bits is {self.bits!r}; it is 4 or 8")
        if self.group_size != CHANNEL and (not _whole(self.group_size) or self.group_size not in BLOCK_SIZES):
            raise RecipeError(f'group_size is {self.group_size!r}; it is 16, 32, 64, 128, 256 or "{CHANNEL}"')
        if not isinstance(self.symmetric, bool):
            raise RecipeError(f"symmetric is {self.symmetric!r}; it is true or false")
        if self.scales not in SCALES:
            raise RecipeError(f"scales is {self.scales!r}; it is one of {', '.join(SCALES)}")

    @abstractmethod
    def fit(self, groups: Tensor) -> Grid:
        """float32 [rows, groups, group_size], the last one padded with zeros -> the grid of each group.

        Its scales are positive where ``scales`` asks for that; ``grid`` rounds them to bfloat16.
        """

    def grid(self, groups: Tensor) -> Grid:
        """The grid that weights are rounded to, as it will be stored: so no scale is rounded after its codes are."""
        fitted = self.fit(groups)
        if self.scales == "float32":
            return fitted
        # A subnormal scale is flushed to zero on the way.
        scale = fitted.scale.clamp(min=torch.finfo(torch.float32).tiny)
        return replace(fitted, scale=scale.bfloat16().float() if self.scales == "bfloat16" else scale)

    def quantize(self, weight: Tensor, gram: Tensor | None = None) -> GroupedTensor:
        """[rows, columns] of any float type -> codes, scales and zero points.

        ``gram``: the sum of x xT over the layer's inputs x, float32 [columns, columns]; a quantizer that is not
        ``CALIBRATED`` does not look at it.

        :raises RecipeError: when the weight is not a matrix, or has values that no float32 scale reaches
        """
        shape = matrix_shape(tuple(weight.shape))
        return self.joined(shape, ((part, *self.rounded(weight[part].float())) for part in parts_of_rows(*shape)))

    def rounded(self, rows: Tensor) -> tuple[Grid, Tensor]:
        """float32 [rows, columns] -> the grid of each group, and each weight's steps on it."""
        values = self.grouped(rows)
        grid = self.grid(values)
        return grid, grid.steps(values).flatten(1)  # [rows, groups, group_size] -> [rows, groups * group_size]

    def joined(self, shape: tuple[int, int], parts: Iterable[tuple[slice, Grid, Tensor]]) -> GroupedTensor:
        """Grids and steps [rows, columns] of some rows after the others as one tensor, in blocks as on disk."""
        rows, columns = shape
        block = self._block_size(columns)
        groups = -(-columns // block)
        codes = np.empty((rows, groups, block), np.uint8)
        scales, zero_points = np.empty((rows, groups), np.float32), np.empty((rows, groups), np.uint8)
        for part, grid, steps in parts:
            scales[part] = _finite(grid.scale)
            # [rows, columns] -> [rows, blocks * block] -> [rows, blocks, block]; padding is step 0
            steps = F.pad(steps[:, :columns], (0, groups * block - columns)).view(-1, groups, block)
            codes[part] = steps.add_(grid.zero_point).to(torch.uint8).numpy()
            zero_points[part] = grid.zero_point.squeeze(-1).to(torch.uint8).numpy()
        per_channel = self.group_size == CHANNEL
        return GroupedTensor(codes, scales, None if self.symmetric else zero_points, self.bits, columns, per_channel)

    def stored_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes that a matrix of ``shape`` takes: codes, scales, zero points."""
        rows, columns = matrix_shape(shape)
        return rows * _row_bytes(columns, self._block_size(columns), self.bits, symmetric=self.symmetric)

    def _block_size(self, columns: int) -> int:
        """The group size on disk. Of a whole row: a block that divides it (ONNX Runtime's fastest kernels on arm64 ask
        for that), else the one that takes the fewest bytes."""
        if self.group_size != CHANNEL:
            return int(self.group_size)
        dividing = [size for size in BLOCK_SIZES if size >= 64 and columns % size == 0]
        if dividing:
            return dividing[-1]
        return min(BLOCK_SIZES, key=lambda size: _row_bytes(columns, size, self.bits, symmetric=self.symmetric))

    def grouped(self, rows: Tensor) -> Tensor:
        """[rows, columns] -> [rows, groups, group_size], the last group padded with zeros."""
        size = rows.shape[1] if self.group_size == CHANNEL else int(self.group_size)
        padded = F.pad(rows, (0, -rows.shape[1] % size))
        return padded.view(rows.shape[0], -1, size)  # [rows, columns] -> [rows, groups, group_size]


def parts_of_rows(rows: int, columns: int, weights: int = WEIGHTS_AT_A_TIME) -> Iterator[slice]:
    """Slices of a matrix's rows, each of about so many weights."""
    at_a_time = max(1, weights // columns)
    for first in range(0, rows, at_a_time):
        yield slice(first, first + at_a_time)


def _finite(scale: Tensor) -> Floats:
    """[rows, groups, 1] -> [rows, groups]. One value of a group that is not finite makes its scale so."""
    if not torch.isfinite(scale).all():
        raise RecipeError("NaN, infinite or enormous values cannot be quantized")
    result: Floats = scale.squeeze(-1).numpy()
    return result


def _not_zero(scale: Tensor) -> Tensor:
    """Where there is nothing to scale, the scale is 1."""
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def _row_bytes(columns: int, block: int, bits: int, *, symmetric: bool) -> int:
    groups = -(-columns // block)
    zero_points = 0 if symmetric else -(-groups * bits // 8)
    return groups * (block * bits // 8 + 4) + zero_points


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns.

    :raises RecipeError: when it is no matrix
    """
    if len(shape) != 2 or 0 in shape:
        raise RecipeError(f"only matrices can be quantized, not a tensor of shape {list(shape)}")
    return shape[0], shape[1]


def _whole(value: object) -> bool:
    """An integer, not 4.0 and not true."""
    return type(value) is int
