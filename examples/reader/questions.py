"""Questions about a picture, and their answers."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from examples.reader.pictures import Picture

Kind = Literal["line", "count", "all"]

PHRASINGS: dict[Kind, tuple[str, ...]] = {
    "line": (
        "What is on line {number}?",
        "Read line {number}.",
        "What does line {number} say?",
        "Which text is on line {number}?",
        "what is on line {number}?",
    ),
    "count": ("How many lines are there?", "How many lines of text are in the picture?", "Count the lines."),
    "all": ("Read all lines.", "What does the picture say?", "Read the whole picture.", "Transcribe the picture."),
}

ALL_PHRASINGS = tuple(phrasing.replace("{number}", "") for phrasings in PHRASINGS.values() for phrasing in phrasings)


@dataclass(frozen=True)
class Turn:
    """A question and its right answer."""

    kind: Kind
    question: str
    answer: str


def transcription(picture: Picture, source: random.Random) -> Turn:
    """A question for all lines, answered line by line."""
    return Turn("all", source.choice(PHRASINGS["all"]), "\n".join(picture.lines))


def line_count(picture: Picture, source: random.Random) -> Turn:
    """A question for the number of lines."""
    return Turn("count", source.choice(PHRASINGS["count"]), str(len(picture.lines)))


def line(picture: Picture, number: int, source: random.Random) -> Turn:
    """A question for one line; ``number`` counts from 1."""
    question = source.choice(PHRASINGS["line"]).format(number=number)
    return Turn("line", question, picture.lines[number - 1])


def every_question(picture: Picture, source: random.Random) -> list[Turn]:
    """One question for each line and one for their number, in random order."""
    turns = [line(picture, number, source) for number in range(1, len(picture.lines) + 1)]
    turns.append(line_count(picture, source))
    source.shuffle(turns)
    return turns
