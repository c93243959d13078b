"""The NPU's program as ONNX graphs that ONNX Runtime computes exactly: what a host can prove before there is a phone.

Every value is INT16 codes with a static scale (QuantizeLinear), and what is computed with is what they stand for
(DequantizeLinear). Products of matrices are of the codes themselves and their sums exact: an INT16 code is 256 times
one byte plus another, both are multiplied by INT4 or INT8 weights with 32-bit sums (MatMulInteger), and put together in
float64, as are products of two activations, which stay below 2 ** 53. Sums become float32 once, times the scales.
Weights lie in the data file as the recipe stored them, once for all graphs, which unpack them: ONNX Runtime folds that
at load, or an engine tells it not to, and it is done anew at each run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from pocketvlm.errors import ExportError
from pocketvlm.export.npu.graphs import StepShape, decoder_graph, vision_graph
from pocketvlm.export.npu.rounding import MEDIATEK, Scales
from pocketvlm.export.onnx.graph import GraphBuilder
from pocketvlm.export.store.weights import FloatWeight, GroupedWeight, IntegerWeight, StoredWeight, WeightStore
from pocketvlm.models.config import DecoderConfig, VlmConfig
from pocketvlm.models.operators import Blocks

#: Of the high byte of a code, made unsigned.
MIDDLE = 128
#: ONNX operator set: Gelu, INT4 and INT16 quantization.
OPSET = 21


@dataclass(frozen=True)
class Rounded:
    """A value as codes (INT16, or INT8 in the cache) and their scale."""

    codes: ir.Value
    scale: float


class NpuGraph:
    """A builder of one graph of the program, from one store of weights."""

    roundings = MEDIATEK

    def __init__(self, name: str, store: WeightStore, scales: Scales) -> None:
        self.builder = GraphBuilder(name, OPSET)
        self.store, self.scales = store, scales

    # --- Rounding -----------------------------------------------------------------------------------------------------

    def rounded(self, name: str, value: ir.Value) -> Rounded:
        """float32 -> INT16 with the scale of ``name``."""
        scale = self.scales.values[name]
        codes = self.builder.op(
            "QuantizeLinear",
            value,
            self.number(scale),
            output_dtype=ir.DataType.INT16,
            name=codes_name(name),
            dtype="int16",
        )
        return Rounded(codes, scale)

    def probabilities(self, value: ir.Value) -> Rounded:
        """What a softmax gives."""
        return self._quantized(value, self.roundings.probability_step, ir.DataType.INT16)

    def numbers(self, value: Rounded) -> ir.Value:
        """What the codes stand for, float32."""
        return self.builder.op("DequantizeLinear", value.codes, self.number(value.scale))

    def floats(self, value: Rounded) -> ir.Value:
        return self.numbers(value)

    def _quantized(self, value: ir.Value, scale: float, dtype: ir.DataType) -> Rounded:
        return Rounded(self.builder.op("QuantizeLinear", value, self.number(scale), output_dtype=dtype), scale)

    # --- Products -----------------------------------------------------------------------------------------------------

    def linear(self, name: str, hidden: Rounded, factor: float) -> ir.Value:
        """As ``NpuArithmetic.linear``: float32 [..., rows]"""
        op, weight = self.builder.op, self.store.linear(name, factor, integers=True)
        codes, scales, row_sums = self._codes(weight)
        sums = op("MatMulInteger", self._bytes(hidden), codes, self._zero, self._middle(weight))
        wide = op("Cast", sums, to=ir.DataType.DOUBLE)  # [..., 2 * tokens, rows]
        high, low = self.builder.ops("Split", wide, names=[None, None], axis=-2, num_outputs=2)
        sums = op("Add", op("Mul", high, self.constant("double_256", np.array(256.0))), low)
        sums = op("Sub", sums, row_sums)
        product = op("Mul", op("Cast", sums, to=ir.DataType.FLOAT), op("Mul", scales, self.number(hidden.scale)))
        bias = self.store.optional_vector(f"{name.removesuffix('weight')}bias", factor)
        return product if bias is None else op("Add", product, self.builder.float_weight(bias))

    def matmul(self, left: Rounded, right: Rounded) -> ir.Value:
        """[..., n, k] x [..., k, m] of codes, exact, -> float32"""
        op = self.builder.op
        sums = op("MatMul", self._double(left.codes), self._double(right.codes))
        step = float(np.float32(left.scale) * np.float32(right.scale))
        return op("Mul", op("Cast", sums, to=ir.DataType.FLOAT), self.number(step))

    def softmax(self, scores: ir.Value) -> ir.Value:
        """Over the last axis, float32, summed in float64: where a token stands, in the cache or in the step, then does
        not show in any step of INT16."""
        shares = self.builder.op("Softmax", self._double(scores), axis=-1)
        return self.builder.op("Cast", shares, to=ir.DataType.FLOAT)

    def _double(self, value: ir.Value) -> ir.Value:
        return self.builder.op("Cast", value, to=ir.DataType.DOUBLE)

    def _bytes(self, value: Rounded) -> ir.Value:
        """INT16 codes [..., tokens, columns] -> uint8 [..., 2 * tokens, columns]: all high bytes, which have 128 added,
        then all low ones. Layers with the same input share them."""

        def split() -> tuple[ir.Value, ...]:
            op = self.builder.op
            codes = op("Cast", value.codes, to=ir.DataType.FLOAT)
            high = op("Floor", op("Mul", codes, self.number(1 / 256)))
            low = op("Sub", codes, op("Mul", high, self.number(256.0)))
            both = op("Concat", op("Add", high, self.number(float(MIDDLE))), low, axis=-2)
            return (op("Cast", both, to=ir.DataType.UINT8),)

        return self.builder.once(("bytes", value.codes), split)[0]

    def _codes(self, weight: StoredWeight) -> tuple[ir.Value, ...]:
        """A stored weight as uint8 [columns, rows] around its middle, its scales [rows], and what the 128s add to sums,
        float64 [1, rows].

        Unsigned, since sums of unsigned bytes are exact on every x86 CPU whether a weight is a constant or not: what is
        here is computed when ONNX Runtime loads the graph, or at each run, as the engine wants it.
        """

        def unpack() -> tuple[ir.Value, ...]:
            op = self.builder.op
            if isinstance(weight, IntegerWeight):
                signed = op("Cast", self.builder.weight(f"{weight.name}.codes", weight.codes), to=ir.DataType.INT16)
                around = op("Add", signed, self.constant("middle_of_8_bits", np.array(MIDDLE, np.int16)))
                codes = op("Cast", around, to=ir.DataType.UINT8)
                scales, columns = self.builder.weight(f"{weight.name}.scales", weight.scales), weight.codes.shape[0]
            else:
                assert isinstance(weight, GroupedWeight)
                (codes, scales), columns = self._ungrouped(weight), weight.columns
            ones = self.constant(f"ones_{columns}", np.ones((1, columns), np.uint8))
            total = op("MatMulInteger", ones, codes, self._zero, self._middle(weight))
            shift = self.constant("double_shift", np.array(256.0 * MIDDLE))
            return codes, scales, op("Mul", self._double(total), shift)

        if isinstance(weight, FloatWeight) or (isinstance(weight, GroupedWeight) and weight.zero_points is not None):
            raise ExportError(f"{weight.name} is not INT4 or INT8 with one scale a row and no zero points")
        return self.builder.once(("codes", weight.name), unpack)

    def _ungrouped(self, weight: GroupedWeight) -> tuple[ir.Value, ir.Value]:
        """Blocks that repeat a row's scale -> whole rows: the bytes of a row follow one another as they are."""
        op, (rows, groups, _) = self.builder.op, weight.codes.shape
        padded = groups * weight.group_size
        dtype = ir.DataType.UINT4 if weight.bits == 4 else ir.DataType.UINT8
        codes = self.builder.packed_weight(f"{weight.name}.codes", weight.codes, dtype, (rows, padded))
        if weight.bits == 4:
            codes = op("Cast", codes, to=ir.DataType.UINT8)
        if padded != weight.columns:
            codes = self.slice(codes, 1, 0, weight.columns)
        stored = self.builder.weight(f"{weight.name}.scales", weight.scales)
        # [rows, groups] -> [rows, 1] -> [rows]
        scales = op("Reshape", self.slice(stored, 1, 0, 1), self.builder.shape(rows))
        return op("Transpose", codes, perm=[1, 0]), scales

    @property
    def _zero(self) -> ir.Value:
        return self.constant("byte_zero", np.array(0, np.uint8))

    def _middle(self, weight: StoredWeight) -> ir.Value:
        """What stands for 0 in the unsigned codes of a weight."""
        middle = 1 << (weight.bits - 1) if isinstance(weight, GroupedWeight) else MIDDLE
        return self.constant(f"byte_{middle}", np.array(middle, np.uint8))

    # --- Operators on float32 -----------------------------------------------------------------------------------------

    def add(self, left: ir.Value, right: ir.Value) -> ir.Value:
        return self.builder.op("Add", left, right)

    def multiply(self, left: ir.Value, right: ir.Value) -> ir.Value:
        return self.builder.op("Mul", left, right)

    def silu(self, numbers: ir.Value, alpha: float = 1.0) -> ir.Value:
        inner = numbers if alpha == 1.0 else self.builder.op("Mul", numbers, self.number(alpha))
        return self.builder.op("Mul", numbers, self.builder.op("Sigmoid", inner))

    def gelu(self, numbers: ir.Value, approximate: str) -> ir.Value:
        return self.builder.op("Gelu", numbers, approximate=approximate)

    def normed(self, numbers: ir.Value, epsilon: float) -> ir.Value:
        op, axis = self.builder.op, self.constant("last_axis", np.array([-1], np.int64))
        square = op("ReduceMean", op("Mul", numbers, numbers), axis, keepdims=1)
        return op("Mul", numbers, op("Reciprocal", op("Sqrt", op("Add", square, self.number(epsilon)))))

    def rms_norm(self, numbers: ir.Value, weight: ir.Value, epsilon: float) -> ir.Value:
        return self.multiply(weight, self.normed(numbers, epsilon))

    def layer_norm(self, numbers: ir.Value, weight: ir.Value, bias: ir.Value, epsilon: float) -> ir.Value:
        return self.builder.op("LayerNormalization", numbers, weight, bias, axis=-1, epsilon=epsilon)

    def turned(self, numbers: ir.Value, size: int) -> ir.Value:
        op = self.builder.op
        first, second = (self.slice(numbers, 3, at, at + size // 2) for at in (0, size // 2))
        return op("Concat", op("Neg", second), first, axis=3)

    def cos_sin(self, rope: Rounded) -> tuple[ir.Value, ir.Value]:
        cos, sin = (self.slice(self.numbers(rope), 1, at, at + 1) for at in (0, 1))  # [1, 1, tokens, size] each
        return cos, sin

    # --- What moves codes ---------------------------------------------------------------------------------------------

    def reshape(self, value: Rounded, *sizes: int) -> Rounded:
        return Rounded(self.builder.op("Reshape", value.codes, self.builder.shape(*sizes)), value.scale)

    def transpose(self, value: Rounded, *axes: int) -> Rounded:
        return Rounded(self.builder.op("Transpose", value.codes, perm=list(axes)), value.scale)

    def joined(self, left: ir.Value, right: ir.Value) -> ir.Value:
        return self.builder.op("Concat", left, right, axis=2)

    def channels(self, value: Rounded, first: int, size: int) -> Rounded:
        return Rounded(self.slice(value.codes, 2, first, first + size), value.scale)

    def without_first(self, value: Rounded, rows: int) -> Rounded:
        return Rounded(self.slice(value.codes, 1, 1, 1 + rows), value.scale)

    def blocks(self, value: Rounded, blocks: Blocks, tiles: int) -> Rounded:
        grid, width, ratio, op = blocks.grid, blocks.width, blocks.ratio, self.builder.op
        padding = -grid % ratio
        side = (grid + padding) // ratio
        # [tiles, patches, width] -> [tiles, rows, columns, width]
        rows = self.reshape(value, tiles, grid, grid, width).codes
        if padding:
            for axis, shape in ((1, [tiles, padding, grid, width]), (2, [tiles, grid + padding, padding, width])):
                zeros = self.constant(f"grid_padding_{axis}", np.zeros(shape, np.int16))
                rows = op("Concat", rows, zeros, axis=axis)
        # -> [tiles * side, ratio, side, ratio * width] -> [tiles * side, side, ratio, ratio * width]
        split = self.reshape(Rounded(rows, value.scale), tiles * side, ratio, side, ratio * width)
        return self.reshape(self.transpose(split, 0, 2, 1, 3), tiles, side * side, ratio * ratio * width)

    def extended(self, name: str, past: ir.Value, value: Rounded) -> Rounded:
        rows = self._quantized(self.numbers(value), self.scales.cache[name], ir.DataType.INT8)
        return Rounded(self.builder.op("Concat", past, rows.codes, axis=2), rows.scale)

    def known(self, name: str, extended: Rounded) -> Rounded:
        return extended

    def newest(self, extended: Rounded, tokens: int, width: int) -> ir.Value:
        return self.slice(extended.codes, 2, tokens, width)

    # --- Constants ----------------------------------------------------------------------------------------------------

    def vector(self, name: str, factor: float = 1.0) -> ir.Value:
        """A float32 weight, times ``factor``."""
        return self.builder.float_weight(self.store.vector(name, factor))

    def slice(self, value: ir.Value, axis: int, first: int, end: int) -> ir.Value:
        """Rows from ``first`` to before ``end`` along one axis."""
        bounds = (self.constant(f"index_{at}", np.array([at], np.int64)) for at in (first, end, axis))
        return self.builder.op("Slice", value, *bounds)

    def number(self, value: float) -> ir.Value:
        """A float32 scalar."""
        array = np.array(value, np.float32)
        return self.constant(f"number_{array.view(np.uint32):08x}", array)

    def constant(self, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
        return self.builder.constant(name, array)


def codes_name(name: str) -> str:
    """What the codes of a value are called in a graph."""
    return f"codes.{name}"


def build_decoder(
    name: str, store: WeightStore, config: DecoderConfig, scales: Scales, layers: range, step: StepShape
) -> ir.Model:
    """As ``decoder_graph``; the order of inputs and outputs is that of MediaTek's runner."""
    return decoder_graph(NpuGraph(name, store, scales), config, layers, step)


def build_vision(name: str, store: WeightStore, config: VlmConfig, scales: Scales, tiles: int) -> ir.Model:
    """As ``vision_graph``."""
    return vision_graph(NpuGraph(name, store, scales), config, tiles)
