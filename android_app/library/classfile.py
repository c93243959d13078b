"""What a class file names: its own members, and those of others. From Java's specification, chapter 4."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pocketvlm.errors import PocketVlmError

UTF8, CLASS, FIELD, METHOD, INTERFACE_METHOD, NAME_AND_TYPE = 1, 7, 9, 10, 11, 12
#: tag of a constant -> bytes behind it; a long and a double take two places in the pool
SIZES = {3: 4, 4: 4, 5: 8, 6: 8, 7: 2, 8: 2, 9: 4, 10: 4, 11: 4, 12: 4, 15: 3, 16: 2, 17: 4, 18: 4, 19: 2, 20: 2}
DOUBLE = (5, 6)


@dataclass(frozen=True, order=True)
class Reference:
    """A class (no ``name``), field or method; ``owner`` as in "java/nio/LongBuffer"."""

    owner: str
    name: str = ""
    descriptor: str = ""

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}{self.descriptor}" if self.name else self.owner


@dataclass(frozen=True)
class ClassFile:
    """``supers``: the class that it extends, then interfaces. ``members`` are declared, ``references`` used."""

    name: str
    supers: tuple[str, ...]
    members: frozenset[tuple[str, str]]
    references: frozenset[Reference]


def read(content: bytes) -> ClassFile:
    """A class file.

    Raises:
        PocketVlmError: it is none.
    """
    try:
        return _read(content)
    except (struct.error, IndexError, KeyError) as error:
        raise PocketVlmError(f"no class file: {error}") from None


def _read(content: bytes) -> ClassFile:
    if content[:4] != b"\xca\xfe\xba\xbe":
        raise PocketVlmError("no class file: it begins otherwise")
    texts, pairs, at = _pool(content)

    def named(index: int) -> str:
        return texts[pairs[index][1][0]]

    def reference(owner: int, member: int) -> Reference:
        name, descriptor = pairs[member][1]
        return Reference(named(owner), texts[name], texts[descriptor])

    found = {reference(*of) for tag, of in pairs.values() if tag in (FIELD, METHOD, INTERFACE_METHOD)}
    found |= {Reference(texts[of[0]]) for tag, of in pairs.values() if tag == CLASS}
    _, this, parent, count = struct.unpack_from(">4H", content, at)
    interfaces = struct.unpack_from(f">{count}H", content, at + 8)
    members, at = set(), at + 8 + 2 * count
    for _ in range(2):  # fields, methods
        (count,) = struct.unpack_from(">H", content, at)
        at += 2
        for _ in range(count):
            _, name, descriptor, attributes = struct.unpack_from(">4H", content, at)
            members.add((texts[name], texts[descriptor]))
            at += 8
            for _ in range(attributes):
                at += 6 + struct.unpack_from(">HI", content, at)[1]
    supers = tuple(named(index) for index in (parent, *interfaces) if index)
    return ClassFile(named(this), supers, frozenset(members), frozenset(found))


def _pool(content: bytes) -> tuple[dict[int, str], dict[int, tuple[int, tuple[int, ...]]], int]:
    """Texts, then tags with the indices behind them, both by their place in the pool; and where that ends."""
    (count,) = struct.unpack_from(">H", content, 8)
    texts: dict[int, str] = {}
    pairs: dict[int, tuple[int, tuple[int, ...]]] = {}
    index, at = 1, 10
    while index < count:
        tag = content[at]
        if tag == UTF8:
            (length,) = struct.unpack_from(">H", content, at + 1)
            # Java's own UTF-8 writes NUL in two bytes: such a text is no name.
            texts[index] = content[at + 3 : at + 3 + length].decode("utf-8", "replace")
            at += 3 + length
        else:
            if tag == CLASS:
                pairs[index] = tag, struct.unpack_from(">H", content, at + 1)
            elif tag in (FIELD, METHOD, INTERFACE_METHOD, NAME_AND_TYPE):
                pairs[index] = tag, struct.unpack_from(">2H", content, at + 1)
            at += 1 + SIZES[tag]
        index += 2 if tag in DOUBLE else 1
    return texts, pairs, at
