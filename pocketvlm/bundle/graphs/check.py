"""A graph is one that exports could have written: values are followed through nodes, and nothing is computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pocketvlm.bundle.graphs.declared import check_declared, input_value, tensor_value
from pocketvlm.bundle.graphs.forms import match_inputs, read_attributes, type_of
from pocketvlm.bundle.graphs.shapes import RULES, BoundNode, Dims, TypedValue, elements, most_of, refuse, resolved
from pocketvlm.bundle.graphs.table import Form, table
from pocketvlm.bundle.graphs.wire import LIMITS, GraphError, Message, read_model

BRANCHES: Final = ("then_branch", "else_branch")


def check_graph(graph: bytes, sizes: Mapping[str, int], data: Mapping[str, int]) -> None:
    """Hold a graph to the grammar.

    :param sizes: what an input's dimension that varies is at most, by its name
    :param data: the files that the graph may take weights from, as it is to spell them, and their sizes in bytes
    :raises GraphError: it is another; the message says where and why, in printable characters
    """
    model = read_model(graph)
    known = table()
    opsets = {one.get("domain", ""): one.get("version") for one in model["opsets"]}
    refuse(model.get("ir_version") not in known.ir_versions or "graph" not in model, "it is of another version of ONNX")
    refuse(len(opsets) != len(model["opsets"]), "it is of another version of ONNX")
    refuse(opsets.keys() != known.opsets.keys() or any(opsets[name] not in known.opsets[name] for name in opsets),
           "it is of another version of ONNX")  # fmt: skip
    _Checker(sizes, data).run(model["graph"])


def operators(graph: bytes) -> dict[str, int]:
    """How many nodes of each operator a graph has, those in branches included; sorted by name.

    An operator outside of ONNX's own set is named with its domain.

    :raises GraphError: it is damaged, or no graph that exports write
    """
    found: dict[str, int] = {}
    for node in _nodes(read_model(graph).get("graph", {"nodes": []})):
        name = "::".join(filter(None, (node.get("domain", ""), node.get("operator", ""))))
        found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items()))


def _nodes(graph: Message) -> Iterator[Message]:
    for node in graph["nodes"]:
        yield node
        for attribute in node["attributes"]:
            if "g" in attribute:
                yield from _nodes(attribute["g"])


@dataclass
class _Checker:
    sizes: Mapping[str, int]
    data: Mapping[str, int]
    values: dict[str, TypedValue] = field(default_factory=dict)
    stored: int = 0
    folded: int = 0
    live: int = 0
    work: int = 0
    most_work: int = 0

    def run(self, graph: Message) -> None:
        refuse(sum(1 for _ in _nodes(graph)) > LIMITS["nodes"], f"it has more than {LIMITS['nodes']} nodes")
        self._weights_and_inputs(graph)
        dying = self._last_uses(graph)
        for at, node in enumerate(graph["nodes"]):
            try:
                self._node(node, inside=False)
            except GraphError as error:
                name = node.get("operator", "")[:40] or "no operator"
                raise GraphError(f"node {at}, {name}: {error}") from error
            for name in dying.get(at, ()):
                self.live -= _bits(self.values[name])
        most_folded = LIMITS["folded_by_stored"] * self.stored + LIMITS["folded_bits"]
        refuse(self.folded > most_folded, "it computes too much from its weights")
        refuse(not graph["outputs"], "it has no outputs")
        for described in (*graph["outputs"], *graph["values"]):
            check_declared(described, self.values, self.sizes)

    def _weights_and_inputs(self, graph: Message) -> None:
        room, tensors, rows = dict(self.data), dict[str, TypedValue](), 1
        for tensor in graph["initializers"]:
            name = tensor.get("name", "")
            refuse(name in tensors, "it has two tensors of one name")
            tensors[name] = tensor_value(tensor, self.data, room)
        self.stored = sum(map(_bits, tensors.values()))
        numbers = sum(elements(value.dims) for value in tensors.values())
        for described in graph["inputs"]:
            value, name = input_value(described, self.sizes), described["name"]
            default = tensors.pop(name, value)
            refuse((default.dtype, default.dims) != (value.dtype, value.dims), "an input differs from its own default")
            self._define(name, value)
            rows = max(rows, elements(value.dims[:-1]))
        for name, value in tensors.items():
            self._define(name, value)
        self.most_work = LIMITS["work"] + LIMITS["work_by_weight"] * rows * numbers

    def _last_uses(self, graph: Message) -> dict[int, list[str]]:
        """Place of a node -> values that nobody reads behind it. Inputs and weights live on; so do outputs."""
        kept = set(self.values) | {described.get("name", "") for described in graph["outputs"]}
        last: dict[str, int] = {}
        for at, node in enumerate(graph["nodes"]):
            inner = (name for one in _nodes({"nodes": [node]}) for name in (*one["inputs"], *one["outputs"]))
            last |= dict.fromkeys(inner, at)
        dying: dict[int, list[str]] = {}
        for name, at in last.items():
            if name and name not in kept:
                dying.setdefault(at, []).append(name)
        return dying

    # --- Nodes --------------------------------------------------------------------------------------------------------

    def _node(self, node: Message, *, inside: bool) -> None:
        domain, forms = table().operators.get(node.get("operator", ""), ("", ()))
        refuse(not forms or node.get("domain", "") != domain, "no export writes this operator")
        inputs = [self._read(name) for name in node["inputs"]]
        why: GraphError | None = None
        for form in forms:
            try:
                outputs = self._in_form(node, form, inputs, inside=inside)
            except GraphError as error:
                why = why or error
            else:
                break
        else:
            assert why is not None
            raise why
        for name, value in zip(node["outputs"], outputs, strict=True):
            refuse(not name, "it gives other outputs")
            self._define(name, value)
            self.folded += _bits(value) if value.constant else 0

    def _in_form(
        self, node: Message, form: Form, inputs: Sequence[TypedValue | None], *, inside: bool
    ) -> list[TypedValue]:
        """What a node gives, if it is written in this form."""
        bound = BoundNode(read_attributes(node, form), inputs)
        generic = match_inputs(form, bound)
        refuse(len(node["outputs"]) != len(form.outputs), "it gives other outputs")
        branches = [bound.attributes[name] for name in BRANCHES if name in bound.attributes]
        if branches:
            dims: list[Dims] | None
            dims, generic = self._branches(branches, form, inside=inside)
        else:
            dims = RULES[form.rule](bound) if form.rule else None
        present = [value for value in inputs if value is not None]
        constant = bool(present) and not branches and all(value.constant for value in present)
        most, outputs = most_of(node["operator"], bound), []
        for at, pattern in enumerate(form.outputs):
            if pattern.dims is None:
                assert dims is not None
                shape = dims[at]
            else:
                shape = resolved(pattern.dims, bound)
            outputs.append(TypedValue(type_of(pattern, generic, bound), shape, constant, most=most))
        for value in (*outputs, *(TypedValue("float32", held) for held in (dims or ())[len(outputs) :])):
            _bounded(value)
        each = max(LIMITS["work_by_number"], math.prod(bound.size(name) for name in form.times))
        self.work += elements(outputs[0].dims) * each
        refuse(self.work > self.most_work, "it computes too much")
        return outputs

    def _branches(self, branches: Sequence[Message], form: Form, *, inside: bool) -> tuple[list[Dims], str]:
        """Both give the same, of one type T: of dimensions that differ, the larger at most."""
        refuse(inside, "it has branches in branches")
        given, generic = [], ""
        for branch in branches:
            refuse(len(branch["outputs"]) != len(form.outputs), "a branch gives other outputs")
            outer = dict(self.values)
            for node in branch["nodes"]:
                self._node(node, inside=True)
            for described in branch["outputs"]:
                refuse(described.get("name", "") in outer, "a branch gives other outputs")
                check_declared(described, self.values, self.sizes)
            values = [self.values[described["name"]] for described in branch["outputs"]]
            for pattern, value in zip(form.outputs, values, strict=True):
                if pattern.dtype == "T":
                    generic = generic or value.dtype
                wanted = generic if pattern.dtype == "T" else pattern.dtype
                refuse(value.dtype != wanted, "a branch gives other outputs")
            given.append([value.dims for value in values])
        refuse(bool(generic) and generic not in form.types, "a branch gives other outputs")
        return [_joint(*pair) for pair in zip(*given, strict=True)], generic

    # --- Values -------------------------------------------------------------------------------------------------------

    def _read(self, name: str) -> TypedValue | None:
        if not name:
            return None
        refuse(name not in self.values, "it reads what is not there yet")
        return self.values[name]

    def _define(self, name: str, value: TypedValue) -> None:
        refuse(not name or name in self.values, "it has two values of one name")
        _bounded(value)
        self.values[name] = value
        self.live += _bits(value)
        refuse(self.live - self.stored > LIMITS["live_bits"], "it holds too much at once")


def _joint(one: Dims, other: Dims) -> Dims:
    refuse(len(one) != len(other), "its branches differ")
    return tuple(a if a == b else -max(abs(a), abs(b)) for a, b in zip(one, other, strict=True))


def _bounded(value: TypedValue) -> None:
    bad = len(value.dims) > LIMITS["rank"] or max(map(abs, value.dims), default=0) > LIMITS["size"]
    refuse(bad or _bits(value) > LIMITS["value_bits"], "it asks for too much memory")


def _bits(value: TypedValue) -> int:
    return table().types[value.dtype][1] * elements(value.dims)
