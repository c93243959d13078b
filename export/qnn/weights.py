"""Weights as QDQ graphs have them: signed codes [columns, rows] with a scale a row, and vectors of 16 bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.export.npu.rounding import TOP16, vector_step
from pocketvlm.export.store.weights import DataFile, Region, WeightStore

#: Zero of unsigned INT16: codes are those of INT16 and this.
MIDDLE16 = 1 << 15


@dataclass(frozen=True)
class QdqMatrix:
    """A linear layer's codes [columns, rows], two of 4 bits in a byte, and scales float32 [rows]."""

    codes: Region
    scales: Region
    bits: int
    rows: int
    columns: int


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
            whole, bits = self._store.integers(stored), self._store.precision[name].bits
            columns, rows = whole.codes.shape
            codes = self._file.append(in_nibbles(whole.codes) if bits == 4 else whole.codes)
            self._matrices[name] = QdqMatrix(codes, self._file.append(whole.scales), bits, rows, columns)
        return self._matrices[name]

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


def in_nibbles(codes: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Signed codes of 4 bits, in C order -> bytes, the first of two in the low half: ONNX's INT4."""
    flat = codes.reshape(-1).astype(np.uint8) & np.uint8(15)
    if len(flat) % 2:
        flat = np.append(flat, np.uint8(0))
    return (flat[0::2] | (flat[1::2] << np.uint8(4))).astype(np.uint8)
