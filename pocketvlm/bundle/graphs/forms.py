"""A node held to one of its operator's forms: its attributes, and the types and shapes of what it takes."""

from __future__ import annotations

from typing import Any, Final

from pocketvlm.bundle.graphs.shapes import BoundNode, matched, refuse
from pocketvlm.bundle.graphs.table import Form, TensorPattern, Wanted, table
from pocketvlm.bundle.graphs.wire import LIMITS, GraphError, Message

#: Of AttributeProto.type, by the table's kinds: the number, and the field that goes with it.
KINDS: Final = {
    "positive": (1, "f"), "int": (2, "i"), "size": (2, "i"), "string": (3, "s"), "branch": (5, "g"),
    "sizes": (7, "ints"),
}  # fmt: skip


def read_attributes(node: Message, form: Form) -> dict[str, Any]:
    """:raises GraphError: one is missing, unknown, there twice or out of the question"""
    found: dict[str, Any] = {}
    for attribute in node["attributes"]:
        name = attribute.get("name", "")
        if name in found or name not in form.attributes:
            raise GraphError("it has another attribute")
        found[name] = _value(attribute, form.attributes[name])
    refuse(any(one.needed and name not in found for name, one in form.attributes.items()), "it lacks an attribute")
    return found


def _value(attribute: Message, wanted: Wanted) -> Any:
    """The value, if it is of the kind that the table names, and nothing else stands there."""
    number, key = KINDS[wanted.kind]
    value: Any = attribute.get(key)
    there = {name for name, content in attribute.items() if content != [] or name == key}
    refuse(attribute.get("type") != number or there != {"name", "type", key}, "it has another attribute")
    if wanted.values:
        wrong = value not in wanted.values
    elif wanted.kind == "positive":
        wrong = not 0 < value <= 1e6
    elif wanted.kind == "size":
        wrong = not 0 < value <= LIMITS["size"]
    elif wanted.kind == "sizes":
        wrong = not 0 < len(value) <= LIMITS["rank"] or not all(0 <= size <= LIMITS["size"] for size in value)
    else:
        wrong = False
    refuse(wrong, f"its {attribute['name']} is out of the question")
    return value


def match_inputs(form: Form, bound: BoundNode) -> str:
    """Hold the inputs to their patterns; gives the type T.

    :raises GraphError: one is missing, too many, or of another type or shape
    """
    inputs, generic = list(bound.inputs), ""
    bound.sizes |= {name: bound.attributes[name] for name, one in form.attributes.items() if one.kind == "size"}
    refuse(len(inputs) > len(form.inputs), "it takes other inputs")
    inputs += [None] * (len(form.inputs) - len(inputs))
    for pattern, value in zip(form.inputs, inputs, strict=True):
        if pattern is None or value is None:
            refuse(value is not None or (pattern is not None and not pattern.optional), "it takes other inputs")
            continue
        if pattern.dtype == "T":
            generic = generic or value.dtype
            refuse(value.dtype != generic or generic not in form.types, "an input has another type")
        else:
            refuse(value.dtype != pattern.dtype, "an input has another type")
        refuse(pattern.single and value.dims not in ((), (1,)), "an input has other dimensions")
        if pattern.dims is not None:
            matched(pattern.dims, value, bound)
    return generic


def type_of(pattern: TensorPattern, generic: str, bound: BoundNode) -> str:
    """Of an output."""
    if pattern.dtype.startswith("@"):
        return table().numbers[bound.attributes[pattern.dtype[1:]]]
    return generic if pattern.dtype == "T" else pattern.dtype
