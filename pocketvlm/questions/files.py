"""Files of questions: regular ones only, read line by line, never more of them in memory than a line may have."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pocketvlm.errors import DataError, one_line

BOM = b"\xef\xbb\xbf"
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

    Raises:
        DataError: it is missing, empty, no regular file, or cannot be read.
    """
    digest, newlines, size = hashlib.sha256(), 0, 0
    with _readable(path):
        # Before opening: a pipe would block, a device might never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{label(path)}: is not a regular file")
        with path.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
                newlines += block.count(b"\n")
                size += len(block)
    if size == 0:
        raise DataError(f"{label(path)}: empty (0 bytes)")
    return Contents(digest.hexdigest(), newlines + 1)


def lines(path: Path, most: int, start: Place = START) -> Iterator[tuple[Place, str]]:
    """Lines with their ends, from a place on.

    Raises:
        DataError: one has more than ``most`` bytes or is not UTF-8, or the file cannot be read.
    """
    number, offset = start.number, start.offset
    with _readable(path), path.open("rb") as stream:
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


def read_text(path: Path, most: int) -> str:
    """All of a text.

    Raises:
        DataError: it is missing, no regular file, larger than ``most`` bytes, not UTF-8, or cannot be read.
    """
    with _readable(path):
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{label(path)}: is not a regular file")
        if found.st_size > most:
            raise DataError(f"{label(path)}: larger than the {most} bytes that are read; cut it")
        content = path.read_bytes()
    try:
        return content.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{label(path)}: cannot be read as UTF-8 ({one_line(error, 80)})") from error


def label(path: Path, number: int | None = None) -> str:
    """A file, and a line of it, for an error's line."""
    name = one_line(path, 120)
    return name if number is None else f"{name}, line {number}"


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{label(path)}: cannot be read ({one_line(reason, 80)})") from error
