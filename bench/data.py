"""Where questions with known answers come from. A new source is one function and one line in ``SOURCES``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketvlm.errors import DataError, one_line

if TYPE_CHECKING:
    from pocketvlm.scenes import Example


@dataclass(frozen=True)
class Questions:
    """Questions about images with the answers that are wanted, and where they come from.

    ``examples`` is drawn or read while it is iterated, once.
    """

    origin: dict[str, str]
    examples: Iterator[Example]


@dataclass(frozen=True)
class Source:
    """One form of DATA: how it is written, and what reads at most so many questions of it."""

    form: str
    what: str
    pattern: str
    """of the whole of DATA; its group is the argument of ``read``"""
    read: Callable[[str, int], Questions]


def generated(seed: str, count: int) -> Questions:
    """Held-out pictures of ``pocketvlm.scenes``: the same seed draws the same ones, and training draws none of them."""
    from pocketvlm.scenes import held_out

    return Questions({"source": "generated", "seed": seed}, held_out(seed, count))


SOURCES = (Source("generated:SEED", "held-out pictures drawn from a seed", r"generated:([\w.-]{1,64})", generated),)


def open_data(data: str, count: int) -> Questions:
    """The first ``count`` questions of ``data``, which is written as one of the ``SOURCES``.

    Raises:
        DataError: it is none of them.
    """
    for source in SOURCES:
        if found := re.fullmatch(source.pattern, data, re.ASCII):
            return source.read(found[1], count)
    possible = "; ".join(f"{source.form} ({source.what})" for source in SOURCES)
    raise DataError(f"{one_line(repr(data), 80)} is no data to evaluate on. Possible is: {possible}")
