"""Weights of LiteRT's parts: as the recipe says, on grids that XNNPACK can hold; read when they are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from pocketvlm.errors import ExportError
from pocketvlm.export.executorch.weights import with_scales_for_xnnpack
from pocketvlm.export.litert.program import Array, Constant
from pocketvlm.export.store.weights import FloatWeight, GroupedWeight, StoredVectors, StoredWeight
from pocketvlm.models.checkpoint import ReadWeight, TensorInfo
from pocketvlm.quant import GroupQuantizer, quantizer_of
from pocketvlm.quant.groups import CHANNEL
from pocketvlm.quant.tensors import PackedTensor, unpack
from pocketvlm.recipe import Recipe

#: XNNPACK's blocks are multiples of this.
SMALLEST_BLOCK = 32


@dataclass(frozen=True)
class FloatMatrix:
    """float32 [rows, columns]"""

    shape: tuple[int, ...]
    values: Constant


@dataclass(frozen=True)
class QuantizedMatrix:
    """Codes of 4 or 8 bits, [rows, columns] as stored, and what they count in.

    scales: float32 [rows], or float16 [rows, groups] of blocks of ``block`` codes. ``columns`` are those of the weight;
    stored are as many as whole blocks take.
    """

    shape: tuple[int, int]
    columns: int
    bits: int
    block: int | None
    scales: Array
    codes: Constant


Matrix = FloatMatrix | QuantizedMatrix


def with_rows_for_litert(recipe: Recipe) -> Recipe:
    """The recipe as LiteRT can have it: scales that XNNPACK holds exactly, and matrices of 8 bits with one scale a row.

    LiteRT has no product with groups of 8 bits.

    :raises RecipeError: zero points are asked for
    """
    rules = []
    for rule in with_scales_for_xnnpack(recipe).rules:
        quantizer = quantizer_of(rule)
        if isinstance(quantizer, GroupQuantizer) and quantizer.bits == 8:
            rule = replace(rule, options={**rule.options, "group_size": CHANNEL})
        rules.append(rule)
    return replace(recipe, rules=tuple(rules))


class LitertWeights(Protocol):
    """Where the graphs get weights."""

    def matrix(self, name: str) -> Matrix:
        """A linear layer's [rows, columns]."""

    def table(self, name: str) -> Matrix:
        """An embedding table's [rows, columns]."""

    def vector(self, name: str) -> Array:
        """A norm, bias, convolution or position embedding, float32."""

    def optional_vector(self, name: str) -> Array | None:
        """A bias, where the model has it."""


class StoredMatrices(StoredVectors):
    """Each weight quantized as the recipe says, once, and kept in a file until the parts are written."""

    def matrix(self, name: str) -> Matrix:
        return self._described(self._store.linear(name))

    def table(self, name: str) -> Matrix:
        return self._described(self._store.table(name))

    def _described(self, weight: StoredWeight) -> Matrix:
        if isinstance(weight, FloatWeight):
            shape = weight.region.shape[::-1] if weight.transposed else weight.region.shape
            return FloatMatrix(shape, Constant(weight.region.length, lambda: self._floats(weight)))
        assert isinstance(weight, GroupedWeight), f"{weight.name} is stored for products of integers"
        per_channel = self._store.is_per_channel(weight)
        return quantized_matrix(weight, per_channel=per_channel, read=lambda: self._store.packed(weight))


class FloatMatrices:
    """The same numbers in float32: with them the graphs compute what PyTorch does, to rounding.

    ``rows``: of each matrix these alone.
    """

    def __init__(self, read: ReadWeight, tensors: Mapping[str, TensorInfo], rows: range | None = None) -> None:
        self._read, self._tensors, self._rows = read, tensors, rows

    def matrix(self, name: str) -> FloatMatrix:
        shape, rows = tuple(self._tensors[name].shape), self._rows
        if rows is None:
            return FloatMatrix(shape, Constant(4 * math.prod(shape), lambda: self.vector(name)))
        chosen = torch.arange(rows.start, rows.stop)
        return FloatMatrix(
            (len(rows), *shape[1:]),
            Constant(4 * len(rows) * math.prod(shape[1:]), lambda: self._read(name, chosen).float().numpy()),
        )

    table = matrix

    def vector(self, name: str) -> Array:
        return np.ascontiguousarray(self._read(name).float().numpy())

    def optional_vector(self, name: str) -> Array | None:
        return self.vector(name) if name in self._tensors else None


def quantized_matrix(weight: GroupedWeight, *, per_channel: bool, read: Callable[[], PackedTensor]) -> QuantizedMatrix:
    """A stored weight's codes and scales as LiteRT has them; ``read`` maps its bytes, here and when they are written.

    :raises ExportError: naming a weight that XNNPACK has no kernel for
    """
    name, scales = weight.name, read().scales
    if weight.zero_points is not None:
        raise ExportError(f"{name} has zero points, and XNNPACK's kernels have none: use a symmetric quantizer")
    if not (scales > 0).all():
        raise ExportError(f"{name} has scales that are not positive: XNNPACK takes none")
    if not per_channel and weight.bits == 8:
        raise ExportError(
            f"{name} has groups of 8 bits, of which LiteRT has no product: choose group_size = {CHANNEL!r}"
        )
    if not per_channel and weight.group_size % SMALLEST_BLOCK:
        raise ExportError(
            f"{name} is in groups of {weight.group_size}; XNNPACK's are multiples of {SMALLEST_BLOCK}: "
            "choose another group size"
        )
    columns = weight.columns if per_channel else scales.shape[1] * weight.group_size
    return QuantizedMatrix(
        shape=(weight.rows, columns),
        columns=weight.columns,
        bits=weight.bits,
        block=None if per_channel else weight.group_size,
        scales=np.array(scales[:, 0]) if per_channel else _halves(name, scales),
        codes=Constant(-(-weight.rows * columns * weight.bits // 8), lambda: signed_codes(weight, read(), columns)),
    )


def signed_codes(weight: GroupedWeight, packed: PackedTensor, columns: int) -> Array:
    """The first ``columns`` of each row as two's complement, row behind row: uint8, of two codes each where they have
    4 bits, the first in the lower half."""
    middle = np.uint8(0x88 if weight.bits == 4 else 0x80)
    rows, groups, stored = packed.codes.shape
    if groups * stored * 8 // weight.bits == columns:
        return packed.codes ^ middle
    # The last group of a row is longer than the row: [rows, groups, group_size] -> [rows, columns]
    codes = unpack(packed, bits=weight.bits, columns=weight.columns).codes.reshape(rows, -1)[:, :columns]
    if weight.bits == 8:
        return codes ^ middle
    flat = codes.reshape(-1) ^ np.uint8(8)
    flat = np.pad(flat, (0, flat.size % 2))
    pairs: Array = flat[0::2] | (flat[1::2] << np.uint8(4))
    return pairs


def _halves(name: str, scales: Array) -> Array:
    """Scales of blocks, which the file has as float16 and XNNPACK as bfloat16: both must hold them.

    :raises ExportError: one would be rounded
    """
    halves = scales.astype(np.float16)
    bits = np.ascontiguousarray(scales, np.float32).view(np.uint32)
    if (bits & 0xFFFF).any() or not np.array_equal(halves.astype(np.float32), scales):
        raise ExportError(f'{name} has scales that 16 bits do not hold: quantize it with scales = "bfloat16"')
    return halves
