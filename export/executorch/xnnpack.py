"""Building one XNNPACK graph: a piece of a method that ExecuTorch hands to XNNPACK as a whole.

A graph's nodes are written directly, as those of the ONNX graphs are: what quantized codes and scales it holds is then
exactly what the quantizer gave, and lowering a layer takes milliseconds. The schema is that of ExecuTorch 1.5
(executorch/backends/xnnpack/serialization/schema.fbs).

The first dimension of what the text decoder computes is the number of tokens and varies; a value's shape here has its
upper bound.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import ExportError
from pocketvlm.export.executorch.schema import quiet, serialize_xnnpack_binary
from pocketvlm.export.executorch.schema import xnnpack as schema
from pocketvlm.quant import GroupedTensor

Array = npt.NDArray[Any]
#: "No value", where one may be left out.
NONE = (1 << 32) - 1
#: The offset of a constant that lies in the program's named data.
NAMED = (1 << 64) - 1
EXTERNAL_INPUT, EXTERNAL_OUTPUT = 1, 2
#: The flag of a batch matrix product whose second factor is transposed.
TRANSPOSE_B = 1
#: What XNNPACK concatenates at once.
MOST_CONCATENATED = 5
#: The code of zero among 4 bits.
FOUR_BIT_ZERO = 8
#: XNNPACK's blocks of 4-bit weights are whole multiples of this.
SMALLEST_BLOCK = 32
#: sqrt(2 / pi) and the cubic term of the tanh approximation of GELU.
GELU_SCALE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715


class Constants:
    """The named data of a program, which all its methods and graphs share.

    A name ends in a digest: XNNPACK's cache of packed weights is one for the process and goes by name. What is packed
    together, a weight's codes and its scales, is in the digest together.
    """

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def add(self, name: str, array: Array, beside: Array | None = None) -> str:
        """Keep an array's bytes (little-endian, C order); gives its key. ``beside`` is packed with it."""
        content = np.ascontiguousarray(array).tobytes()
        digest = hashlib.sha256(content)
        if beside is not None:
            digest.update(np.ascontiguousarray(beside).tobytes())
        key = f"{name}#{digest.hexdigest()[:16]}"
        self.data.setdefault(key, content)
        return key


@dataclass(frozen=True)
class Value:
    """A tensor of the graph; ``shape`` is an upper bound."""

    id: int
    shape: tuple[int, ...]


