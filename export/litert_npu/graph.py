"""The NPU's program as operators of TensorFlow Lite in fixed point: what compiler plugins of LiteRT read.

Values are INT16 with one scale, as TensorFlow Lite has them: softmax and sigmoid in steps of 2^-15, biases in the steps
of a product's sums. An operator is told the scale of what it gives, so it is written when its result is rounded, not
before: until then it is ``Unrounded``. An RMS norm is a composite, one operator to an NPU, which a CPU computes in
float32 by the graph that hangs on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from pocketvlm.errors import ExportError
from pocketvlm.export.litert.graph import Code, LitertGraph, LitertTensor
from pocketvlm.export.litert.weights import QuantizedMatrix, StoredMatrices
from pocketvlm.export.npu.program import ROPE
from pocketvlm.export.npu.rounding import LITERT, TOP16, Scales, vector_step
from pocketvlm.models.operators import Blocks

#: What NPUs' compilers know an RMS norm by.
RMS_NORM = "odml.rms_norm"
#: Steps of INT16 in one of INT8: codes of a cache become a value without being rounded.
WIDER = 256
#: Of FULLY_CONNECTED, of arithmetic, and of SLICE: the versions that take INT16.
LINEAR, ARITHMETIC, SLICE = 11, 3, 4


@dataclass(frozen=True)
class Unrounded:
    """What an operator gives, before its scale is known; ``write`` takes that and adds the operator."""

    shape: tuple[int, ...]
    write: Callable[[float], LitertTensor]


class FixedPointGraph:
    """A builder of one graph of the program, from one store of weights: ``NpuArithmetic`` of a decoder."""

    roundings = LITERT

    def __init__(self, graph: LitertGraph, weights: StoredMatrices, scales: Scales) -> None:
        self.graph, self.weights, self.scales = graph, weights, scales
        #: New rows of a cache, by the tensor that the cache with them is; what was turned about, by what came of it.
        self._rows: dict[int, LitertTensor] = {}
        self._turned: dict[int, LitertTensor] = {}

    # --- Rounding -----------------------------------------------------------------------------------------------------

    def rounded(self, name: str, numbers: Any) -> Any:
        """float32 and ``Unrounded`` become INT16; an input of the graph may be that already."""
        step = self.scales.values[name]
        if isinstance(numbers, Unrounded):
            return numbers.write(step)
        if name == ROPE or numbers.dtype == "int16":
            return numbers
        return self.graph.quantize(numbers, step, "int16")

    def probabilities(self, numbers: Unrounded) -> LitertTensor:
        return numbers.write(self.roundings.probability_step)

    def numbers(self, value: LitertTensor) -> LitertTensor:
        return value

    # --- Products -----------------------------------------------------------------------------------------------------

    def linear(self, name: str, hidden: LitertTensor, factor: float) -> Unrounded:
        """The factor is in what is stored."""
        matrix = self.weights.matrix(name)
        if not isinstance(matrix, QuantizedMatrix) or matrix.block is not None or hidden.step is None:
            raise ExportError(f"{name} is not INT4 or INT8 with one scale a row")
        weight, bias = self.graph.matrix(name, matrix), self._bias(name, matrix.scales, hidden.step)
        options, shape = schema.FullyConnectedOptionsT(), (*hidden.shape[:-1], matrix.shape[0])
        options.keepNumDims = True
        return self._pending(Code.FULLY_CONNECTED, [hidden, weight, bias], shape, options, LINEAR)

    def _bias(self, name: str, scales: np.ndarray[Any, Any], step: float) -> LitertTensor | None:
        """INT64 codes, whose steps are those of the sums of products."""
        name = f"{name.removesuffix('weight')}bias"
        values = self.weights.optional_vector(name)
        if values is None:
            return None
        steps = scales * np.float32(step)
        return self.graph.constant(name, np.rint(values / steps.astype(np.float64)).astype(np.int64), steps)

    def matmul(self, left: LitertTensor, right: LitertTensor) -> Unrounded:
        """Where ``right`` was turned about for this alone, the product does it."""
        options, source = schema.BatchMatMulOptionsT(), self._turned.get(right.index)
        options.adjX, options.adjY = False, source is not None
        inputs = [left, right if source is None else source]
        return self._pending(Code.BATCH_MATMUL, inputs, (*left.shape[:-1], right.shape[-1]), options, ARITHMETIC)

    def vector(self, name: str, factor: float = 1.0) -> LitertTensor:
        """INT16; the factor is in what is stored."""
        values = self.weights.vector(name).astype(np.float64)
        step = vector_step(float(np.abs(values).max()))
        return self.graph.constant(name, np.rint(values / step).clip(-TOP16 - 1, TOP16).astype(np.int16), step)

    # --- Operators ----------------------------------------------------------------------------------------------------

    def add(self, left: LitertTensor, right: LitertTensor) -> Unrounded:
        return self._both(Code.ADD, left, right, schema.AddOptionsT())

    def multiply(self, left: LitertTensor, right: LitertTensor) -> Unrounded:
        return self._both(Code.MUL, left, right, schema.MulOptionsT())

    def silu(self, numbers: LitertTensor, alpha: float = 1.0) -> Unrounded:
        if alpha != 1.0:
            raise _of_vision("QuickGELU")
        step = self.roundings.sigmoid_step
        assert step is not None
        return self.multiply(
            numbers, self._pending(Code.LOGISTIC, [numbers], numbers.shape, None, ARITHMETIC).write(step)
        )

    def softmax(self, numbers: LitertTensor) -> Unrounded:
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
        return self._pending(Code.SOFTMAX, [numbers], numbers.shape, options, ARITHMETIC)

    def rms_norm(self, numbers: LitertTensor, weight: LitertTensor, epsilon: float) -> Unrounded:
        def write(step: float) -> LitertTensor:
            inner = LitertGraph(self.graph.program, f"{self.graph.name}_norm_{step!r}")
            value, scale = (
                inner.dequantize(inner.input(name, one.shape, "int16", one.step))
                for name, one in (("value", numbers), ("weight", weight))
            )
            inner.output("normed", inner.quantize(inner.rms_norm(value, scale, epsilon), step, "int16"))
            return self.graph.composite(RMS_NORM, epsilon_alone(epsilon), [numbers, weight], step, inner)

        return Unrounded(numbers.shape, write)

    # --- What moves codes ---------------------------------------------------------------------------------------------

    def turned(self, numbers: LitertTensor, size: int) -> LitertTensor:
        """The halves change places; that the second is negated is in the sines (``signatures.rope``)."""
        first, second = (self._sliced(numbers, 3, at, size // 2) for at in (0, size // 2))
        return self.graph.concatenate([second, first], 3)

    def cos_sin(self, rope: tuple[LitertTensor, LitertTensor]) -> tuple[LitertTensor, LitertTensor]:
        """They are inputs of their own."""
        return rope

    def reshape(self, value: LitertTensor, *sizes: int) -> LitertTensor:
        known = [value.shape[at] if size == 0 else size for at, size in enumerate(sizes)]
        rest = math.prod(value.shape) // math.prod(size for size in known if size != -1)
        return self.graph.reshape(value, [rest if size == -1 else size for size in known])

    def transpose(self, value: LitertTensor, *axes: int) -> LitertTensor:
        turned = self.graph.transpose(value, axes)
        if axes == (0, 1, 3, 2):
            self._turned[turned.index] = value
        return turned

    def channels(self, value: LitertTensor, first: int, size: int) -> LitertTensor:
        return self._sliced(value, 2, first, size)

    def extended(self, name: str, past: LitertTensor, value: LitertTensor) -> LitertTensor:
        rows = self.graph.quantize(value, self.scales.cache[name])
        extended = self.graph.concatenate([past, rows], 2)
        self._rows[extended.index] = rows
        return extended

    def known(self, name: str, extended: LitertTensor) -> LitertTensor:
        return self.graph.quantize(extended, self.scales.cache[name] / WIDER, "int16")

    def newest(self, extended: LitertTensor, tokens: int, width: int) -> LitertTensor:
        """The new rows alone: where they go is the client's business."""
        return self._rows[extended.index]

    def _sliced(self, value: LitertTensor, axis: int, first: int, size: int) -> LitertTensor:
        return self.graph.slice(value, axis, first, size, SLICE)

    # --- What no decoder has ------------------------------------------------------------------------------------------

    def gelu(self, numbers: Any, approximate: str) -> Any:
        raise _of_vision("GELU")

    def normed(self, numbers: Any, epsilon: float) -> Any:
        raise NotImplementedError("an RMS norm is one operator here: rms_norm")

    def layer_norm(self, numbers: Any, weight: Any, bias: Any, epsilon: float) -> Any:
        raise _of_vision("LayerNorm")

    def joined(self, left: Any, right: Any) -> Any:
        raise _of_vision("joining")

    def without_first(self, value: Any, rows: int) -> Any:
        raise _of_vision("dropping a row")

    def blocks(self, value: Any, blocks: Blocks, tiles: int) -> Any:
        raise _of_vision("blocks of patches")

    def _both(self, code: int, left: LitertTensor, right: LitertTensor, options: Any) -> Unrounded:
        return self._pending(code, [left, right], np.broadcast_shapes(left.shape, right.shape), options, ARITHMETIC)

    def _pending(self, code: int, inputs: Any, shape: tuple[int, ...], options: Any, version: int) -> Unrounded:
        def write(step: float) -> LitertTensor:
            return self.graph.operator(code, inputs, shape, options, version, "int16", step)

        return Unrounded(shape, write)


def epsilon_alone(epsilon: float) -> bytes:
    """The flexbuffer {"epsilon": epsilon}, in 64 bits."""
    builder = flexbuffers.Builder()
    with builder.Map():
        builder.Key("epsilon")
        builder.Float(epsilon, 8)
    return bytes(builder.Finish())


def _of_vision(what: str) -> ExportError:
    return ExportError(f"{what} is not in LiteRT's program of a decoder: vision parts stay in float32 there")
