"""Quantized weights: codes, scales and zero points of a matrix in groups along its rows, and their packed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

#: Columns up to which a sum of products of two bytes fits into 32 bits, signed or not.
MOST_COLUMNS = (1 << 31) // 255**2

Codes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GroupedTensor:
    """A matrix [rows, columns] as unsigned codes in groups of ``group_size`` along the columns.

    weight = (code - zero point) * scale. The last group of a row is padded with the zero point where ``group_size``
    does not divide ``columns`` (SigLIP's 4304 = 33 * 128 + 80), so that the padding is worth zero.

    codes: uint8 [rows, groups, group_size], one code a byte; scales: float32 [rows, groups];
    zero_points: uint8 [rows, groups], or None where all are 2 ** (bits - 1) (symmetric). ``per_channel``: the groups of
    a row were quantized as one, and all have its scale and zero point.
    """

    codes: Codes
    scales: Floats
    zero_points: Codes | None
    bits: int
    columns: int
    per_channel: bool = False

    @property
    def rows(self) -> int:
        return self.codes.shape[0]

    @property
    def groups(self) -> int:
        return self.codes.shape[1]

    @property
    def group_size(self) -> int:
        return self.codes.shape[2]

    @property
    def bits_per_weight(self) -> float:
        """Bits of packed codes, scales and zero points together, by weight."""
        bytes_of_group = self.group_size * self.bits / 8 + self.scales.itemsize
        bytes_of_row = self.groups * bytes_of_group
        if self.zero_points is not None:
            bytes_of_row += math.ceil(self.groups * self.bits / 8)
        return 8 * bytes_of_row / self.columns

    def scaled(self, factor: float) -> GroupedTensor:
        """The quantized form of weight * factor: the same codes, other scales."""
        return replace(self, scales=(self.scales * np.float32(factor)).astype(np.float32))

    def dequantize(self) -> Floats:
        """float32 [rows, columns]"""
        weights = self.codes.astype(np.float32)
        weights -= float(1 << (self.bits - 1)) if self.zero_points is None else self.zero_points[..., None]
        weights *= self.scales[..., None]
        # [rows, groups, group_size] -> [rows, groups * group_size] -> [rows, columns]
        result: Floats = weights.reshape(self.rows, -1)[:, : self.columns]
        return result


@dataclass(frozen=True)
class IntegerMatrix:
    """An 8-bit matrix [rows, columns] with one scale a row and no zero points, as MatMulIntegerToFloat reads it.

    codes: int8 [columns, rows]; scales: float32 [rows].
    """

    codes: npt.NDArray[np.int8]
    scales: Floats

    @property
    def bits_per_weight(self) -> float:
        """Bits of codes and scales together, by weight."""
        return 8 * (self.codes.nbytes + self.scales.nbytes) / self.codes.size

    def dequantize(self) -> Floats:
        """float32 [rows, columns]"""
        result: Floats = self.codes.T.astype(np.float32) * self.scales[:, None]
        return result


@dataclass(frozen=True)
class PackedTensor:
    """The bytes that MatMulNBits and GatherBlockQuantized read (ONNX Runtime's contrib operators).

    codes: uint8 [rows, groups, group_size * bits / 8], the lower code in the lower half of a byte;
    scales: float32 [rows, groups]; zero_points: uint8 [rows, ceil(groups * bits / 8)] or None.
    """

    codes: Codes
    scales: Floats
    zero_points: Codes | None


def pack(tensor: GroupedTensor) -> PackedTensor:
    """Pack codes and zero points to ``tensor.bits`` bits; ``unpack`` is its exact inverse."""
    if tensor.bits == 8:
        return PackedTensor(tensor.codes, tensor.scales, tensor.zero_points)
    zero_points = tensor.zero_points
    if zero_points is not None:
        zero_points = _pack_pairs(np.pad(zero_points, ((0, 0), (0, tensor.groups % 2))))
    return PackedTensor(_pack_pairs(tensor.codes), tensor.scales, zero_points)


def unpack(packed: PackedTensor, *, bits: int, columns: int) -> GroupedTensor:
    """The codes of a packed matrix, one a byte."""
    if bits == 8:
        return GroupedTensor(packed.codes, packed.scales, packed.zero_points, bits, columns)
    groups = packed.scales.shape[1]
    zero_points = None if packed.zero_points is None else _unpack_pairs(packed.zero_points)[:, :groups]
    return GroupedTensor(_unpack_pairs(packed.codes), packed.scales, zero_points, bits, columns)


def is_integer_matrix(tensor: GroupedTensor) -> bool:
    """Whether whole rows can be multiplied as integers."""
    symmetric = tensor.zero_points is None
    return tensor.bits == 8 and tensor.per_channel and symmetric and tensor.columns <= MOST_COLUMNS


def integer_matrix(tensor: GroupedTensor) -> IntegerMatrix:
    """The same codes and scales without blocks; ``is_integer_matrix`` says of which tensors there is one."""
    # [rows, groups, group_size] -> [rows, groups * group_size] -> [columns, rows]
    codes = tensor.codes.reshape(tensor.rows, -1)[:, : tensor.columns].T
    # Around 128, unsigned; with the highest bit turned they are signed around 0.
    signed = np.ascontiguousarray(codes ^ np.uint8(128)).view(np.int8)
    return IntegerMatrix(signed, np.ascontiguousarray(tensor.scales[:, 0]))


def _pack_pairs(values: Codes) -> Codes:
    """uint8 [..., n] of 4-bit values -> uint8 [..., n / 2]"""
    result: Codes = values[..., 0::2] | (values[..., 1::2] << np.uint8(4))
    return result


def _unpack_pairs(values: Codes) -> Codes:
    """uint8 [..., n / 2] -> uint8 [..., n] of 4-bit values"""
    pairs = np.stack([values & np.uint8(15), values >> np.uint8(4)], axis=-1)  # [..., n / 2, 2]
    return pairs.reshape(*values.shape[:-1], -1)  # [..., n / 2, 2] -> [..., n]
