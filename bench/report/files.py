"""Results of an evaluation as a file of JSON: written whole or not at all, and read with suspicion."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvlm.errors import ResultsError, one_line
from pocketvlm.files import label, read_bounded

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
        content = json.loads(read_bounded(path, MAX_RESULTS, ResultsError))
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{name}: not JSON ({one_line(error, 80)})") from error
    return results(content, name)


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
