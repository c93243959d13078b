"""A block as the operators that it consists of, in order: what back ends lower."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import fx, nn

from pocketvlm.errors import ExportError
from pocketvlm.models.operators import Linear, Operator, RmsNorm, Scale

#: What stands between operators in a block.
FUNCTIONS = {operator.add: "+", operator.mul: "*"}


class _OperatorTracer(fx.Tracer):
    """Goes into blocks and stops at operators."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Operator)


@dataclass(frozen=True)
class Traced:
    """A traced block; its parameters have no memory."""

    module: nn.Module
    graph: fx.Graph

    @property
    def inputs(self) -> list[fx.Node]:
        return [node for node in self.graph.nodes if node.op == "placeholder"]

    @property
    def calls(self) -> list[fx.Node]:
        """Operators, additions and products, in order."""
        return [node for node in self.graph.nodes if node.op in {"call_module", "call_function"}]

    @cached_property
    def result(self) -> fx.Node:
        """What the block gives."""
        found: fx.Node = self.graph.output_node().args[0]  # type: ignore[assignment]
        return found

    def operator(self, node: fx.Node) -> Operator | None:
        """None for an addition or a product."""
        if node.op != "call_module":
            return None
        found = self.module.get_submodule(str(node.target))
        assert isinstance(found, Operator)
        return found

    def linears(self) -> Iterator[fx.Node]:
        return (node for node in self.calls if isinstance(self.operator(node), Linear))

    def same_inputs(self) -> list[list[str]]:
        """The names of linear layers, those with the same input together."""
        found: dict[fx.Node, list[str]] = {}
        for node in self.linears():
            found.setdefault(node.all_input_nodes[0], []).append(str(node.target))
        return list(found.values())

    def factor(self, node: fx.Node) -> float:
        """What a linear layer's or a norm's output is multiplied by right behind it and nowhere else."""
        scale = self._taken_in.get(node)
        found = None if scale is None else self.operator(scale)
        return found.factor if isinstance(found, Scale) else 1.0

    def is_taken_in(self, node: fx.Node) -> bool:
        """Whether this is a scale that ``factor`` has already."""
        return node in self._taken_in.values()

    @cached_property
    def _taken_in(self) -> dict[fx.Node, fx.Node]:
        """The scales that a weight can take in, by the linear layer or norm whose output they alone read."""
        found = {}
        for node in self.calls:
            if isinstance(self.operator(node), Scale):
                (before,) = node.all_input_nodes
                if len(before.users) == 1 and isinstance(self.operator(before), Linear | RmsNorm):
                    found[before] = node
        return found


def trace(block: nn.Module) -> Traced:
    """The block's operators.

    :raises ExportError: naming what the block does beside operators, ``+`` and ``*``
    """
    tracer, name = _OperatorTracer(), type(block).__name__
    try:
        graph = tracer.trace(block)
    except fx.proxy.TraceError as error:
        raise ExportError(f"{name} looks at its input: a block is operators, + and * alone ({error})") from error
    for node in graph.nodes:
        known = node.op in {"placeholder", "output", "call_module"}
        if not known and not (node.op == "call_function" and node.target in FUNCTIONS):
            what = getattr(node.target, "__name__", node.target)
            raise ExportError(f"{name} calls {what}: a block is operators, + and * alone; write an operator for it")
        if node.op == "call_module" and not isinstance(block.get_submodule(str(node.target)), Operator):
            raise ExportError(f"{name}.{node.target} is no operator")
    return Traced(block, graph)
