"""Flatbuffers read without their library, every offset inside the bytes: tables as dictionaries of what they have.

A table's fields are in the order of its schema; what is not there has its default, which is 0 for numbers, None for
tables and texts, and empty for vectors.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

Table = dict[str, Any]
#: Table -> its fields: a name, and a kind of ``NUMBERS``, "text", "bytes", a table, "[kind]", "<union>", or "{number}":
#: a vector of them as its bytes, which nobody looks into here.
Schema = Mapping[str, Sequence[tuple[str, str]]]
#: Union -> its members by their numbers; one that has a member 0 may be missing.
Unions = Mapping[str, Mapping[int, str]]
NUMBERS: Final = {
    "bool": "<B", "i8": "<b", "u8": "<B", "i16": "<h", "u16": "<H", "i32": "<i", "u32": "<I", "i64": "<q", "u64": "<Q",
    "f32": "<f", "f64": "<d",
}  # fmt: skip
#: Tables, numbers and texts of one buffer: one table may stand at many places, and would be read at each.
MOST_READ: Final = 1 << 20
MOST_TEXT: Final = 512


class ProgramError(ValueError):
    """A program is not one that a bundle may have; the message says why, in few printable characters."""


class FlatBuffer:
    """A buffer and the schema of what is in it; ``seen`` is told of each number: position, format and name."""

    def __init__(
        self,
        content: memoryview,
        schema: Schema,
        unions: Unions,
        seen: Callable[[int, str, str], object] = lambda position, form, name: None,
    ) -> None:
        self._content, self._schema, self._unions, self._seen = content, schema, unions, seen
        self._read = 0

    def root(self, table: str) -> Table:
        """The table that the buffer is.

        :raises ProgramError: it is damaged
        """
        return self._table(self._follow(0), table)

    def _number(self, at: int, form: str, name: str = "") -> Any:
        self._read += 1
        if self._read > MOST_READ:
            raise ProgramError(f"it has more than {MOST_READ} numbers")
        if not 0 <= at <= len(self._content) - struct.calcsize(form):
            raise ProgramError("an offset leads outside of it")
        if name:
            self._seen(at, form, name)
        (value,) = struct.unpack_from(form, self._content, at)
        return value

    def _follow(self, at: int) -> int:
        step: int = self._number(at, "<I")
        return at + step

    def _table(self, at: int, kind: str) -> Table:
        vtable = at - self._number(at, "<i")
        slots = (self._number(vtable, "<H") - 4) // 2
        result: Table = {}
        place = 0
        for name, field in self._schema[kind]:
            offset = self._number(vtable + 4 + 2 * place, "<H") if place < slots else 0
            where = at + offset if offset else None
            place += 1
            if field[0] == "<":
                inner = self._number(vtable + 4 + 2 * place, "<H") if place < slots else 0
                place += 1
                result[name] = self._union(where, at + inner if inner else None, field[1:-1])
            else:
                result[name] = self._field(where, field, f"{kind}.{name}")
        return result

    def _union(self, tag: int | None, at: int | None, union: str) -> tuple[str, Table]:
        number = 0 if tag is None else self._number(tag, "<B", union)
        kind = self._unions[union].get(number)
        if number == 0 and kind is not None:
            return kind, {}
        if kind is None or at is None:
            raise ProgramError(f"it has a {union} that no export writes")
        return kind, self._table(self._follow(at), kind)

    def _field(self, at: int | None, kind: str, name: str) -> Any:
        if at is None:
            return 0 if kind in NUMBERS else [] if kind[0] == "[" else memoryview(b"") if kind[0] in "b{" else None
        if kind in NUMBERS:
            return self._number(at, NUMBERS[kind], name)
        if kind[0] not in "[{" and kind not in ("text", "bytes"):
            return self._table(self._follow(at), kind)
        return self._vector(self._follow(at), kind, name)

    def _vector(self, start: int, kind: str, name: str) -> Any:
        count, start = self._number(start, "<I"), start + 4
        inner = kind[1:-1]
        width = struct.calcsize(NUMBERS[inner]) if inner in NUMBERS else 4
        if kind[0] != "[":
            length = count * width if kind[0] == "{" else count
            if length > len(self._content) - start or (kind == "text" and count > MOST_TEXT):
                raise ProgramError("a vector is longer than it")
            return self._bytes(start, length, kind)
        if inner in NUMBERS:
            return [self._number(start + width * at, NUMBERS[inner], name) for at in range(count)]
        return [self._field(start + width * at, inner, name) for at in range(count)]

    def _bytes(self, start: int, count: int, kind: str) -> Any:
        piece = self._content[start : start + count]
        if kind != "text":
            return piece
        text = bytes(piece)
        if not all(32 <= byte < 127 for byte in text):
            raise ProgramError("it has a name that is none")
        return text.decode("ascii")
