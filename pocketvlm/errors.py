"""Every failure a user can cause or meet, as one line that says what is wrong and what to do.

The command line prints the line and exits with status 1; a traceback appears only with ``--debug``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

#: Control characters but for line breaks and tabs, ends of lines and paragraphs, what sets the direction of text, what
#: annotates it, and halves of characters.
UNPRINTABLE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff]")


class PocketVlmError(Exception):
    """Base of all errors that are meant for people.

    ``typed``: the same for one who typed a command, where the message names what one calls in Python.
    """

    def __init__(self, message: str = "", *, typed: str | None = None) -> None:
        super().__init__(message)
        self.typed = message if typed is None else typed


class ImageError(PocketVlmError):
    """An image that cannot be decoded, or is larger than this project accepts."""


class CheckpointError(PocketVlmError):
    """A checkpoint directory that is incomplete, inconsistent, or of a family that is not known."""


class RecipeError(PocketVlmError):
    """A quantization recipe that is malformed or does not fit the checkpoint."""


class ExportError(PocketVlmError):
    """An export that cannot be finished: no space, a failed check, an operator the back end lacks."""


class BundleError(PocketVlmError):
    """A bundle that is damaged, too new, or not a bundle."""


class DataError(PocketVlmError):
    """Questions for an evaluation that cannot be read, or that do not fit the model."""


class ResultsError(PocketVlmError):
    """Results of an evaluation that cannot be read, written or compared, or that are not good enough."""


class ChatError(PocketVlmError):
    """Messages that the bundle's chat layout cannot express."""


class ConstraintError(PocketVlmError):
    """A form for an answer (JSON schema, expression, choices, grammar) that is wrong or that no text can have."""


class DeviceError(PocketVlmError):
    """A phone that is not there, not ready for a measurement, or fails in the middle of one."""


class ClusterError(PocketVlmError):
    """A cluster that cannot be reached, machines of it that do not fit one another, or work that none of them did."""


class CapacityError(PocketVlmError):
    """A conversation that does not fit into the bundle's KV length."""


@contextmanager
def located(where: str, kind: type[PocketVlmError] = PocketVlmError) -> Iterator[None]:
    """An error of ``kind`` inside this block says first where it is (a file's line, a weight), if that is known."""
    try:
        yield
    except kind as error:
        if not where:
            raise
        raise type(error)(f"{where}: {error}", typed=f"{where}: {error.typed}") from error


def printable(text: str) -> str:
    """Foreign text for a terminal or a page: what would act on it or turn it round is shown as an escape.

    Line breaks and tabs stay, and the joiners and marks that scripts and emojis need.
    """
    return UNPRINTABLE.sub(lambda found: _escaped(found[0]), text)


def one_line(message: object, most: int = 300) -> str:
    """Foreign text for an error's line: on one line, of bounded length, each character one that can be seen."""
    text = " ".join(str(message).split())
    if not text.isprintable():
        text = "".join(char if char.isprintable() else _escaped(char) for char in text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _escaped(char: str) -> str:
    return ascii(char)[1:-1]
