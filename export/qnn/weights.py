"""Weights as QDQ graphs have them: signed codes [columns, rows] with a scale a row, and vectors of 16 bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import ExportError
from pocketvlm.export.npu.rounding import TOP16, vector_step
from pocketvlm.export.store.weights import DataFile, GroupedWeight, Region, WeightStore
from pocketvlm.quant.multiples import MOST_MULTIPLES
from pocketvlm.quant.tensors import GroupedTensor

#: Zero of unsigned INT16: codes are those of INT16 and this.
MIDDLE16 = 1 << 15


#: The sizes of groups that Qualcomm's compiler was tried with.
GROUPS = (32, 64, 128)


@dataclass(frozen=True)
class QdqMatrix:
    """A linear layer's codes [columns, rows], two of 4 bits in a byte, and scales float32 [rows].

    Of one in groups of ``group_size`` columns a group's scale is the row's ``multiples`` times, uint8 [groups, rows].
    """

    codes: Region
    scales: Region
    bits: int
    rows: int
    columns: int
    multiples: Region | None = None
    group_size: int | None = None


@dataclass(frozen=True)
class QdqVector:
    """A norm's weight or a bias: codes uint16 [size] around ``MIDDLE16``, and what one step is worth."""

    codes: Region
    step: float


class QdqWeights:
    """Writes each weight of a store anew, once for all graphs."""

    def __init__(self, store: WeightStore, split_bytes: int | None = None) -> None:
        self._store, self._split_bytes = store, split_bytes
        self._file: DataFile | None = None
        self._matrices: dict[str, QdqMatrix] = {}
        self._vectors: dict[str, QdqVector] = {}

    @contextmanager
    def writing_to(self, file: str) -> Iterator[None]:
        """Weights that are asked for inside this block, and are not written yet, go to ``file``."""
        self._file = DataFile(self._store.directory / file, self._split_bytes)
        try:
            yield
        finally:
            self._file.close()
            self._file = None

    def matrix(self, name: str, factor: float) -> QdqMatrix:
        """A linear layer's, times ``factor``."""
        if name not in self._matrices:
            assert self._file is not None, f"{name} is written outside writing_to()"
            stored = self._store.linear(name, factor, integers=True)
            if isinstance(stored, GroupedWeight) and not self._store.is_per_channel(stored):
                self._matrices[name] = self._grouped(stored)
                return self._matrices[name]
            whole, bits = self._store.integers(stored), self._store.precision[name].bits
            columns, rows = whole.codes.shape
            codes = self._file.append(in_nibbles(whole.codes) if bits == 4 else whole.codes)
            self._matrices[name] = QdqMatrix(codes, self._file.append(whole.scales), bits, rows, columns)
        return self._matrices[name]

    def _grouped(self, stored: GroupedWeight) -> QdqMatrix:
        """Codes in groups, whose scales are taken apart."""
        assert self._file is not None
        tensor = self._store.values(stored)
        assert isinstance(tensor, GroupedTensor)
        if tensor.columns % tensor.group_size:
            raise ExportError(
                f"{stored.name} has {tensor.columns} columns, which groups of {tensor.group_size} do not divide, and "
                "Qualcomm's NPU takes whole ones: choose another group size"
            )
        units, multiples = taken_apart(stored.name, tensor.scales)
        # [rows, groups, group_size] -> [columns, rows]
        codes = tensor.codes.reshape(tensor.rows, -1).T.astype(np.int8) - np.int8(8)
        return QdqMatrix(
            self._file.append(in_nibbles(codes)),
            self._file.append(units),
            stored.bits,
            tensor.rows,
            tensor.columns,
            self._file.append(np.ascontiguousarray(multiples.T)),
            tensor.group_size,
        )

    def vector(self, name: str, factor: float) -> QdqVector:
        """A norm's weight or a bias, times ``factor``."""
        if name not in self._vectors:
            assert self._file is not None, f"{name} is written outside writing_to()"
            values = np.asarray(self._store.values(self._store.vector(name, factor)), np.float64)
            step = vector_step(float(np.abs(values).max()))
            codes = np.clip(np.rint(values / step), -TOP16 - 1, TOP16) + MIDDLE16
            self._vectors[name] = QdqVector(self._file.append(codes.astype(np.uint16)), step)
        return self._vectors[name]

    def has(self, name: str) -> bool:
        """Whether the model has such a weight."""
        return name in self._store.checkpoint.tensors


def taken_apart(name: str, scales: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Scales [rows, groups] as one number a row, float32 [rows], and its multiples, uint8 [rows, groups] from 1 to 16.

    :raises ExportError: they are no such multiples
    """
    units = (scales.max(axis=1) / np.float32(MOST_MULTIPLES)).astype(np.float32)
    multiples = np.rint(scales / units[:, None])
    if not np.allclose(multiples * units[:, None], scales, rtol=1e-6, atol=0) or multiples.min() < 1:
        raise ExportError(
            f'{name} has groups whose scales are no multiples of one: quantize it with scales = "multiples"'
        )
    return units, multiples.astype(np.uint8)


def in_nibbles(codes: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Signed codes of 4 bits, in C order -> bytes, the first of two in the low half: ONNX's INT4."""
    flat = codes.reshape(-1).astype(np.uint8) & np.uint8(15)
    if len(flat) % 2:
        flat = np.append(flat, np.uint8(0))
    return (flat[0::2] | (flat[1::2] << np.uint8(4))).astype(np.uint8)
