"""Damage to bytes: each edit takes bytes and random numbers, and gives other bytes."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

#: What is written over numbers: the ends of the types that a decoder may hold them in, and a bomb's sizes.
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 100_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
#: Where most formats keep what matters, bytes from the start.
HEADER = 96

Edit = Callable[[bytes, random.Random], bytes]


def position(size: int, random_: random.Random) -> int:
    """An offset into ``size`` bytes; half of them in the header."""
    return random_.randrange(min(size, HEADER) if random_.random() < 0.5 else size) if size else 0


def flip(data: bytes, random_: random.Random) -> bytes:
    """One to eight bits."""
    changed = bytearray(data)
    for _ in range(random_.choice((1, 1, 2, 8)) if changed else 0):
        changed[position(len(changed), random_)] ^= 1 << random_.randrange(8)
    return bytes(changed)


def scatter(data: bytes, random_: random.Random) -> bytes:
    """Random bytes over one to thirty of them."""
    changed = bytearray(data)
    for _ in range(random_.randint(1, 30) if changed else 0):
        changed[position(len(changed), random_)] = random_.randrange(256)
    return bytes(changed)


def cut(data: bytes, random_: random.Random) -> bytes:
    """The end is missing."""
    return data[: random_.choice((position(len(data), random_), max(len(data) - random_.randint(1, 20), 0)))]


def insert(data: bytes, random_: random.Random) -> bytes:
    """A few bytes more: random ones, zeros or the file's own."""
    at, count = position(len(data), random_), random_.choice((1, 2, 4, 100))
    own = data[(start := position(len(data), random_)) : start + count]
    return data[:at] + random_.choice((random_.randbytes(count), bytes(count), own)) + data[at:]


def remove(data: bytes, random_: random.Random) -> bytes:
    """A few bytes fewer, in the middle."""
    at = position(len(data), random_)
    return data[:at] + data[at + random_.choice((1, 2, 4, 100)) :]


def exchange(data: bytes, random_: random.Random) -> bytes:
    """Two runs of bytes change places."""
    first, second = sorted((position(len(data), random_), position(len(data), random_)))
    size = min(random_.choice((4, 16, 256)), second - first)
    one, other = data[first : first + size], data[second : second + size]
    return data[:first] + other + data[first + size : second] + one + data[second + len(other) :]


def extreme(data: bytes, random_: random.Random) -> bytes:
    """A number becomes an extreme one."""
    width, order = random_.choice((1, 2, 4, 8)), random_.choice("<>")
    value = random_.choice(EXTREMES) & ((1 << 8 * width) - 1)
    number = struct.pack(order + {1: "B", 2: "H", 4: "I", 8: "Q"}[width], value)
    at = position(len(data), random_)
    return data[:at] + number + data[at + width :]


def blank(data: bytes, random_: random.Random) -> bytes:
    """A run of zeros or ones over the bytes."""
    at, size = position(len(data), random_), random_.choice((4, 64, 1000))
    size = min(size, len(data) - at)
    return data[:at] + random_.choice((b"\0", b"\xff")) * size + data[at + size :]


EDITS: tuple[Edit, ...] = (flip, scatter, cut, insert, remove, exchange, extreme, blank)


def edited(data: bytes, random_: random.Random) -> tuple[bytes, str]:
    """One to three edits, and their names."""
    names = []
    for _ in range(random_.choice((1, 1, 2, 3))):
        edit = random_.choice(EDITS)
        data = edit(data, random_)
        names.append(edit.__name__)
    return data, " + ".join(names)
