"""Questions from a file of JSON objects, one a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pocketvlm.errors import DataError, located, one_line
from pocketvlm.files import label
from pocketvlm.questions.files import contents, lines
from pocketvlm.questions.question import (
    MAX_QUESTION,
    Question,
    Questions,
    check_answers,
    check_kind,
    check_text,
    open_pictures,
    picture_path,
)

#: longest line, bytes
MAX_LINE = 1 << 20
METRICS = ("exact", "anls", "vqa")


def read_jsonl(name: str, count: int | None) -> Questions:
    """The first ``count`` questions (None: all) of a file of lines like

    {"image": "a.png", "question": "How much is the tea?", "answer": "2.40"}

    ``images`` is a list of paths in place of ``image``; a line without either is text only. ``answers`` is a list in
    place of ``answer``, any of which is right. ``kind`` groups the scores. Other keys are left alone, and so are
    blank lines. Paths are relative to the file's directory.

    :raises DataError: the file cannot be read; and, while the questions are iterated, a line that is no such object
    """
    path = Path(name)
    found = contents(path)
    most = found.lines if count is None else min(count, found.lines)
    origin = {"source": "jsonl", "file": path.name, "sha256": found.sha256}
    return Questions(origin, most, islice(_questions(path), count), METRICS)


def _questions(path: Path) -> Iterator[Question]:
    for place, line in lines(path, MAX_LINE):
        if line.strip():
            where = label(path, place.number)
            with located(where, DataError):
                question = _question(_object(line), path.parent, where)
            yield question


def _object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({one_line(error, 80)})") from error
    if not isinstance(found, dict):
        raise DataError('not a JSON object like {"image": ..., "question": ..., "answer": ...}')
    return found


def _question(entry: dict[str, Any], directory: Path, where: str) -> Question:
    text = check_text(_get(entry, "question"), "question", MAX_QUESTION)
    answers = check_answers(_one_or_several(entry, "answer", "answers"), "answer")
    kind = check_kind(entry["kind"], "kind") if entry.get("kind") is not None else ""
    has_images = entry.get("image") is not None or entry.get("images") is not None
    paths = _one_or_several(entry, "image", "images") if has_images else []
    images = open_pictures(picture_path(directory, path) for path in paths)
    return Question(text, answers, images, kind=kind, where=where)


def _get(entry: dict[str, Any], key: str) -> Any:
    if key not in entry:
        raise DataError(f'"{key}" is missing')
    return entry[key]


def _one_or_several(entry: dict[str, Any], one: str, several: str) -> list[Any]:
    """The value of the first key or the list of the second; null is as good as missing."""
    single, many = entry.get(one), entry.get(several)
    if single is not None and many is not None:
        raise DataError(f'give "{one}" or "{several}", not both')
    if single is None and many is None:
        raise DataError(f'"{one}" is missing')
    if single is not None:
        return [single]
    if not isinstance(many, list):
        raise DataError(f'"{several}" is not a list')
    return many
