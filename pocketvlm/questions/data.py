"""Where questions with known answers come from. A new source is one function and one line in ``SOURCES``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from PIL import Image

from pocketvlm.errors import DataError, one_line
from pocketvlm.questions.jsonl import read_jsonl
from pocketvlm.questions.question import Question, Questions
from pocketvlm.questions.tsv import read_tsv

if TYPE_CHECKING:
    from pocketvlm.scenes import Example

#: how many generated questions are asked by default; of a file it is all
GENERATED = 200


@dataclass(frozen=True)
class Source:
    """One form of DATA: how it is written, and what reads at most so many questions of it (None: the usual number)."""

    form: str
    what: str
    pattern: str
    """of the whole of DATA; its group is the argument of ``read``"""
    read: Callable[[str, int | None], Questions]


def generated(seed: str, count: int | None) -> Questions:
    """Held-out pictures of ``pocketvlm.scenes``: the same seed draws the same ones, and training draws none of them."""
    number = GENERATED if count is None else count
    make = partial(_held_out_example, seed)
    return Questions({"source": "generated", "seed": seed}, number, _held_out(seed, number), ("exact",), make)


def _held_out(seed: str, count: int) -> Iterator[Question]:
    from pocketvlm.scenes import held_out

    return map(_question, held_out(seed, count))


def _held_out_example(seed: str, number: int) -> Question:
    from pocketvlm.scenes import held_out_example

    return _question(held_out_example(seed, number))


def _question(example: Example) -> Question:
    images: tuple[Image.Image, ...] = (example.image,)
    grid = "{}x{}".format(*example.grid)
    return Question(example.question, (example.answer,), images, kind=example.kind, scene=example.scene, grid=grid)


#: pictures that are drawn; its group is their seed
GENERATED_FORM = r"generated:([\w.-]{1,64})"
#: plain text, which has no questions: what a comparison of logits and a calibration read besides the SOURCES
TEXT_FORM = "FILE.txt (plain text)"

SOURCES = (
    Source("generated:SEED", "held-out pictures drawn from a seed", GENERATED_FORM, generated),
    Source("FILE.jsonl", "a question a line", r"(.+\.jsonl)", read_jsonl),
    Source("FILE.tsv", "VLMEvalKit's form", r"(.+\.tsv)", read_tsv),
)


def open_data(data: str, count: int | None, *, also: str = "") -> Questions:
    """The first ``count`` questions of ``data``, which is written as one of the ``SOURCES``.

    ``also`` is a form that the caller reads itself, which the error for anything else lists with them.

    :raises DataError: it is none of them, or a file that cannot be read
    """
    for source in SOURCES:
        if found := re.fullmatch(source.pattern, data, re.ASCII):
            return source.read(found[1], count)
    possible = "; ".join([*(f"{source.form} ({source.what})" for source in SOURCES), *filter(None, [also])])
    raise DataError(f"{one_line(repr(data), 80)} is no data to evaluate on. Possible is: {possible}")
