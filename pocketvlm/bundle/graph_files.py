"""Which files an ONNX graph takes weights from, and which operators it has: read from its protobuf, without an engine.

ONNX Runtime maps whatever file a graph names below its own directory, and below the working directory for a graph that
comes from memory. A bundle's graphs may name the files that the manifest lists for them, and none else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

EXTERNAL_DATA: Final = "StringStringEntry"
#: Messages of onnx.proto below which tensors lie: field number -> message. Other fields are skipped.
FIELDS: Final[dict[str, dict[int, str]]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: EXTERNAL_DATA},
}
KEY, VALUE = 1, 2
LOCATION = b"location"
#: Of a node, and the messages below which there can be one.
OPERATOR, DOMAIN = 4, 7
WITH_NODES: Final = frozenset({"Graph", "TrainingInfo", "Function", "Node", "Attribute"})
#: What marks ONNX Runtime's own format, which is no protobuf, behind the first four bytes.
ORT_MAGIC = b"ORTM"
#: Protobuf's own limit.
MAX_DEPTH = 100
#: Wire types; those of a fixed size with it, bytes.
VARINT, BYTES, FIXED = 0, 2, {1: 8, 5: 4}


def external_files(graph: bytes) -> set[str]:
    """The files that a graph names, as it spells them.

    :raises ValueError: it cannot be told, since the graph is damaged or no ONNX
    """
    if graph[4:8] == ORT_MAGIC:
        raise ValueError("it is in ONNX Runtime's own format")
    found: set[str] = set()
    if LOCATION not in graph:
        return found
    remaining = [("Model", 0, len(graph), 0)]
    while remaining:
        message, start, end, depth = remaining.pop()
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        inner = FIELDS[message]
        for number, first, last in _messages(graph, start, end):
            # What does not name a file is not looked into: nearly all of a graph.
            if number not in inner or graph.find(LOCATION, first, last) < 0:
                continue
            if inner[number] == EXTERNAL_DATA:
                found |= _location(graph, first, last)
            else:
                remaining.append((inner[number], first, last, depth + 1))
    return found


def operators(graph: bytes) -> dict[str, int]:
    """How many nodes of each operator a graph has, those inside of branches and loops included; sorted by name.

    An operator outside of ONNX's own set is named with its domain.

    :raises ValueError: it cannot be told, since the graph is damaged or no ONNX
    """
    if graph[4:8] == ORT_MAGIC:
        raise ValueError("it is in ONNX Runtime's own format")
    found: dict[str, int] = {}
    remaining = [("Model", 0, len(graph), 0)]
    while remaining:
        message, start, end, depth = remaining.pop()
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        fields = list(_messages(graph, start, end))
        if message == "Node":
            texts = {number: graph[first:last].decode("utf-8", "replace") for number, first, last in fields
                     if number in (OPERATOR, DOMAIN)}  # fmt: skip
            name = "::".join(text for number in (DOMAIN, OPERATOR) if (text := texts.get(number, "")))
            found[name] = found.get(name, 0) + 1
        inner = FIELDS[message]
        remaining += [
            (inner[number], first, last, depth + 1)
            for number, first, last in fields
            if number in inner and inner[number] in WITH_NODES
        ]
    return dict(sorted(found.items()))


def _location(graph: bytes, start: int, end: int) -> set[str]:
    """The file that an entry of a tensor's external data names; none if it says something else."""
    # Of a field that is there twice the last one counts.
    texts = {number: graph[first:last] for number, first, last in _messages(graph, start, end)}
    return {texts.get(VALUE, b"").decode("utf-8", "replace")} if texts.get(KEY) == LOCATION else set()


def _messages(graph: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each field of bytes (text, messages) of a message, in order."""
    at = start
    while at < end:
        tag, at = _varint(graph, at, end)
        number, wire = tag >> 3, tag & 7
        if not number or tag >> 32:
            raise ValueError(f"it is damaged at byte {at}")
        if wire == BYTES:
            size, at = _varint(graph, at, end)
            if size <= end - at:
                yield number, at, at + size
        elif wire == VARINT:
            _, at = _varint(graph, at, end)
            continue
        elif wire in FIXED:
            size = FIXED[wire]
        else:
            raise ValueError(f"it is damaged at byte {at}")
        if size > end - at:
            raise ValueError(f"it is damaged at byte {at}")
        at += size


def _varint(graph: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of up to ten bytes, and where the next field begins."""
    if at < end and graph[at] < 0x80:  # nearly all of them
        return graph[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = graph[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"it is damaged at byte {at}")
