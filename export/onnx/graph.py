"""A small builder for ONNX graphs whose weights lie in external data files."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from pocketvlm.export.store.weights import FloatWeight, Region, StoredWeight

OPSET = 21
#: Of an operator set, the IR version that came with it.
IR_VERSIONS = {21: 10, 24: 12}
#: ONNX Runtime's own operators (MatMulNBits, GroupQueryAttention, ...).
MICROSOFT = "com.microsoft"

Dimension = int | str
DTYPES = {
    "float32": ir.DataType.FLOAT,
    "int64": ir.DataType.INT64,
    "int32": ir.DataType.INT32,
    "int16": ir.DataType.INT16,
    "uint16": ir.DataType.UINT16,
    "int8": ir.DataType.INT8,
    "uint8": ir.DataType.UINT8,
    "bool": ir.DataType.BOOL,
}


class GraphBuilder:
    """Collects nodes, weights, inputs and outputs, in order; ``model()`` gives the finished ONNX model."""

    def __init__(self, name: str, opset: int = OPSET) -> None:
        self.name = name
        self._opset = opset
        self._prefix = ""
        self._nodes: list[ir.Node] = []
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._initializers: dict[str, ir.Value] = {}
        self._made: dict[Hashable, tuple[ir.Value, ...]] = {}

    def input(self, name: str, dtype: str, shape: Sequence[Dimension]) -> ir.Value:
        value = ir.val(name, DTYPES[dtype], list(shape))
        self._inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str, dtype: str, shape: Sequence[Dimension]) -> None:
        value.name = name
        value.type = ir.TensorType(DTYPES[dtype])
        value.shape = ir.Shape(list(shape))
        self._outputs.append(value)

    def op(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        domain: str = "",
        name: str | None = None,
        dtype: str = "float32",
        **attributes: Any,
    ) -> ir.Value:
        """Add a node with one output. One that has a ``name`` has a type too, so that a graph can be cut there."""
        value = self.ops(op_type, *inputs, domain=domain, names=[None], **attributes)[0]
        return value if name is None else self.call(value, name, dtype)

    def call(self, value: ir.Value, name: str, dtype: str = "float32") -> ir.Value:
        """Let what a node gives be called so, with its type."""
        value.name, value.type = name, ir.TensorType(DTYPES[dtype])
        return value

    def ops(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        names: Sequence[str | None],
        domain: str = "",
        **attributes: Any,
    ) -> Sequence[ir.Value]:
        """Add a node with several outputs; each unnamed one gets a name from its node."""
        node = ir.node(op_type, list(inputs), attributes, domain=domain, num_outputs=len(names))
        node.name = f"{self._prefix}{op_type}_{len(self._nodes)}"
        for index, (value, name) in enumerate(zip(node.outputs, names, strict=True)):
            value.name = name or f"{node.name}_{index}"
        self._nodes.append(node)
        return node.outputs

    @contextmanager
    def named(self, prefix: str) -> Iterator[None]:
        """Nodes that are added inside have names that begin so: what an engine's profile tells apart."""
        outer, self._prefix = self._prefix, f"{self._prefix}{prefix}."
        try:
            yield
        finally:
            self._prefix = outer

    def constant(self, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
        """A small tensor kept inside the graph file."""
        return self._initializer(name, ir.tensor(array, name=name))

    def shape(self, *sizes: int) -> ir.Value:
        """A constant target shape of Reshape; 0 copies the input's size."""
        return self.constant("shape_" + "_".join(str(size) for size in sizes), np.array(sizes, np.int64))

    def default_input(self, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
        """An input that may be left out: it has an initializer as its default."""
        value = self.constant(name, array)
        self._inputs.append(value)
        return value

    def once(self, what: Hashable, make: Callable[[], tuple[ir.Value, ...]]) -> tuple[ir.Value, ...]:
        """The values that ``make`` gave when it was first called for ``what``."""
        if what not in self._made:
            self._made[what] = make()
        return self._made[what]

    def weight(self, name: str, region: Region) -> ir.Value:
        """A tensor of an external data file."""
        return self.packed_weight(name, region, ir.DataType.from_numpy(np.dtype(region.dtype)), region.shape)

    def packed_weight(self, name: str, region: Region, dtype: ir.DataType, shape: Sequence[int]) -> ir.Value:
        """The same bytes as a tensor of another type and shape: two codes of 4 bits in a byte."""
        tensor = ir.ExternalTensor(region.file, region.offset, region.length, dtype, shape=ir.Shape(shape), name=name)
        return self._initializer(name, tensor)

    def float_weight(self, weight: StoredWeight) -> ir.Value:
        """A weight that the recipe keeps in float32 (a norm, a bias, a convolution)."""
        assert isinstance(weight, FloatWeight), weight.name
        return self.weight(weight.name, weight.region)

    def branch(self, name: str) -> GraphBuilder:
        """The builder of a graph for one of this one's nodes. It may read this one's values; constants are shared."""
        inner = GraphBuilder(name, self._opset)
        inner._prefix = f"{name}."
        inner._initializers = self._initializers
        return inner

    def graph(self) -> ir.Graph:
        """The finished graph of a branch."""
        return ir.Graph(self._inputs, self._outputs, nodes=self._nodes, name=self.name)

    def model(self) -> ir.Model:
        graph = ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._nodes,
            initializers=list(self._initializers.values()),
            opset_imports={"": self._opset, MICROSOFT: 1},
            name=self.name,
        )
        return ir.Model(graph, ir_version=IR_VERSIONS[self._opset], producer_name="pocketvlm")

    def _initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        if name not in self._initializers:
            self._initializers[name] = ir.val(name, tensor.dtype, list(tensor.shape.numpy()), const_value=tensor)
        return self._initializers[name]


def save_graph(model: ir.Model, path: Path) -> None:
    """Write the graph; its weights stay where they are, beside it."""
    path.write_bytes(ir.serde.serialize_model(model).SerializeToString())
