"""The NPU's program as QDQ ONNX graphs: what Qualcomm's compiler reads, through ONNX Runtime's QNN plugin.

Operators are float32 between DequantizeLinear and QuantizeLinear, and the compiler makes one fixed-point operator of
each such group. So each operator has a DequantizeLinear of its own for each input, whoever else reads that value, and
a QuantizeLinear of its own: also one that only moves values, which keeps its input's scale, and one between a product
and its bias. Nothing else may stand there, or the compiler leaves it to the CPU. Activations are unsigned with 2 ** 15
for zero, which are the program's INT16 codes moved up; softmax and sigmoid have all 65,536 codes from 0 on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from pocketvlm.export.npu.graphs import GraphArithmetic
from pocketvlm.export.npu.rounding import PRODUCT, QUALCOMM, Scales
from pocketvlm.export.onnx.graph import GraphBuilder
from pocketvlm.export.qnn.weights import MIDDLE16, QdqMatrix, QdqWeights
from pocketvlm.models.operators import Blocks

#: ONNX operator set: Gelu, INT4 and UINT16 quantization.
OPSET = 21


@dataclass(frozen=True)
class Encoding:
    """What codes stand for: (code - zero) * scale."""

    scale: float
    dtype: str = "uint16"
    zero: int = MIDDLE16


@dataclass(frozen=True)
class Quantized:
    """A value as codes."""

    codes: ir.Value
    encoding: Encoding


#: What an operator takes: a value, of which it gets a DequantizeLinear of its own, or float32 that is not rounded yet.
Numbers = Quantized | ir.Value


class QdqGraph:
    """A builder of one graph of the program, from one store of weights."""

    roundings = QUALCOMM

    def __init__(self, name: str, weights: QdqWeights, scales: Scales) -> None:
        self.builder = GraphBuilder(name, OPSET)
        self.weights, self.scales = weights, scales

    # --- Rounding -----------------------------------------------------------------------------------------------------

    def rounded(self, name: str, numbers: Numbers) -> Quantized:
        return self._quantized(numbers, Encoding(self.scales.values[name]))

    def probabilities(self, numbers: ir.Value) -> Quantized:
        return self._quantized(numbers, Encoding(self.roundings.probability_step, zero=0))

    def numbers(self, value: Quantized) -> Numbers:
        """The value itself: who reads it gets a DequantizeLinear of its own."""
        return value

    def floats(self, value: Numbers) -> ir.Value:
        """float32, by a DequantizeLinear that nobody else reads."""
        if isinstance(value, ir.Value):
            return value
        encoding = value.encoding
        return self.builder.op("DequantizeLinear", value.codes, self.number(encoding.scale), self._zero(encoding))

    def _quantized(self, numbers: Numbers, encoding: Encoding) -> Quantized:
        scale, zero = self.number(encoding.scale), self._zero(encoding)
        return Quantized(self.builder.op("QuantizeLinear", self.floats(numbers), scale, zero), encoding)

    def _zero(self, encoding: Encoding) -> ir.Value:
        array = np.array(encoding.zero, encoding.dtype)
        return self.builder.constant(f"zero_{encoding.dtype}_{encoding.zero}", array)

    # --- Products -----------------------------------------------------------------------------------------------------

    def linear(self, name: str, hidden: Quantized, factor: float) -> ir.Value:
        product = self.builder.op("MatMul", self.floats(hidden), self._dequantized(name, factor))
        bias = f"{name.removesuffix('weight')}bias"
        if not self.weights.has(bias):
            return product
        return self.add(self.rounded(f"{name}{PRODUCT}", product), self.vector(bias, factor))

    def matmul(self, left: Quantized, right: Quantized) -> ir.Value:
        return self.builder.op("MatMul", self.floats(left), self.floats(right))

    def _dequantized(self, name: str, factor: float) -> ir.Value:
        """A weight [columns, rows] as float32: a scale a row, or a multiple of it a group (Qualcomm's LPBQ)."""
        matrix = self.weights.matrix(name, factor)
        dtype, shape = (ir.DataType.INT4 if matrix.bits == 4 else ir.DataType.INT8), (matrix.columns, matrix.rows)
        codes = self.builder.packed_weight(f"{name}.codes", matrix.codes, dtype, shape)
        scales = self.builder.weight(f"{name}.scales", matrix.scales)
        if matrix.multiples is not None and matrix.group_size is not None:
            multiples, groups = self.builder.weight(f"{name}.multiples", matrix.multiples), matrix.multiples.shape[0]
            none = self.builder.constant(f"zeros_u8_{matrix.rows}", np.zeros(matrix.rows, np.uint8))
            scales = self.builder.op("DequantizeLinear", multiples, scales, none, axis=1)
            zeros = np.zeros((groups, matrix.rows), dtype.numpy())
            zero = self.builder.constant(f"zeros_4_{groups}_{matrix.rows}", zeros)
            return self.builder.op("DequantizeLinear", codes, scales, zero, axis=0, block_size=matrix.group_size)
        return self.builder.op("DequantizeLinear", codes, scales, self._zeros(matrix, dtype), axis=1)

    def _zeros(self, matrix: QdqMatrix, dtype: ir.DataType) -> ir.Value:
        """A zero point a row, all 0."""
        return self.builder.constant(f"zeros_{matrix.bits}_{matrix.rows}", np.zeros(matrix.rows, dtype.numpy()))

    def vector(self, name: str, factor: float = 1.0) -> Quantized:
        vector = self.weights.vector(name, factor)
        return Quantized(self.builder.weight(f"{name}.codes", vector.codes), Encoding(vector.step))

    # --- Operators ----------------------------------------------------------------------------------------------------

    def add(self, left: Numbers, right: Numbers) -> ir.Value:
        return self.builder.op("Add", self.floats(left), self.floats(right))

    def multiply(self, left: Numbers, right: Numbers) -> ir.Value:
        return self.builder.op("Mul", self.floats(left), self.floats(right))

    def silu(self, numbers: Quantized, alpha: float = 1.0) -> ir.Value:
        inner = numbers
        if alpha != 1.0:  # of codes that stay as they are: alpha is one step of its own
            one = Quantized(self.builder.constant("one_step", np.array(1, np.uint16)), Encoding(alpha, zero=0))
            encoding = Encoding(float(np.float32(numbers.encoding.scale * alpha)))
            inner = self._quantized(self.multiply(numbers, one), encoding)
        step = self.roundings.sigmoid_step
        assert step is not None
        sigmoid = self.builder.op("Sigmoid", self.floats(inner))
        return self.multiply(numbers, self._quantized(sigmoid, Encoding(step, zero=0)))

    def gelu(self, numbers: Quantized, approximate: str) -> ir.Value:
        return self.builder.op("Gelu", self.floats(numbers), approximate=approximate)

    def softmax(self, numbers: Quantized) -> ir.Value:
        return self.builder.op("Softmax", self.floats(numbers), axis=-1)

    def normed(self, numbers: Quantized, epsilon: float) -> ir.Value:
        raise NotImplementedError("an RMS norm is one operator here: rms_norm")

    def rms_norm(self, numbers: Quantized, weight: Quantized, epsilon: float) -> ir.Value:
        inputs = self.floats(numbers), self.floats(weight)
        return self.builder.op("SimplifiedLayerNormalization", *inputs, axis=-1, epsilon=epsilon, stash_type=1)

    def layer_norm(self, numbers: Quantized, weight: Quantized, bias: Quantized, epsilon: float) -> ir.Value:
        inputs = self.floats(numbers), self.floats(weight), self.floats(bias)
        return self.builder.op("LayerNormalization", *inputs, axis=-1, epsilon=epsilon)

    def joined(self, left: Numbers, right: Numbers) -> ir.Value:
        return self.builder.op("Concat", self.floats(left), self.floats(right), axis=2)

    # --- What moves values, each at its input's scale -----------------------------------------------------------------

    def turned(self, numbers: Quantized, size: int) -> Quantized:
        first, second = (self._sliced(numbers, 3, at, at + size // 2) for at in (0, size // 2))
        return self._beside(self._moved("Neg", second), first, axis=3)

    def cos_sin(self, rope: Quantized) -> tuple[Quantized, Quantized]:
        cos, sin = (self._sliced(rope, 1, at, at + 1) for at in (0, 1))  # [1, 1, tokens, size] each
        return cos, sin

    def reshape(self, value: Quantized, *sizes: int) -> Quantized:
        return self._moved("Reshape", value, self.builder.shape(*sizes))

    def transpose(self, value: Quantized, *axes: int) -> Quantized:
        return self._moved("Transpose", value, perm=list(axes))

    def channels(self, value: Quantized, first: int, size: int) -> Quantized:
        return self._sliced(value, 2, first, first + size)

    def without_first(self, value: Quantized, rows: int) -> Quantized:
        return self._sliced(value, 1, 1, 1 + rows)

    def blocks(self, value: Quantized, blocks: Blocks, tiles: int) -> Quantized:
        grid, width, ratio = blocks.grid, blocks.width, blocks.ratio
        padding = -grid % ratio
        side = (grid + padding) // ratio
        # [tiles, patches, width] -> [tiles, rows, columns, width]
        rows = self.reshape(value, tiles, grid, grid, width)
        if padding:
            for axis, shape in ((1, [tiles, padding, grid, width]), (2, [tiles, grid + padding, padding, width])):
                zeros = self.builder.constant(f"grid_padding_{axis}", np.full(shape, MIDDLE16, np.uint16))
                rows = self._beside(rows, Quantized(zeros, value.encoding), axis=axis)
        # -> [tiles * side, ratio, side, ratio * width] -> [tiles * side, side, ratio, ratio * width]
        split = self.reshape(rows, tiles * side, ratio, side, ratio * width)
        return self.reshape(self.transpose(split, 0, 2, 1, 3), tiles, side * side, ratio * ratio * width)

    def extended(self, name: str, past: ir.Value, value: Quantized) -> Quantized:
        encoding = Encoding(self.scales.cache[name], "int8", 0)
        return self._beside(Quantized(past, encoding), self._quantized(value, encoding), axis=2)

    def known(self, name: str, extended: Quantized) -> Quantized:
        return extended

    def newest(self, extended: Quantized, tokens: int, width: int) -> ir.Value:
        return self._sliced(extended, 2, tokens, width).codes

    def _moved(self, operator: str, value: Quantized, *more: ir.Value, **attributes: Any) -> Quantized:
        moved = self.builder.op(operator, self.floats(value), *more, **attributes)
        return self._quantized(moved, value.encoding)

    def _beside(self, left: Quantized, right: Quantized, *, axis: int) -> Quantized:
        """Two values of one encoding."""
        assert left.encoding == right.encoding
        joined = self.builder.op("Concat", self.floats(left), self.floats(right), axis=axis)
        return self._quantized(joined, left.encoding)

    def _sliced(self, value: Quantized, axis: int, first: int, end: int) -> Quantized:
        bounds = (self.builder.constant(f"index_{at}", np.array([at], np.int64)) for at in (first, end, axis))
        return self._moved("Slice", value, *bounds)

    # --- Constants ----------------------------------------------------------------------------------------------------

    def number(self, value: float) -> ir.Value:
        """A float32 scalar."""
        array = np.array(value, np.float32)
        return self.builder.constant(f"number_{array.view(np.uint32):08x}", array)


def arithmetic(weights: QdqWeights, scales: Scales, name: str) -> GraphArithmetic:
    """What a graph of the program is built with."""
    return QdqGraph(name, weights, scales)
