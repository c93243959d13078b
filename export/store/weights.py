"""Weights on their way from a checkpoint into a bundle: read, quantized, packed and written one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from pocketvlm.bundle.archive import PAGE
from pocketvlm.bundle.record import TensorPrecision
from pocketvlm.errors import ExportError, RecipeError, located
from pocketvlm.export.reference.activations import Activations
from pocketvlm.export.store.as_stored import in_blocks
from pocketvlm.export.store.finished import Finished
from pocketvlm.export.store.split import too_large
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.quant import AsStored, GroupedTensor, GroupQuantizer, Keep, quantizer_of
from pocketvlm.quant.groups import matrix_shape, parts_of_rows
from pocketvlm.quant.tensors import (
    Codes,
    Floats,
    IntegerMatrix,
    PackedTensor,
    integer_matrix,
    is_integer_matrix,
    pack,
    unpack,
)
from pocketvlm.recipe import Recipe, Rule

#: Tensors of this size start on a page of any phone, so that mapping them shares no page with a neighbour.
LARGE = 1 << 20
SMALL_ALIGNMENT = 64
#: Weights of a matrix that are read, quantized and written before the next rows of it are: Gemma 4's table has 2.35
#: billion, whose codes alone are 2.35 GB before they are packed.
WEIGHTS_AT_A_TIME = 1 << 26


@dataclass(frozen=True)
class Region:
    """An array inside a data file."""

    file: str
    offset: int
    length: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class FloatWeight:
    """A float32 weight, times ``factor``; a matrix of a linear layer is stored transposed, [columns, rows]."""

    name: str
    region: Region
    transposed: bool
    factor: float


@dataclass(frozen=True)
class GroupedWeight:
    """A weight as packed codes, scales and zero points; ``factor`` was multiplied into the scales."""

    name: str
    codes: Region
    scales: Region
    zero_points: Region | None
    bits: int
    group_size: int
    rows: int
    columns: int
    factor: float


@dataclass(frozen=True)
class IntegerWeight:
    """A weight as codes [columns, rows] and scales [rows] of an ``IntegerMatrix``, times ``factor``."""

    name: str
    codes: Region
    scales: Region
    factor: float


StoredWeight = FloatWeight | GroupedWeight | IntegerWeight


@dataclass(frozen=True)
class Calibrated:
    """What calibrated quantizers look at, and what they have done so far."""

    activations: Activations
    finished: Finished


class DataFile:
    """An external data file of ONNX graphs, written from start to end.

    With ``most`` it is several of at most so many bytes: ``text.data``, ``text-2.data`` and so on. An array is in one.
    """

    def __init__(self, path: Path, most: int | None = None) -> None:
        self._path, self._most, self._count = path, most, 1
        self._open(path)

    def append(self, array: np.ndarray[Any, Any]) -> Region:
        """Write an array at the next aligned offset.

        :raises ExportError: it is larger than a file may be
        """
        offset = self._begin(array.nbytes)
        self._stream.write(np.ascontiguousarray(array).data)
        return Region(self.name, offset, array.nbytes, str(array.dtype), array.shape)

    def append_rows(self, parts: Iterable[np.ndarray[Any, Any]], rows: int) -> Region:
        """Write an array of so many rows at the next aligned offset, some rows after the others.

        :raises ExportError: it is larger than a file may be
        """
        parts = iter(parts)
        first = next(parts)
        shape = (rows, *first.shape[1:])
        length = math.prod(shape) * first.itemsize
        offset = self._begin(length)
        for part in chain([first], parts):
            self._stream.write(np.ascontiguousarray(part).data)
        assert self._stream.tell() == offset + length, f"not {rows} rows"
        return Region(self.name, offset, length, str(first.dtype), shape)

    def _begin(self, length: int) -> int:
        """Where an array of so many bytes begins."""
        alignment = PAGE if length >= LARGE else SMALL_ALIGNMENT
        padding = -self._stream.tell() % alignment
        if self._most is not None and self._stream.tell() + padding + length > self._most:
            self._next(length)
            padding = 0
        self._stream.write(bytes(padding))
        return self._stream.tell()

    def _next(self, needed: int) -> None:
        assert self._most is not None
        if needed > self._most:
            raise too_large("it is one tensor", needed, self._most)
        if self._stream.tell() > 0:
            self._stream.close()
            self._count += 1
            self._open(self._path.with_name(f"{self._path.stem}-{self._count}{self._path.suffix}"))

    def _open(self, path: Path) -> None:
        self.name = path.name
        self._stream: BinaryIO = path.open("wb")

    def flush(self) -> None:
        """Let what was appended be read back."""
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


class WeightStore:
    """Writes each weight of a checkpoint as its recipe says, once, and can read it back."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        recipe: Recipe,
        directory: Path,
        progress: Callable[[int], None] = lambda _: None,
        calibrated: Calibrated | None = None,
        split_bytes: int | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.directory = directory
        self._split_bytes = split_bytes
        self._calibrated = calibrated
        self._rules = recipe.assign(checkpoint.tensors)
        self._progress = progress
        self._file: DataFile | None = None
        self._stored: dict[str, StoredWeight] = {}
        #: How each weight was stored, for the manifest.
        self.precision: dict[str, TensorPrecision] = {}

    @contextmanager
    def writing_to(self, file: str) -> Iterator[None]:
        """Weights that are asked for inside this block, and are not stored yet, go to ``file``, or where files have a
        largest size to several that are named after it."""
        self._file = DataFile(self.directory / file, self._split_bytes)
        try:
            yield
        finally:
            self._file.close()
            self._file = None

    def linear(self, name: str, factor: float = 1.0, *, integers: bool = False) -> StoredWeight:
        """The matrix of a linear layer, times ``factor``.

        ``integers``: one that can be multiplied as whole rows of integers is stored for that.
        """
        return self._store(name, transposed=True, factor=factor, integers=integers)

    def table(self, name: str) -> StoredWeight:
        """An embedding table; the head of a tied model uses the same bytes."""
        return self._store(name, transposed=False, factor=1.0)

    def vector(self, name: str, factor: float = 1.0) -> FloatWeight:
        """A norm, a bias, a convolution or position embedding: always float32.

        :raises RecipeError: when the recipe quantizes it
        """
        weight = self._store(name, transposed=False, factor=factor)
        if not isinstance(weight, FloatWeight):
            raise RecipeError(f"{name} cannot be quantized in an ONNX graph; let the recipe keep it")
        return weight

    def optional_vector(self, name: str, factor: float = 1.0) -> FloatWeight | None:
        """A bias, where the model has it."""
        return self.vector(name, factor) if name in self.checkpoint.tensors else None

    def values(self, weight: StoredWeight) -> np.ndarray[Any, Any] | GroupedTensor:
        """A stored weight: float32, or the very codes and scales of its quantizer."""
        if self._file is not None:
            self._file.flush()
        if isinstance(weight, FloatWeight):
            array = self._map(weight.region)
            return np.ascontiguousarray(array.T if weight.transposed else array)
        assert isinstance(weight, GroupedWeight), f"{weight.name} is stored for products of integers"
        grouped = unpack(self.packed(weight), bits=weight.bits, columns=weight.columns)
        return replace(grouped, per_channel=self.is_per_channel(weight))

    def packed(self, weight: GroupedWeight) -> PackedTensor:
        """A stored weight's bytes, mapped."""
        if self._file is not None:
            self._file.flush()
        zero_points = None if weight.zero_points is None else self._map(weight.zero_points)
        return PackedTensor(self._map(weight.codes), self._map(weight.scales), zero_points)

    def is_per_channel(self, weight: GroupedWeight) -> bool:
        """Whether the groups of a row were quantized as one."""
        return self.precision[weight.name].group_size is None

    def integers(self, weight: StoredWeight) -> IntegerMatrix:
        """A weight with one scale a row and no zero points: signed codes [columns, rows] and scales, factor and all.

        :raises ExportError: it is stored otherwise
        """
        if isinstance(weight, IntegerWeight):
            return IntegerMatrix(self._map(weight.codes), self._map(weight.scales))
        if isinstance(weight, FloatWeight) or weight.zero_points is not None:
            raise ExportError(f"{weight.name} is not INT4 or INT8 with one scale a row and no zero points")
        if self._file is not None:
            self._file.flush()
        packed = PackedTensor(self._map(weight.codes), self._map(weight.scales), None)
        grouped = unpack(packed, bits=weight.bits, columns=weight.columns)
        # [rows, groups, group_size] -> [rows, columns] -> [columns, rows]
        codes = grouped.codes.reshape(weight.rows, -1)[:, : weight.columns].T
        signed = np.ascontiguousarray(codes - np.uint8(1 << (weight.bits - 1))).view(np.int8)
        return IntegerMatrix(signed, np.ascontiguousarray(grouped.scales[:, 0]))

    def row_scales(self, name: str) -> np.ndarray[Any, Any]:
        """The scales of a weight that has one a row, float32 [rows], with its factor."""
        if self._file is not None:
            self._file.flush()
        weight = self._stored[name]
        if isinstance(weight, IntegerWeight):
            return self._map(weight.scales)
        assert isinstance(weight, GroupedWeight), f"{name} is not quantized"
        return self._map(weight.scales)[:, 0]

    def read(self, name: str, rows: slice | Tensor | None = None) -> Tensor:
        """A stored weight, or some of its rows, dequantized from the bundle's bytes: float32, without its factor."""
        if self._file is not None:
            self._file.flush()
        weight = self._stored[name]
        index = rows.numpy() if isinstance(rows, Tensor) else slice(None) if rows is None else rows
        if isinstance(weight, FloatWeight):
            values = self._map(weight.region)
            chosen = values[..., index].T if weight.transposed else values[index]
            return torch.from_numpy(np.array(chosen)) / weight.factor
        if isinstance(weight, IntegerWeight):
            matrix = IntegerMatrix(self._map(weight.codes)[:, index], self._map(weight.scales)[index])
            return torch.from_numpy(matrix.dequantize()) / weight.factor
        zero_points = None if weight.zero_points is None else self._map(weight.zero_points)[index]
        packed = PackedTensor(self._map(weight.codes)[index], self._map(weight.scales)[index], zero_points)
        return torch.from_numpy(unpack(packed, bits=weight.bits, columns=weight.columns).dequantize()) / weight.factor

    def _store(self, name: str, *, transposed: bool, factor: float, integers: bool = False) -> StoredWeight:
        if name in self._stored:
            return self._stored[name]
        assert self._file is not None, f"{name} is stored outside writing_to()"
        rule, count = self._rules[name], math.prod(self.checkpoint.tensors[name].shape)
        with located(name, RecipeError), located(name, ExportError):
            if not integers and (parts := self._in_rows(name)) is not None:
                stored: StoredWeight = self._write_grouped(name, parts, rule, factor)
            else:
                quantized = self._quantize(name)
                stored = self._write(name, quantized, rule, transposed=transposed, factor=factor, integers=integers)
        self._stored[name] = stored
        self._progress(count)
        return stored

    def _write(
        self, name: str, whole: GroupedTensor | Floats, rule: Rule, *, transposed: bool, factor: float, integers: bool
    ) -> StoredWeight:
        assert self._file is not None
        if isinstance(whole, GroupedTensor):
            if not integers or not is_integer_matrix(whole):
                return self._write_grouped(name, [whole], rule, factor)
            matrix = integer_matrix(whole.scaled(factor))
            self.precision[name] = _precision(rule, whole, whole.rows, matrix.bits_per_weight)
            return IntegerWeight(name, self._file.append(matrix.codes), self._file.append(matrix.scales), factor)
        array = whole if factor == 1.0 else whole * np.float32(factor)
        self.precision[name] = TensorPrecision(
            bits=32, quantizer=rule.quantizer, bits_per_weight=32.0, weights=whole.size
        )
        return FloatWeight(name, self._file.append(array.T if transposed else array), transposed, factor)

    def _in_rows(self, name: str) -> Iterator[GroupedTensor] | None:
        """Some rows of a weight after the others, each quantized when it is asked for; None: it has to be whole."""
        quantizer, info = quantizer_of(self._rules[name]), self.checkpoint.tensors[name]
        if not isinstance(quantizer, GroupQuantizer) or quantizer.CALIBRATED or info.packed is not None:
            return None
        parts = parts_of_rows(*matrix_shape(info.shape), WEIGHTS_AT_A_TIME)
        return (quantizer.quantize(self.checkpoint.tensor(name, part)) for part in parts)

    def _quantize(self, name: str) -> GroupedTensor | Floats:
        quantizer = quantizer_of(self._rules[name])
        if isinstance(quantizer, AsStored) and self.checkpoint.tensors[name].packed is not None:
            return in_blocks(self.checkpoint, name, quantizer)
        weight = self.checkpoint.tensor(name)
        if isinstance(quantizer, Keep) or not quantizer.CALIBRATED:
            return quantizer.quantize(weight)
        assert self._calibrated is not None, f"{name} is quantized without a calibration"
        finished = self._calibrated.finished.matrix(name)
        if finished is None:
            finished = quantizer.quantize(weight, self._calibrated.activations.gram(name, self.read))
            self._calibrated.finished.keep_matrix(name, finished)
        return finished

    def _write_grouped(self, name: str, parts: Iterable[GroupedTensor], rule: Rule, factor: float) -> GroupedWeight:
        assert self._file is not None
        rows, columns = self.checkpoint.tensors[name].shape
        scales, zero_points = list[Floats](), list[Codes]()
        tensor: GroupedTensor | None = None

        def codes() -> Iterator[Codes]:
            nonlocal tensor
            for tensor in parts:
                packed = pack(tensor.scaled(factor))
                scales.append(packed.scales)
                if packed.zero_points is not None:
                    zero_points.append(packed.zero_points)
                yield packed.codes

        region = self._file.append_rows(codes(), rows)
        assert tensor is not None
        self.precision[name] = _precision(rule, tensor, rows, tensor.bits_per_weight)
        return GroupedWeight(
            name=name,
            codes=region,
            scales=self._file.append(np.concatenate(scales)),
            zero_points=self._file.append(np.concatenate(zero_points)) if zero_points else None,
            bits=tensor.bits,
            group_size=tensor.group_size,
            rows=rows,
            columns=columns,
            factor=factor,
        )

    def _map(self, region: Region) -> np.ndarray[Any, Any]:
        return np.memmap(self.directory / region.file, region.dtype, "r", region.offset, region.shape)


def _precision(rule: Rule, tensor: GroupedTensor, rows: int, bits_per_weight: float) -> TensorPrecision:
    """Of a matrix of so many rows, quantized as these are."""
    return TensorPrecision(
        bits=4 if tensor.bits == 4 else 8,
        group_size=None if tensor.per_channel else tensor.group_size,
        symmetric=tensor.zero_points is None,
        quantizer=rule.quantizer,
        bits_per_weight=round(bits_per_weight, 4),
        weights=rows * tensor.columns,
    )


class StoredVectors:
    """What of a store no back end has in a form of its own: numbers that are float32 in each."""

    def __init__(self, store: WeightStore) -> None:
        self._store = store

    def vector(self, name: str) -> np.ndarray[Any, Any]:
        """A norm, bias, convolution or position embedding, float32."""
        return self._floats(self._store.vector(name))

    def optional_vector(self, name: str) -> np.ndarray[Any, Any] | None:
        """A bias, where the model has it."""
        return self.vector(name) if name in self._store.checkpoint.tensors else None

    def _floats(self, weight: FloatWeight) -> np.ndarray[Any, Any]:
        values = self._store.values(weight)
        assert isinstance(values, np.ndarray)
        return values
