"""A builder of one graph of a .tflite file: tensors with static shapes, TensorFlow Lite's builtin operators."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from pocketvlm.export.litert.program import Array, Constant, LitertFile
from pocketvlm.export.litert.weights import Matrix, QuantizedMatrix

Type: Any = schema.TensorType
Code: Any = schema.BuiltinOperator
TYPES: dict[str, int] = {
    "float32": Type.FLOAT32,
    "float16": Type.FLOAT16,
    "int64": Type.INT64,
    "int32": Type.INT32,
    "int16": Type.INT16,
    "int8": Type.INT8,
    "uint8": Type.UINT8,
    "bool": Type.BOOL,
}
#: A missing input.
NONE = -1
#: The versions of FULLY_CONNECTED that brought what its weights need: 8 bits by the row, 4 bits, blocks.
FULLY_CONNECTED = {"float": 1, "rows": 9, "pairs": 12, "blocks": 13}


@dataclass(frozen=True)
class LitertTensor:
    """A tensor of the graph; ``step`` is what a code of an int8 or int16 one counts in."""

    index: int
    shape: tuple[int, ...]
    dtype: str = "float32"
    step: float | None = None


class LitertGraph:
    """Collects tensors and operators; ``finish`` adds the graph to its program."""

    def __init__(self, program: LitertFile, name: str) -> None:
        self.program, self.name = program, name
        self._graph = schema.SubGraphT()
        self._graph.name, self._graph.tensors, self._graph.operators = name, [], []
        self._inputs: dict[str, LitertTensor] = {}
        self._outputs: dict[str, LitertTensor] = {}
        self._constants: dict[str, LitertTensor] = {}
        #: Composites, and the graphs that they fall back to.
        self._composites: list[tuple[Any, LitertGraph]] = []

    def input(self, name: str, shape: Sequence[int], dtype: str = "float32", step: float | None = None) -> LitertTensor:
        self._inputs[name] = self._tensor(f"{self.name}_{name}", shape, dtype, step=step)
        return self._inputs[name]

    def output(self, name: str, value: LitertTensor) -> None:
        self._outputs[name] = value

    def finish(self) -> None:
        """Leave out what no output needs, and add the graph as a signature of its name."""
        inputs = {name: value.index for name, value in self._inputs.items()}
        outputs = {name: value.index for name, value in self._outputs.items()}
        self.program.add(self.closed(), self.name, inputs, outputs)

    def closed(self) -> Any:
        """The graph, ``schema.SubGraphT``, without what no output needs."""
        self._leave_out_unused()
        for node, inner in self._composites:
            if node in self._graph.operators:
                self.program.attach(node.builtinOptions2, inner.closed())
        self._graph.inputs = [value.index for value in self._inputs.values()]
        self._graph.outputs = [value.index for value in self._outputs.values()]
        return self._graph

    # Constants.

    def constant(self, name: str, array: Array, step: float | Array | None = None) -> LitertTensor:
        """One tensor a graph and one buffer a program for each name; codes count in ``step``, one for all or each its
        own."""
        if name not in self._constants:
            array = np.ascontiguousarray(array)
            buffer = self.program.buffer(name, Constant.of(array))
            self._constants[name] = self._tensor(name, array.shape, str(array.dtype), buffer, step)
        return self._constants[name]

    def integers(self, *numbers: int) -> LitertTensor:
        return self.constant("integers" + "".join(f"_{number}" for number in numbers), np.array(numbers, np.int32))

    def scalar(self, number: float) -> LitertTensor:
        return self.constant(f"scalar_{number!r}", np.array([number], np.float32))

    def matrix(self, name: str, weight: Matrix) -> LitertTensor:
        """A linear layer's or a table's [rows, columns]."""
        if name in self._constants:
            return self._constants[name]
        if not isinstance(weight, QuantizedMatrix):
            buffer = self.program.buffer(name, weight.values)
            self._constants[name] = self._tensor(name, weight.shape, "float32", buffer)
            return self._constants[name]
        buffer = self.program.buffer(name, weight.codes)
        parameters = schema.QuantizationParametersT()
        if weight.block is None:
            parameters.scale, parameters.zeroPoint = weight.scales, np.zeros(len(weight.scales), np.int64)
        else:
            blocks = schema.BlockwiseQuantizationT()
            blocks.scales = self.constant(f"{name}.scales", weight.scales).index
            blocks.zeroPoints, blocks.blockSize = NONE, weight.block
            parameters.detailsType = schema.QuantizationDetails.BlockwiseQuantization
            parameters.details = blocks
        parameters.quantizedDimension = 0
        self._constants[name] = self._tensor(name, weight.shape, "int8", buffer)
        tensor = self._graph.tensors[self._constants[name].index]
        tensor.quantization, tensor.type = parameters, Type.INT4 if weight.bits == 4 else Type.INT8
        return self._constants[name]

    # Arithmetic, with NumPy's broadcasting.

    def add(self, left: LitertTensor, right: LitertTensor) -> LitertTensor:
        return self._binary(Code.ADD, left, right, schema.AddOptionsT())

    def subtract(self, left: LitertTensor, right: LitertTensor) -> LitertTensor:
        return self._binary(Code.SUB, left, right, schema.SubOptionsT())

    def multiply(self, left: LitertTensor, right: LitertTensor) -> LitertTensor:
        return self._binary(Code.MUL, left, right, schema.MulOptionsT())

    def scaled(self, value: LitertTensor, factor: float) -> LitertTensor:
        return value if factor == 1.0 else self.multiply(value, self.scalar(factor))

    def silu(self, value: LitertTensor, alpha: float = 1.0) -> LitertTensor:
        """value times sigmoid(alpha value)"""
        return self.multiply(value, self._unary(Code.LOGISTIC, self.scaled(value, alpha)))

    def gelu(self, value: LitertTensor, *, approximate: bool) -> LitertTensor:
        options = schema.GeluOptionsT()
        options.approximate = approximate
        return self._unary(Code.GELU, value, options)

    def softmax(self, value: LitertTensor) -> LitertTensor:
        """Over the last axis."""
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
        return self._unary(Code.SOFTMAX, value, options)

    # Norms, over the last axis.

    def rms_norm(self, value: LitertTensor, weight: LitertTensor, epsilon: float) -> LitertTensor:
        return self.multiply(self.multiply(value, self._inverse_root(value, epsilon)), weight)

    def layer_norm(self, value: LitertTensor, weight: LitertTensor, bias: LitertTensor, epsilon: float) -> LitertTensor:
        centred = self.subtract(value, self._mean(value))
        normed = self.multiply(centred, self._inverse_root(centred, epsilon))
        return self.add(self.multiply(normed, weight), bias)

    def _inverse_root(self, value: LitertTensor, epsilon: float) -> LitertTensor:
        """1 / sqrt(mean of squares + epsilon), [..., 1]"""
        mean = self._mean(self.multiply(value, value))
        return self._unary(Code.RSQRT, self.add(mean, self.scalar(epsilon)))

    def _mean(self, value: LitertTensor) -> LitertTensor:
        options = schema.ReducerOptionsT()
        options.keepDims = True
        axis = self.integers(len(value.shape) - 1)
        return self.operator(Code.MEAN, [value, axis], (*value.shape[:-1], 1), options)

    # Products.

    def linear(self, hidden: LitertTensor, weight: LitertTensor, bias: LitertTensor | None = None) -> LitertTensor:
        """hidden [..., columns] -> [..., rows of the weight]

        With quantized weights LiteRT rounds activations to 8 bits, each row with a scale and a zero point of its own.
        """
        tensor, options = self._graph.tensors[weight.index], schema.FullyConnectedOptionsT()
        options.keepNumDims, options.asymmetricQuantizeInputs = True, True
        kind = "float"
        if tensor.quantization is not None:
            in_blocks = tensor.quantization.details is not None
            kind = "blocks" if in_blocks else "pairs" if tensor.type == Type.INT4 else "rows"
        inputs, shape = [hidden, weight, bias], (*hidden.shape[:-1], weight.shape[0])
        return self.operator(Code.FULLY_CONNECTED, inputs, shape, options, version=FULLY_CONNECTED[kind])

    def product(self, left: LitertTensor, right: LitertTensor, *, transposed: bool = False) -> LitertTensor:
        """[..., rows, inner] times [..., inner, columns], or [..., columns, inner] where it is ``transposed``."""
        options = schema.BatchMatMulOptionsT()
        options.adjX, options.adjY = False, transposed
        columns = right.shape[-2] if transposed else right.shape[-1]
        return self.operator(Code.BATCH_MATMUL, [left, right], (*left.shape[:-1], columns), options)

    def rows(self, table: LitertTensor, indices: LitertTensor) -> LitertTensor:
        """table [rows, ...], indices int32 [tokens] -> [tokens, ...], dequantized"""
        quantized = self._graph.tensors[table.index].quantization is not None
        shape, version = (*indices.shape, *table.shape[1:]), 4 if quantized else 1
        return self.operator(Code.EMBEDDING_LOOKUP, [indices, table], shape, version=version)

    # Shapes.

    def reshape(self, value: LitertTensor, shape: Sequence[int]) -> LitertTensor:
        shape = tuple(shape)
        if shape == value.shape:
            return value
        assert math.prod(shape) == math.prod(value.shape), f"{value.shape} is not {shape}"
        options = schema.ReshapeOptionsT()
        options.newShape = list(shape)
        return self.moved(Code.RESHAPE, [value, self.integers(*shape)], shape, options)

    def transpose(self, value: LitertTensor, order: Sequence[int]) -> LitertTensor:
        shape = tuple(value.shape[axis] for axis in order)
        moved = [axis for axis in order if value.shape[axis] != 1]
        if moved == sorted(moved):  # the numbers stay where they are
            return self.reshape(value, shape)
        return self.moved(Code.TRANSPOSE, [value, self.integers(*order)], shape, schema.TransposeOptionsT())

    def slice(self, value: LitertTensor, axis: int, first: int, size: int, version: int = 1) -> LitertTensor:
        """``size`` elements of one axis; of the others everything."""
        if (first, size) == (0, value.shape[axis]):
            return value
        shape = tuple(size if at == axis else length for at, length in enumerate(value.shape))
        begin = (first if at == axis else 0 for at in range(len(shape)))
        inputs = [value, self.integers(*begin), self.integers(*shape)]
        return self.moved(Code.SLICE, inputs, shape, schema.SliceOptionsT(), version)

    def concatenate(self, values: Sequence[LitertTensor], axis: int) -> LitertTensor:
        options, first = schema.ConcatenationOptionsT(), values[0]
        options.axis = axis
        total = sum(value.shape[axis] for value in values)
        shape = tuple(total if at == axis else length for at, length in enumerate(first.shape))
        return self.moved(Code.CONCATENATION, values, shape, options)

    def pad(self, value: LitertTensor, after: Sequence[int]) -> LitertTensor:
        """So many zeros behind each axis."""
        pairs = self.constant(
            "pad" + "".join(f"_{count}" for count in after), np.array([(0, n) for n in after], np.int32)
        )
        shape = tuple(length + more for length, more in zip(value.shape, after, strict=True))
        return self.moved(Code.PAD, [value, pairs], shape, schema.PadOptionsT())

    # The KV cache.

    def update(self, cache: LitertTensor, rows: LitertTensor, start: LitertTensor) -> LitertTensor:
        """The cache with ``rows`` written at ``start``, int32 [rank]."""
        version = 2 if cache.dtype == "int8" else 1
        inputs = [cache, rows, start]
        return self.moved(Code.DYNAMIC_UPDATE_SLICE, inputs, cache.shape, schema.DynamicUpdateSliceOptionsT(), version)

    def quantize(self, value: LitertTensor, step: float, dtype: str = "int8") -> LitertTensor:
        """The nearest code for each number, or for what each code is worth; codes are whole steps of ``step``."""
        return self.operator(Code.QUANTIZE, [value], value.shape, schema.QuantizeOptionsT(), dtype=dtype, step=step)

    def dequantize(self, value: LitertTensor) -> LitertTensor:
        """What codes are worth, float32."""
        return self.operator(Code.DEQUANTIZE, [value], value.shape, schema.DequantizeOptionsT(), version=2)

    def codes_as_numbers(self, value: LitertTensor) -> LitertTensor:
        """int8 codes, in steps of 1, as float32.

        A CAST gives the number that a DEQUANTIZE would. Behind the latter LiteRT 2.3 reserves memory for each layer's
        scores: 33 MB a layer at 14 heads, 128 tokens and 2,048 positions; and a prefill takes a tenth longer.
        """
        assert value.step == 1.0, "codes are worth something else"
        return self.cast(value, "float32")

    # Bits and tests, for LiteRT-LM.

    def largest(self, value: LitertTensor) -> LitertTensor:
        """Of the magnitudes along the last axis, [..., 1]"""
        options = schema.ReducerOptionsT()
        options.keepDims = True
        inputs = [self._unary(Code.ABS, value, schema.AbsOptionsT()), self.integers(len(value.shape) - 1)]
        return self.operator(Code.REDUCE_MAX, inputs, (*value.shape[:-1], 1), options)

    def bits(self, value: LitertTensor) -> LitertTensor:
        """float32 as int32 of the same bits."""
        return self.operator(Code.BITCAST, [value], value.shape, schema.BitcastOptionsT(), dtype="int32")

    def equal(self, left: LitertTensor, right: LitertTensor) -> LitertTensor:
        """bool"""
        shape = np.broadcast_shapes(left.shape, right.shape)
        return self.operator(Code.EQUAL, [left, right], shape, schema.EqualOptionsT(), dtype="bool")

    def cast(self, value: LitertTensor, dtype: str) -> LitertTensor:
        options = schema.CastOptionsT()
        options.inDataType, options.outDataType = TYPES[value.dtype], TYPES[dtype]
        return self.operator(Code.CAST, [value], value.shape, options, dtype=dtype)

    # Graphs of another file.

    def graft(
        self, graph: Any, codes: Sequence[Any], buffer: Callable[[int], int], taken: Mapping[int, LitertTensor]
    ) -> dict[int, LitertTensor]:
        """The tensors and operators of ``graph``, ``schema.SubGraphT``, whose inputs are ``taken``: its tensors here.

        ``codes`` are its file's operators, ``buffer`` gives the buffer of this file for one of its file's.
        """
        values = dict(taken)
        for index, tensor in enumerate(graph.tensors):
            if index not in values:
                dtype = next((name for name, number in TYPES.items() if number == tensor.type), "int4")
                values[index] = LitertTensor(len(self._graph.tensors), tuple(int(n) for n in tensor.shape), dtype)
                tensor = copy.copy(tensor)
                tensor.name, tensor.buffer = f"{self.name}/{tensor.name.decode()}", buffer(tensor.buffer)
                self._graph.tensors.append(tensor)
        for index, value in values.items():
            tensor = self._graph.tensors[value.index]
            if index not in taken and tensor.quantization is not None and tensor.quantization.details is not None:
                tensor.quantization = copy.deepcopy(tensor.quantization)
                tensor.quantization.details.scales = values[tensor.quantization.details.scales].index
        for node in graph.operators:
            node = copy.copy(node)
            node.opcodeIndex = self.program.operator(
                codes[node.opcodeIndex].builtinCode, codes[node.opcodeIndex].version
            )
            node.inputs = [NONE if index == NONE else values[index].index for index in node.inputs]
            node.outputs = [values[index].index for index in node.outputs]
            self._graph.operators.append(node)
        return values

    def _unary(self, code: int, value: LitertTensor, options: Any = None) -> LitertTensor:
        return self.operator(code, [value], value.shape, options)

    def _binary(self, code: int, left: LitertTensor, right: LitertTensor, options: Any) -> LitertTensor:
        shape = np.broadcast_shapes(left.shape, right.shape)
        return self.operator(code, [left, right], shape, options, dtype=left.dtype)

    def operator(
        self,
        code: int,
        inputs: Sequence[LitertTensor | None],
        shape: Sequence[int],
        options: Any = None,
        version: int = 1,
        dtype: str = "float32",
        step: float | None = None,
    ) -> LitertTensor:
        """An operator that computes float32 numbers, or codes of ``step``."""
        output = self._tensor("", shape, dtype, step=step)
        self._node(code, inputs, output, options, version)
        return output

    def moved(
        self, code: int, inputs: Sequence[LitertTensor], shape: Sequence[int], options: Any, version: int = 1
    ) -> LitertTensor:
        """An operator that moves the numbers, or codes, of its first input."""
        return self.operator(code, inputs, shape, options, version, inputs[0].dtype, inputs[0].step)

    def composite(
        self, name: str, attributes: bytes, inputs: Sequence[LitertTensor], step: float, inner: LitertGraph
    ) -> LitertTensor:
        """One operator to who knows its ``name``, and to others what the graph ``inner`` says; gives int16 codes of the
        first input's shape."""
        output, options = self._tensor("", inputs[0].shape, "int16", step=step), schema.StableHLOCompositeOptionsT()
        options.name, options.version = name, 1
        options.compositeAttributes = list(attributes)
        node = self._node(Code.STABLEHLO_COMPOSITE, inputs, output, None, 1)
        node.builtinOptions2 = options
        node.builtinOptions2Type = schema.BuiltinOptions2.StableHLOCompositeOptions
        self._composites.append((node, inner))
        return output

    def _node(
        self, code: int, inputs: Sequence[LitertTensor | None], output: LitertTensor, options: Any, version: int
    ) -> Any:
        node = schema.OperatorT()
        node.opcodeIndex = self.program.operator(code, version)
        node.inputs = [NONE if value is None else value.index for value in inputs]
        node.outputs = [output.index]
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            node.builtinOptions, node.builtinOptionsType = options, getattr(schema.BuiltinOptions, name)
        self._graph.operators.append(node)
        return node

    def _tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str = "float32",
        buffer: int = 0,
        step: float | Array | None = None,
    ) -> LitertTensor:
        tensor, index = schema.TensorT(), len(self._graph.tensors)
        tensor.name, tensor.type, tensor.buffer = name or f"{self.name}_{index}", TYPES[dtype], buffer
        tensor.shape, tensor.hasRank = [int(length) for length in shape], True
        if step is not None:
            steps = np.atleast_1d(np.asarray(step, np.float32))
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = steps, np.zeros(len(steps), np.int64)
        self._graph.tensors.append(tensor)
        return LitertTensor(index, tuple(tensor.shape), dtype, step if isinstance(step, float) else None)

    def _leave_out_unused(self) -> None:
        """Of a prefill's last layer nothing is needed but its keys and values."""
        needed, kept = {value.index for value in self._outputs.values()}, []
        for node in reversed(self._graph.operators):
            if needed.intersection(node.outputs):
                needed.update(node.inputs)
                kept.append(node)
        self._graph.operators = kept[::-1]
