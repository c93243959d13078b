"""Scores of answers whose right text is known: exact match with its interval, character errors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pocketvlm.bench.statistics.intervals import wilson

Group = Literal["kind", "scene", "grid"]
#: by what answers are grouped, besides all together
GROUPS: tuple[Group, ...] = ("kind", "scene", "grid")


@dataclass(frozen=True)
class Outcome:
    """A question, the answer that is right and the one that came."""

    question: str
    wanted: str
    got: str
    kind: str
    scene: str
    grid: str
    """tiles across x down: by the paper's rule for generated pictures, else as the bundle cuts them"""
    also: tuple[str, ...] = ()
    """what is right beside ``wanted``: other ways to say it, or what other people answered"""
    choices: tuple[tuple[str, str], ...] = ()
    """letters and texts of a multiple choice; ``wanted`` is then a letter"""

    @property
    def accepted(self) -> tuple[str, ...]:
        """Every answer that is right, as often as it was given."""
        return (self.wanted, *self.also)

    @property
    def exact(self) -> bool:
        """Every character is that of an accepted answer, white space and line breaks too."""
        return self.got in self.accepted

    @property
    def character_errors(self) -> tuple[int, int]:
        """Edit distance to the nearest accepted answer, and how many characters that one has."""
        if self.exact:
            return 0, len(self.got)
        from rapidfuzz.distance import Levenshtein

        return min((Levenshtein.distance(answer, self.got), len(answer)) for answer in set(self.accepted))


@dataclass(frozen=True)
class Score:
    """Exact match with its 95 % interval (shares from 0 to 1), and character errors."""

    questions: int
    right: int
    share: float
    low: float
    high: float
    character_error_rate: float
    """characters to insert, delete or replace, for each character wanted; can be above 1"""


def score(outcomes: Sequence[Outcome]) -> Score:
    """All answers as one score.

    :raises ValueError: there are none
    """
    right = sum(outcome.exact for outcome in outcomes)
    low, high = wilson(right, len(outcomes))
    characters = [outcome.character_errors for outcome in outcomes]
    errors, wanted = (sum(column) for column in zip(*characters, strict=True))
    return Score(len(outcomes), right, right / len(outcomes), low, high, errors / max(wanted, 1))


def members_by(outcomes: Iterable[Outcome], group: Group) -> dict[str, list[int]]:
    """Which outcomes are of each kind, scene or grid, by their position."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, outcome in enumerate(outcomes):
        members[getattr(outcome, group)].append(index)
    return dict(members)
