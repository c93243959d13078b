"""Results of an evaluation as a file of JSON: written whole or not at all, and read with suspicion."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvlm.errors import ResultsError, one_line
from pocketvlm.questions.files import label

#: largest file that is read, bytes
MAX_RESULTS = 256 << 20


@dataclass(frozen=True)
class Results:
    """What a comparison needs of an evaluation's JSON."""

    name: str
    """for errors"""
    bundle: dict[str, Any]
    data: dict[str, str]
    questions: tuple[str, ...]
    wanted: tuple[str, ...]
    exact: tuple[bool, ...]


def is_results(path: Path) -> bool:
    """Whether it is a file of JSON rather than a bundle."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return stream.read(64).lstrip().startswith(b"{")
    except OSError:
        return False


def read_results(path: Path) -> Results:
    """What ``pocketvlm eval --save`` or ``--json`` wrote.

    :raises ResultsError: it cannot be read, or is something else
    """
    name = label(path)
    try:
        content = json.loads(read_bounded(path, MAX_RESULTS))
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{name}: not JSON ({one_line(error, 80)})") from error
    return results(content, name)


def read_bounded(path: Path, most: int) -> bytes:
    """A file of at most ``most`` bytes.

    :raises ResultsError: it cannot be read, or is larger
    """
    name = label(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(most + 1)
    except OSError as error:
        raise ResultsError(f"{name}: cannot be read ({one_line(error.strerror or error, 80)})") from error
    if len(content) > most:
        raise ResultsError(f"{name}: more than the {most} bytes that are read")
    return content


def results(content: Any, name: str) -> Results:
    """An evaluation's report as ``Results``.

    :raises ResultsError: it is no such report
    """
    try:
        bundle, data, answers = content["bundle"], content["data"], content["answers"]
        rows = [(row["question"], row["wanted"], row["exact"]) for row in answers]
        texts = all(isinstance(value, str) for row in rows for value in row[:2])
        flags = all(isinstance(row[2], bool) for row in rows)
        valid = texts and flags and isinstance(bundle, dict) and isinstance(data, dict) and len(rows) > 0
    except (KeyError, TypeError, IndexError):
        valid = False
    if not valid:
        raise ResultsError(f"{name}: not the results of an evaluation; pocketvlm eval --save writes them")
    questions, wanted, exact = zip(*rows, strict=True)
    return Results(name, bundle, data, questions, wanted, exact)


def check_writable(path: Path) -> None:
    """Before hours of work: whether a file can be written there.

    :raises ResultsError: it cannot
    """
    target = _followed(path)
    if target.exists() and not target.is_file():
        raise ResultsError(f"{label(path)}: is not a regular file, which could be replaced")
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise ResultsError(f"{label(path)}: its directory does not exist or cannot be written to")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that appears when it is complete; a failure leaves what stood there, and links stay links.

    :raises ResultsError: it cannot be written
    """
    target = _followed(path)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        with partial.open("xb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(target)
    except OSError as error:
        raise ResultsError(f"{label(path)}: cannot be written ({one_line(error.strerror or error, 80)})") from error
    finally:
        partial.unlink(missing_ok=True)


def _followed(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise ResultsError(f"{label(path)}: cannot be followed ({one_line(error, 80)})") from error