class XnnpackGraph:
    """A graph under construction. Its inputs, then outputs, are the call's arguments, in the order of their making."""

    def __init__(self, constants: Constants) -> None:
        self._constants = constants
        self._inputs: list[Value] = []
        self._outputs: list[Value] = []
        self._dynamic: dict[int, int] = {}
        # Index 0 stands for "not a constant".
        empty = schema.ConstantDataOffset(offset=0, size=0, named_key="")
        self._graph = schema.XNNGraph(
            version="0", xnodes=[], xvalues=[], num_externs=0, input_ids=[], output_ids=[], constant_data=[empty]
        )

    def input(self, shape: Sequence[int], scale: float | None = None) -> Value:
        """A float32 argument; with a ``scale`` an int8 one, whose codes are whole steps of it."""
        assert not self._outputs, "arguments are inputs first, then outputs"
        external = len(self._inputs)
        if scale is None:
            value = self._value(shape, external=external, flags=EXTERNAL_INPUT)
        else:
            value = self._steps(shape, scale, external=external, flags=EXTERNAL_INPUT)
        self._inputs.append(value)
        self._graph.input_ids.append(value.id)
        return value

    def output(self, value: Value) -> Value:
        """Let a computed value be an argument that the graph writes."""
        tensor = self._graph.xvalues[value.id].xvalue_union
        if isinstance(tensor, schema.XNNQuantizedTensorValue):
            tensor = tensor.tensor_value
        tensor.external_id = len(self._inputs) + len(self._outputs)
        tensor.flags = EXTERNAL_OUTPUT
        self._outputs.append(value)
        self._graph.output_ids.append(value.id)
        return value

    def serialized(self) -> bytes:
        """The bytes that ExecuTorch's XNNPACK delegate compiles; weights are in the constants."""
        self._graph.num_externs = len(self._inputs) + len(self._outputs)
        with quiet():
            content: bytes = serialize_xnnpack_binary(self._graph, bytearray())
        return content

    def constant(self, name: str, array: Array) -> Value:
        """A float32 constant."""
        array = np.asarray(array, np.float32)
        return self._value(array.shape, constant=self._stored(name, array))

    def scalar(self, number: float) -> Value:
        return self.constant(f"number_{number:.9g}", np.array([number], np.float32))

    # Elementwise; shapes broadcast from the right.

    def add(self, left: Value, right: Value) -> Value:
        return self._binary(schema.XNNAdd, left, right)

    def subtract(self, left: Value, right: Value) -> Value:
        return self._binary(schema.XNNSubtract, left, right)

    def multiply(self, left: Value, right: Value) -> Value:
        return self._binary(schema.XNNMultiply, left, right)

    def scaled(self, value: Value, factor: float) -> Value:
        """Times a number; the value itself where that is 1."""
        return value if factor == 1.0 else self.multiply(value, self.scalar(factor))

    def silu(self, value: Value, alpha: float = 1.0) -> Value:
        """x times sigmoid(``alpha`` x)"""
        return self.multiply(value, self.sigmoid(self.scaled(value, alpha)))

    def gelu(self, value: Value, approximate: str) -> Value:
        """``approximate``: "none", or "tanh", as in PyTorch."""
        if approximate == "none":
            return self._unary(schema.XNNGelu, value)
        # (1 + tanh(x)) / 2 = sigmoid(2 x)
        cubic = self.add(self.scaled(self._unary(schema.XNNSquare, value), GELU_CUBIC), self.scalar(1.0))
        inner = self.scaled(self.multiply(value, cubic), 2 * GELU_SCALE)
        return self.multiply(value, self.sigmoid(inner))

    def relu(self, value: Value) -> Value:
        return self._binary(schema.XNNMaximum, value, self.scalar(0.0))

    def between(self, value: Value, low: Value, high: Value) -> Value:
        """Held between two numbers, [1] each."""
        return self._binary(schema.XNNMaximum, self._binary(schema.XNNMinimum, value, high), low)

    def sigmoid(self, value: Value) -> Value:
        return self._unary(schema.XNNSigmoid, value)

    def exp(self, value: Value) -> Value:
        return self._unary(schema.XNNExp, value)

    def softplus(self, value: Value) -> Value:
        """log(1 + exp(x)), of numbers of any size."""
        size = self._binary(schema.XNNMaximum, value, self.scaled(value, -1.0))
        rest = self._unary(schema.XNNLog, self.add(self.exp(self.scaled(size, -1.0)), self.scalar(1.0)))
        return self.add(self.relu(value), rest)

    def tanh(self, value: Value) -> Value:
        return self._unary(schema.XNNTanh, value)

    def softmax(self, value: Value) -> Value:
        """Over the last dimension."""
        return self._unary(schema.XNNSoftmax, value)

    def quantized(self, value: Value, scale: float) -> Value:
        """The nearest int8 code for each number, half to even; codes are whole steps of ``scale``."""
        output = self._steps(value.shape, scale)
        self._node(schema.XNNConvert(value.id, output.id, 0))
        return output

    def dequantized(self, value: Value) -> Value:
        """Codes as float32 numbers."""
        return self._unary(schema.XNNConvert, value)

    # Shapes.

    def reshape(self, value: Value, shape: Sequence[int], bound: Sequence[int] | None = None) -> Value:
        """``shape`` may have one 0, which follows from the rest; ``bound`` is then the upper bound of the new shape."""
        output = self._value(shape if bound is None else bound)
        self._node(schema.XNNStaticReshape(len(shape), list(shape), value.id, output.id, 0))
        return output

    def transpose(self, value: Value, permutation: Sequence[int]) -> Value:
        output = self._value([value.shape[axis] for axis in permutation])
        self._node(schema.XNNStaticTranspose(len(permutation), list(permutation), value.id, output.id, 0))
        return output

    def slice(self, value: Value, axis: int, start: int, size: int) -> Value:
        """``size`` elements of one axis; of the others everything."""
        shape = [size if at == axis else length for at, length in enumerate(value.shape)]
        offsets = [start if at == axis else 0 for at in range(len(shape))]
        sizes = [size if at == axis else 0 for at in range(len(shape))]  # 0: up to the end
        output = self._value(shape)
        self._node(schema.XNNStaticSlice(len(shape), offsets, sizes, value.id, output.id, 0))
        return output

    def pad(self, value: Value, after: Sequence[int]) -> Value:
        """So many zeros behind each axis."""
        output = self._value([length + more for length, more in zip(value.shape, after, strict=True)])
        self._node(schema.XNNStaticConstantPad([0] * len(after), list(after), 0.0, value.id, output.id, 0))
        return output

    def concatenate(self, values: Sequence[Value], axis: int = -1) -> Value:
        """Along an axis."""
        first, axis = values[0], axis % len(values[0].shape)
        if len(values) == 1:
            return first
        if len(values) > MOST_CONCATENATED:
            parts = [values[at : at + MOST_CONCATENATED] for at in range(0, len(values), MOST_CONCATENATED)]
            return self.concatenate([self.concatenate(part, axis) for part in parts], axis)
        shape = list(first.shape)
        shape[axis] = sum(value.shape[axis] for value in values)
        output = self._value(shape)
        ids = [value.id for value in values] + [NONE] * (MOST_CONCATENATED - len(values))
        kind = getattr(schema, f"XNNConcatenate{len(values)}")
        self._node(kind(axis, *ids[:4], output.id, 0, ids[4]))
        return output

    # Products.

    def matrix_product(self, left: Value, right: Value, *, transposed: bool = False) -> Value:
        """[batch, rows, inner] times [batch, inner, columns], or [batch, columns, inner] where it is ``transposed``."""
        columns = right.shape[1] if transposed else right.shape[2]
        output = self._value([*left.shape[:-1], columns])
        flags = TRANSPOSE_B if transposed else 0
        self._node(schema.XNNBatchMatrixMultiply(left.id, right.id, output.id, flags))
        return output

    def linear(self, name: str, hidden: Value, weight: Array | GroupedTensor, bias: Array | None = None) -> Value:
        """hidden [rows, columns of the weight] -> [rows, rows of the weight]

        Quantized weights are multiplied with activations of 8 bits, a scale and a zero point for each row of them.

        :raises ExportError: naming a weight that XNNPACK has no kernel for
        """
        if not isinstance(weight, GroupedTensor):
            matrix = self._value(weight.shape, constant=self._stored(name, weight.astype(np.float32)))
            return self._fully_connected(name, hidden, matrix, bias)
        if weight.zero_points is not None:
            raise ExportError(f"{name} has zero points, and XNNPACK's kernels have none: use a symmetric quantizer")
        if weight.bits == 4 and not weight.per_channel:
            return self._fully_connected(name, *self._blocks(name, hidden, weight), bias)
        if weight.per_channel:
            codes = _flat(weight)[:, : weight.columns]
            if weight.bits == 4 and weight.columns % 2:
                # Rows start on whole bytes: the last code of one is otherwise the first of the next.
                codes, hidden = np.pad(codes, ((0, 0), (0, 1)), constant_values=FOUR_BIT_ZERO), self.pad(hidden, [0, 1])
            matrix = self._by_row(name, codes, weight.scales[:, 0], weight.bits)
            return self._fully_connected(name, self._rounded(hidden), matrix, bias)
        return self._sum_of_groups(name, hidden, weight, bias)

    def convolution(self, name: str, points: Value, kernel: Array, bias: Array, *, stride: int, groups: int) -> Value:
        """points [1, height, width, channels], kernel as PyTorch's [given, channels of a group, side, side] ->
        [1, height / stride, width / stride, given]; around the map are as many zeros as half the kernel, whose side is
        odd. Of many ``groups`` each is of one channel."""
        given, channels, side, _ = kernel.shape
        is_depthwise = groups > 1
        # [given, channels, side, side] -> [given, side, side, channels], or of one channel each [1, side, side, given]
        kernel = kernel.transpose((1, 2, 3, 0) if is_depthwise else (0, 2, 3, 1))
        _, height, width, _ = points.shape
        output = self._value([1, -(-height // stride), -(-width // stride), given])
        kind = schema.XNNDepthwiseConv2d if is_depthwise else schema.XNNConv2d
        ids = points.id, self.constant(name, kernel).id, self.constant(f"{name}.bias", bias).id, output.id
        around, steps, whole = (side // 2,) * 4, (stride, stride), (1, 1)
        sizes = (side, side), steps, whole, (channels, given // groups), (groups,), (0, 0)
        self._node(kind(*around, *(number for pair in sizes for number in pair), *ids, 0))
        return output

    def _blocks(self, name: str, hidden: Value, weight: GroupedTensor) -> tuple[Value, Value]:
        """Rounded activations, padded as the weight's rows are, and a weight of 4 bits in blocks."""
        if weight.group_size % SMALLEST_BLOCK:
            raise ExportError(
                f"{name} is in groups of {weight.group_size}; XNNPACK's are multiples of {SMALLEST_BLOCK}: "
                "choose another group size"
            )
        codes = _flat(weight)
        padding = codes.shape[1] - weight.columns
        if padding:
            hidden = self.pad(hidden, [0, padding])
        scales = _bfloat16_bits(name, weight.scales)
        params = schema.PerChannelGroupQuant(
            scale=[],
            channel_dim=0,
            group_size=weight.group_size,
            scale_buffer_idx=self._stored(f"{name}.scales", scales),
            num_scales=scales.size,
        )
        kind = schema.XNNDatatype.xnn_datatype_qbint4
        matrix = self._value(codes.shape, kind, constant=self._stored(name, _pairs(codes), scales), quantization=params)
        return self._rounded(hidden), matrix

    def _sum_of_groups(self, name: str, hidden: Value, weight: GroupedTensor, bias: Array | None) -> Value:
        """Groups of 8 bits, which XNNPACK has no kernel for: one product a group, whose rows have a scale each."""
        total = None
        for group in range(weight.groups):
            first = group * weight.group_size
            size = min(weight.group_size, weight.columns - first)
            part = self._rounded(self.slice(hidden, 1, first, size))
            codes = weight.codes[:, group, :size]
            matrix = self._by_row(f"{name}.{group}", codes, weight.scales[:, group], weight.bits)
            product = self._fully_connected(name, part, matrix, bias if total is None else None)
            total = product if total is None else self.add(total, product)
        assert total is not None
        return total

    def _by_row(self, name: str, codes: Array, scales: Array, bits: int) -> Value:
        """A weight with one scale a row: codes of 4 bits are unsigned in the file, of 8 bits signed."""
        if bits == 4:
            kind, stored = schema.XNNDatatype.xnn_datatype_qcint4, _pairs(codes)
        else:
            kind, stored = schema.XNNDatatype.xnn_datatype_qcint8, signed_codes(codes)
        if not (scales > 0).all():
            raise ExportError(f"{name} has scales that are not positive: XNNPACK takes none")
        params = schema.PerChannelQuant(
            scale=[],
            channel_dim=0,
            scale_buffer_idx=self._stored(f"{name}.scales", scales.astype(np.float32)),
            num_scales=scales.size,
        )
        return self._value(codes.shape, kind, constant=self._stored(name, stored, scales), quantization=params)

    def _rounded(self, hidden: Value) -> Value:
        """Activations as 8-bit codes, each row with its own scale; linear layers with the same input share them."""
        if hidden.id not in self._dynamic:
            kind, params = schema.XNNDatatype.xnn_datatype_qdint8, schema.PerTokenDynamicQuant(num_nonbatch_dims=1)
            output = self._value(hidden.shape, kind, quantization=params)
            self._node(schema.XNNConvert(hidden.id, output.id, 0))
            self._dynamic[hidden.id] = output.id
        return Value(self._dynamic[hidden.id], hidden.shape)

    def _fully_connected(self, name: str, hidden: Value, matrix: Value, bias: Array | None) -> Value:
        added = NONE if bias is None else self.constant(f"{name}.bias", bias).id
        output = self._value([*hidden.shape[:-1], matrix.shape[0]])
        self._node(schema.XNNFullyConnected(hidden.id, matrix.id, added, output.id, 0))
        return output

    # Norms. XNNPACK's schema has no mean: it is a product with a row of 1 / size.

    def rms_norm(self, name: str, hidden: Value, weight: Array, epsilon: float) -> Value:
        """hidden [rows, size] -> [rows, size]"""
        return self.multiply(self.unweighted_rms_norm(hidden, epsilon), self.constant(name, weight))

    def unweighted_rms_norm(self, hidden: Value, epsilon: float) -> Value:
        """hidden [rows, size] -> [rows, size]"""
        return self.multiply(hidden, self._inverse_root(hidden, epsilon))

    def layer_norm(self, name: str, hidden: Value, weight: Array, bias: Array, epsilon: float) -> Value:
        """hidden [rows, size] -> [rows, size]"""
        centred = self.subtract(hidden, self._mean(hidden, 0.0))
        normed = self.multiply(centred, self._inverse_root(centred, epsilon))
        return self.add(self.multiply(normed, self.constant(name, weight)), self.constant(f"{name}.bias", bias))

    def mean(self, values: Value) -> Value:
        """[rows, size] -> [rows, 1]"""
        return self._mean(values, 0.0)

    def mean_of_rows(self, values: Value) -> Value:
        """[rows, width] -> [1, width]"""
        width = values.shape[-1]
        # [rows, width] -> [width, rows] -> [width, 1] -> [1, width]
        return self.reshape(self.mean(self.transpose(values, [1, 0])), [1, width])

    def _inverse_root(self, hidden: Value, epsilon: float) -> Value:
        """1 / sqrt(mean of squares + epsilon), [rows, 1]"""
        return self._unary(schema.XNNReciprocalSquareRoot, self._mean(self._unary(schema.XNNSquare, hidden), epsilon))

    def _mean(self, hidden: Value, added: float) -> Value:
        size = hidden.shape[-1]
        weight = np.full((1, size), 1 / size, np.float32)
        return self.linear(f"mean_{size}", hidden, weight, np.array([added], np.float32))

    def _unary(self, kind: Any, value: Value) -> Value:
        output = self._value(value.shape)
        self._node(kind(value.id, output.id, 0))
        return output

    def _binary(self, kind: Any, left: Value, right: Value) -> Value:
        output = self._value(np.broadcast_shapes(left.shape, right.shape))
        self._node(kind(left.id, right.id, output.id, 0))
        return output

    def _stored(self, name: str, array: Array, beside: Array | None = None) -> int:
        key = self._constants.add(name, array, beside)
        size = len(self._constants.data[key])
        self._graph.constant_data.append(schema.ConstantDataOffset(offset=NAMED, size=size, named_key=key))
        return len(self._graph.constant_data) - 1

    def _value(
        self,
        shape: Sequence[int],
        kind: schema.XNNDatatype = schema.XNNDatatype.xnn_datatype_fp32,
        *,
        constant: int = 0,
        external: int = NONE,
        flags: int = 0,
        quantization: Any = None,
    ) -> Value:
        value = Value(len(self._graph.xvalues), tuple(int(length) for length in shape))
        tensor = schema.XNNTensorValue(
            kind, len(value.shape), list(value.shape), constant, external_id=external, flags=flags, id_out=value.id
        )
        union = tensor if quantization is None else schema.XNNQuantizedTensorValue(tensor, quantization)
        self._graph.xvalues.append(schema.XValue(union))
        return value

    def _steps(self, shape: Sequence[int], scale: float, *, external: int = NONE, flags: int = 0) -> Value:
        """int8 codes, whole steps of ``scale``."""
        kind, params = schema.XNNDatatype.xnn_datatype_qint8, schema.PerTensorQuant(scale, 0)
        return self._value(shape, kind, external=external, flags=flags, quantization=params)

    def _node(self, node: Any) -> None:
        self._graph.xnodes.append(schema.XNode(node, debug_handle=len(self._graph.xnodes)))


def signed_codes(codes: Array) -> Array:
    """Unsigned 8-bit codes around 128 -> int8 around 0, the same numbers."""
    return (codes ^ np.uint8(128)).view(np.int8)


def _flat(weight: GroupedTensor) -> Array:
    """[rows, groups, group_size] -> [rows, groups * group_size]"""
    return weight.codes.reshape(weight.rows, -1)


def _pairs(codes: Array) -> Array:
    """4-bit codes [rows, columns] -> [rows, columns / 2], the first of a pair in the lower half of its byte."""
    return codes[:, 0::2] | (codes[:, 1::2] << np.uint8(4))


def _bfloat16_bits(name: str, scales: Array) -> Array:
    """float32 scales that bfloat16 holds exactly -> their upper 16 bits.

    :raises ExportError: when a scale would be rounded, or is not positive
    """
    bits = np.ascontiguousarray(scales, np.float32).view(np.uint32)
    if (bits & 0xFFFF).any() or not (scales > 0).all():
        raise ExportError(
            f'{name} has scales that are no positive bfloat16 numbers: quantize it with scales = "bfloat16"'
        )
    return (bits >> 16).astype(np.uint16)
