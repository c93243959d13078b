"""What the quantizers share: a matrix in groups along its rows, each rounded to its own grid.

A quantizer is a frozen config that says how a group's grid is found (``fit``); the rest is the same for all of them.
What a config says, its sizes among it, needs no PyTorch: that is imported by what is computed with it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from pocketvlm.errors import RecipeError
from pocketvlm.quant.grids import Grid
from pocketvlm.quant.multiples import in_multiples
from pocketvlm.quant.tensors import MOST_COLUMNS, Floats, GroupedTensor

if TYPE_CHECKING:
    from torch import Tensor

#: The blocks that ONNX Runtime 1.29's MatMulNBits knows.
BLOCK_SIZES = (16, 32, 64, 128, 256)
#: What a scale may be.
SCALES = ("float32", "positive", "bfloat16", "multiples")
#: Why no bundle has groups of 4 bits for two kinds of back ends.
APART = (
    "whose scales are bfloat16 numbers for XNNPACK and multiples of one a row for Qualcomm's NPU: export a bundle for "
    'each, or choose group_size = "channel"'
)
#: From here on float16 holds each of bfloat16's numbers, up to 65280: its smallest are multiples of 2 ** -24, and a
#: number of bfloat16 has eight digits.
SMALLEST_HALF = 2.0**-17
#: ``group_size`` of a whole row: one scale an output channel.
CHANNEL = "channel"
#: Weights fitted at a time (one row at least): a search holds some eight float32 copies of them. These are 1 MB each,
#: which stay in a core's cache, however large the matrix is.
WEIGHTS_AT_A_TIME = 1 << 18


@dataclass(frozen=True)
class GroupQuantizer(ABC):
    """``bits`` of 4 or 8 in groups of ``group_size`` along a row; ``symmetric`` has no zero points.

    A ``group_size`` of "channel" is the whole row. MatMulNBits has no such block: the row is stored in blocks that all
    repeat its scale and its zero point, which is exact.

    ``scales`` says what a scale may be: "float32" any number, "positive" one above zero, "bfloat16" one above zero that
    bfloat16 holds exactly, and float16 too. XNNPACK asks for the second where a row has one scale, and for the third in
    groups; a .tflite file has those as float16. "multiples" is one above zero that is a whole multiple, up to 16 times,
    of one number of its row, a sixteenth of the row's largest scale: Qualcomm's low power block quantization.
    """

    #: What one core fits, for an export's estimate, where it is far slower than reading and writing.
    WEIGHTS_PER_SECOND: ClassVar[float] = math.inf
    #: Whether ``quantize`` has to know the layer's inputs.
    CALIBRATED: ClassVar[bool] = False

    bits: Literal[4, 8]
    group_size: int | Literal["channel"]
    symmetric: bool = True
    scales: Literal["float32", "positive", "bfloat16", "multiples"] = field(default="float32", kw_only=True)

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
        return self.storable(groups, self.fit(groups))

    def storable(self, groups: Tensor, fitted: Grid, importance: Tensor | None = None) -> Grid:
        """The grid that was fitted to some groups, with scales that are what ``scales`` says.

        ``importance`` [1, groups, group_size] weighs the columns' errors where there is a choice.
        """
        if self.scales == "float32":
            return fitted
        if self.scales == "bfloat16":
            return replace(fitted, scale=fitted.scale.clamp(min=SMALLEST_HALF).bfloat16().float())
        if self.scales == "multiples":
            return in_multiples(groups, fitted, importance)
        # A subnormal scale is flushed to zero on the way.
        return replace(fitted, scale=fitted.scale.clamp(min=float(np.finfo(np.float32).tiny)))

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
        from torch.nn.functional import pad

        rows, columns = shape
        block = self._block_size(columns)
        groups = -(-columns // block)
        codes = np.empty((rows, groups, block), np.uint8)
        scales, zero_points = np.empty((rows, groups), np.float32), np.empty((rows, groups), np.uint8)
        for part, grid, steps in parts:
            scales[part] = _finite(grid.scale)
            # [rows, columns] -> [rows, blocks * block] -> [rows, blocks, block]; padding is step 0
            steps = pad(steps[:, :columns], (0, groups * block - columns)).view(-1, groups, block)
            codes[part] = steps.add_(grid.zero_point).byte().numpy()
            zero_points[part] = grid.zero_point.squeeze(-1).byte().numpy()
        per_channel = self.group_size == CHANNEL
        return GroupedTensor(codes, scales, None if self.symmetric else zero_points, self.bits, columns, per_channel)

    def stored_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes that a matrix of ``shape`` takes: codes, scales, zero points."""
        rows, columns = matrix_shape(shape)
        return rows * _row_bytes(columns, self._block_size(columns), self.bits, symmetric=self.symmetric)

    def integer_bytes(self, shape: tuple[int, ...]) -> int:
        """The same where whole rows are stored as integers, if they can be (``tensors.is_integer_matrix``)."""
        rows, columns = matrix_shape(shape)
        whole_rows = self.group_size == CHANNEL and self.bits == 8 and self.symmetric
        return rows * (columns + 4) if whole_rows and columns <= MOST_COLUMNS else self.stored_bytes(shape)

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
        from torch.nn.functional import pad

        size = rows.shape[1] if self.group_size == CHANNEL else int(self.group_size)
        padded = pad(rows, (0, -rows.shape[1] % size))
        return padded.view(rows.shape[0], -1, size)  # [rows, columns] -> [rows, groups, group_size]


def parts_of_rows(rows: int, columns: int, weights: int = WEIGHTS_AT_A_TIME) -> Iterator[slice]:
    """Slices of a matrix's rows, each of about so many weights."""
    at_a_time = max(1, weights // columns)
    for first in range(0, rows, at_a_time):
        yield slice(first, first + at_a_time)


def _finite(scale: Tensor) -> Floats:
    """[rows, groups, 1] -> [rows, groups]. One value of a group that is not finite makes its scale so."""
    if not scale.isfinite().all():
        raise RecipeError("NaN, infinite or enormous values cannot be quantized")
    result: Floats = scale.squeeze(-1).numpy()
    return result


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
