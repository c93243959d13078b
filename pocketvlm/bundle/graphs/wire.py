"""A graph's protobuf, read strictly: fields of onnx.proto that exports write, once where onnx.proto says once.

Protobuf's readers skip what they do not know and join what is there twice; readers that differ in that see two graphs.
Here both are refused. Nothing is copied but names: contents of tensors stay where they are.
"""

from __future__ import annotations

import functools
import json
import re
import struct
from pathlib import Path
from typing import Any, Final

TABLE: Final = Path(__file__).with_name("grammar.json")
#: Wire types.
WIRE: Final = {"int": 0, "float": 5}
Message = dict[str, Any]
PRINTABLE: Final = re.compile(rb"[!-~]*")
#: A branch has no branches.
MOST_DEPTH: Final = 1


class GraphError(ValueError):
    """A graph is not one that a bundle may have; the message says why, in few printable characters."""


def _grammar() -> Message:
    raw: Message = json.loads(TABLE.read_text(encoding="utf-8"))
    return raw


#: ``grammar.json``, as it is. Of its ``limits``: a model of 80 layers has some 150,000 fields and 12,000 nodes. A
#: value may take 2 GiB, all that are alive 4 GiB beside the weights, and what is computed of weights alone, at load,
#: 16 MiB and eight times these (4 bits become 16 on their way to an NPU's products). A run may take 2 ** 33
#: multiplications and four for each weight and row of an input; a number of another operator counts as 16.
GRAMMAR: Final = _grammar()
LIMITS: Final = GRAMMAR["limits"]


@functools.cache
def _messages() -> dict[str, tuple[dict[int, tuple[str, str, bool]], list[str]]]:
    """Message -> field number -> its name, its kind, whether it may be there often; the names of those that may."""
    result = {}
    for message, fields in GRAMMAR["messages"].items():
        known = {int(number): (name, kind.lstrip("*"), kind[0] == "*") for number, (name, kind) in fields.items()}
        result[message] = known, [name for name, _, repeated in known.values() if repeated]
    return result


def read_model(graph: bytes) -> Message:
    """The graph as nested messages, by the names above; what may stand there often is a list, be it empty.

    :raises GraphError: it is damaged, or has what no export writes
    """
    return _Reader(graph).message("Model", 0, len(graph), 0)


class _Reader:
    def __init__(self, graph: bytes) -> None:
        self._graph, self._fields, self._known = graph, 0, _messages()

    def message(self, kind: str, at: int, end: int, depth: int) -> Message:
        (known, lists), graph = self._known[kind], self._graph
        result: Message = {name: [] for name in lists}
        while at < end:
            tag, at = self._varint(at, end)
            name, inner, repeated = known.get(tag >> 3, ("", "", False))
            if not name:
                raise GraphError(f"field {tag >> 3} of its {kind} is none that exports write")
            if tag & 7 != WIRE.get(inner, 2) or (not repeated and name in result):
                raise GraphError(f"{name} of its {kind} is damaged or there twice")
            self._fields += 1
            if self._fields > LIMITS["fields"]:
                raise GraphError(f"it has more than {LIMITS['fields']} fields")
            value: Any
            if inner == "int":
                value, at = self._varint(at, end)
                value -= (value >> 63) << 64
            elif inner == "float":
                if end - at < 4:
                    raise GraphError(f"it is damaged at byte {at}")
                (value,), at = struct.unpack_from("<f", graph, at), at + 4
            else:
                size, at = self._varint(at, end)
                if size > end - at:
                    raise GraphError(f"it is damaged at byte {at}")
                value, at = self._piece(inner, at, at + size, depth), at + size
            if repeated:
                result[name].append(value)
            else:
                result[name] = value
        return result

    def _piece(self, kind: str, start: int, end: int, depth: int) -> Any:
        if kind == "text":
            return self._text(start, end)
        if kind == "bytes":
            return memoryview(self._graph)[start:end]
        depth += kind == "Branch"
        if depth > MOST_DEPTH:
            raise GraphError("it has branches in branches")
        return self.message(kind, start, end, depth)

    def _text(self, start: int, end: int) -> str:
        """Names: printable ASCII without spaces, which engines, files and terminals all take."""
        text = self._graph[start:end]
        if len(text) > LIMITS["name"] or not PRINTABLE.fullmatch(text):
            raise GraphError("it has a name that is none")
        return text.decode("ascii")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """A number below 2 ** 64 of up to ten bytes, and where it ends."""
        if at < end and self._graph[at] < 0x80:  # nearly all of them
            return self._graph[at], at + 1
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                break
            byte = self._graph[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    break
                return value, at
        raise GraphError(f"it is damaged at byte {at}")
