"""Files of questions: regular ones only, read line by line, never more of them in memory than a line may have."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pocketvlm.errors import DataError
from pocketvlm.files import BOM, label, readable

BLOCK = 1 << 20


@dataclass(frozen=True)
class Place:
    """Where a line begins: its number, from 1, and its offset in bytes."""

    number: int = 1
    offset: int = 0


START = Place()


@dataclass(frozen=True)
class Contents:
    """What tells a file from others, and how many lines it has at most."""

    sha256: str
    lines: int


def contents(path: Path) -> Contents:
    """Read a file once.

    :raises DataError: it is missing, empty, no regular file, or cannot be read
    """
    digest, newlines, size = hashlib.sha256(), 0, 0
    with readable(path, DataError), path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            newlines += block.count(b"\n")
            size += len(block)
    if size == 0:
        raise DataError(f"{label(path)}: empty (0 bytes)")
    return Contents(digest.hexdigest(), newlines + 1)


def lines(path: Path, most: int, start: Place = START) -> Iterator[tuple[Place, str]]:
    """Lines with their ends, from a place on.

    :raises DataError: one has more than ``most`` bytes or is not UTF-8, or the file cannot be read
    """
    number, offset = start.number, start.offset
    with readable(path, DataError), path.open("rb") as stream:
        stream.seek(offset)
        while raw := stream.readline(most + 1):
            if len(raw) > most:
                raise DataError(f"{label(path, number)}: longer than the {most} bytes that are read")
            try:
                text = raw.removeprefix(BOM if offset == 0 else b"").decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{label(path, number)}: not UTF-8 ({error.reason})") from error
            yield Place(number, offset), text
            number, offset = number + 1, offset + len(raw)
