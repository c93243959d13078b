"""A question with its right answers, and what every source checks of one: lengths, characters, pictures.

What a file says is not trusted: every size is bounded before it is taken, and no picture lies outside the file's
directory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from pocketvlm.errors import DataError, ImageError, one_line
from pocketvlm.images.open import MAX_PIXELS, open_image

#: longest texts, characters
MAX_QUESTION, MAX_ANSWER, MAX_KIND, MAX_PATH = 16384, 1024, 64, 1024
#: most accepted answers and most pictures of a question
MAX_ANSWERS, MAX_IMAGES = 64, 16


@dataclass(frozen=True)
class Question:
    """A question, every answer that is right (as often as it was given), and the pictures it is about."""

    text: str
    answers: tuple[str, ...]
    images: tuple[Image.Image, ...] = ()
    choices: tuple[tuple[str, str], ...] = ()
    """letters and texts of a multiple choice; the first answer is then a letter"""
    kind: str = ""
    scene: str = ""
    grid: str | None = None
    """tiles across x down by the paper's rule; None: as the bundle cuts them"""
    where: str = ""
    """file and line, for errors"""


@dataclass(frozen=True)
class Questions:
    """Questions and where they come from."""

    origin: dict[str, str]
    most: int
    """there are so many, or fewer where a file has them"""
    items: Iterator[Question]
    """drawn or read while it is iterated, once"""
    metrics: tuple[str, ...]
    """names of the metrics that suit them"""
    make: Callable[[int], Question] | None = None
    """each by its number, counted from 0, where it can be made without those before it, on any machine"""


def check_text(text: object, name: str, most: int) -> str:
    """A text that is neither empty nor too long, and that can be encoded.

    :raises DataError: it is not; the line has no file and number yet
    """
    if not isinstance(text, str):
        raise DataError(f"{name} is not a text")
    if not text.strip():
        raise DataError(f"{name} is empty")
    if len(text) > most:
        raise DataError(f"{name} has {len(text)} characters, more than the {most} that are read")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{name} has half a surrogate pair, which is no character") from None
    return text


def check_kind(text: object, name: str) -> str:
    """A short text for a table. Errors as for ``check_text``, and for characters that cannot be printed."""
    kind = check_text(text, name, MAX_KIND)
    if not kind.isprintable():
        raise DataError(f"{name} {kind!a} has characters that cannot be printed")
    return kind


def check_answers(answers: Iterable[object], name: str) -> tuple[str, ...]:
    """One or more texts. Errors as for ``check_text``."""
    found = tuple(check_text(answer, name, MAX_ANSWER) for answer in answers)
    if not found:
        raise DataError(f"{name} has no text")
    if len(found) > MAX_ANSWERS:
        raise DataError(f"{name} has {len(found)} texts, more than the {MAX_ANSWERS} that are read")
    return found


def picture_path(directory: Path, name: object) -> Path:
    """Where a picture lies, by a path relative to its file's directory.

    :raises DataError: the path is no path, or leads out of the directory, links followed
    """
    text = check_text(name, "an image's path", MAX_PATH)
    relative = PurePosixPath(text)
    shown = one_line(repr(text), 80)
    if relative.is_absolute() or ".." in relative.parts or "\\" in text or "\0" in text:
        raise DataError(f"the image's path {shown} is not relative to the file's directory, or leads out of it")
    try:
        inside = (directory / relative).resolve().is_relative_to(directory.resolve())
    except (OSError, RuntimeError) as error:
        raise DataError(f"the image's path {shown} cannot be followed: {one_line(error, 80)}") from error
    if not inside:
        raise DataError(f"the image's path {shown} leads out of the file's directory")
    return directory / relative


def open_pictures(sources: Iterable[Path | bytes]) -> tuple[Image.Image, ...]:
    """Pictures in RGB, together no larger than the largest single one may be.

    :raises DataError: there are too many, or one cannot be opened
    """
    opened: list[Image.Image] = []
    pixels = 0
    for source in sources:
        if len(opened) == MAX_IMAGES:
            raise DataError(f"more than {MAX_IMAGES} images")
        try:
            picture = open_image(source)
        except ImageError as error:
            raise DataError(str(error)) from error
        pixels += picture.width * picture.height
        if pixels > MAX_PIXELS:
            raise DataError(f"images of more than {MAX_PIXELS} pixels together")
        opened.append(picture)
    return tuple(opened)
