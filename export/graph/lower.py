"""A stage into a back end's own graph, operator by operator: the only loop over a block's nodes.

A back end is a table, ``{operator: function(at, call, *values) -> value}``, with ``operator.add`` and ``operator.mul``
for what stands between operators. ``at`` is the back end's own: the graph under construction and where weights come
from. What a value is, is the back end's business too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from pocketvlm.errors import ExportError
from pocketvlm.models.stages import Stage


@dataclass(frozen=True)
class Call:
    """One operator of a stage; of an addition or a product ``operator`` is None.

    ``factor``: what its output is multiplied by right behind it, which its weight can take in. ``values``: what was
    computed before, by node; ``live``: those of them that are used again behind this one.
    """

    stage: Stage
    node: fx.Node
    operator: Any
    factor: float
    values: dict[fx.Node, Any]
    live: tuple[fx.Node, ...]

    @property
    def name(self) -> str:
        """Of the value that it gives."""
        return self.stage.value_name(self.node)

    def weight(self, part: str = "weight") -> str:
        """A parameter's name in the checkpoint."""
        return self.stage.weight_name(self.node, part)


Table = Mapping[Any, Callable[..., Any]]


def lower(stage: Stage, table: Table, at: Any, stream: Any) -> Any:
    """What the stage gives for what enters it, in the back end's graph.

    :raises ExportError: naming an operator that the back end has no function for
    """
    traced = stage.traced
    # A decoder layer's second input, where its tokens stand, is the back end's own to know.
    values: dict[fx.Node, Any] = {node: None if place else stream for place, node in enumerate(traced.inputs)}
    order = {node: place for place, node in enumerate(traced.graph.nodes)}
    for node in traced.calls:
        arguments = [values[argument] for argument in node.args if isinstance(argument, fx.Node)]
        if traced.is_taken_in(node):
            values[node] = arguments[0]
            continue
        live = tuple(
            known
            for known, value in values.items()
            if value is not None and any(order[user] > order[node] for user in known.users)
        )
        operator = traced.operator(node)
        kind = node.target if operator is None else type(operator)
        if kind not in table:
            raise ExportError(f"{stage.name}: this back end does not lower {getattr(kind, '__name__', kind)}")
        call = Call(stage, node, operator, traced.factor(node), values, live)
        values[node] = table[kind](at, call, *arguments)
    return values[traced.result]
