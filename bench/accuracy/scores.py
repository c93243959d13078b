"""Scores of answers whose right text is known: exact match with its interval, character errors, a paired test.

Pure functions of texts and counts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

#: 97.5 % of a standard normal distribution lies below it: two-sided 95 % intervals
Z_95 = 1.959963984540054

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
        return min((edit_distance(answer, self.got), len(answer)) for answer in set(self.accepted))


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


def wilson(right: int, count: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a share, without continuity correction: (low, high), both from 0 to 1.

    E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209. It keeps its meaning at 0 % and 100 %, where the normal
    approximation has no width.

    Raises:
        ValueError: there is nothing to count, or more right than there are.
    """
    if not 0 <= right <= count or count == 0:
        raise ValueError(f"{right} of {count} is no share")
    share, square = right / count, z * z
    middle = share + square / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    # At the ends the exact bounds are 0 and 1; rounding must not move them.
    low = 0.0 if right == 0 else (middle - half) / (1 + square / count)
    high = 1.0 if right == count else (middle + half) / (1 + square / count)
    return low, high


def edit_distance(first: str, second: str) -> int:
    """Levenshtein's distance: the fewest characters to insert, delete or replace.

    The rows of the usual table as bits of whole numbers, whose differences are -1, 0 or 1 (G. Myers, J. ACM 46 (1999)
    395; H. Hyyro, "Explaining and extending the bit-parallel approximate string matching algorithm of Myers", 2001):
    one step for each character of ``second``.
    """
    if not first:
        return len(second)
    whole, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    places: dict[str, int] = defaultdict(int)
    for index, character in enumerate(first):
        places[character] |= 1 << index
    rises, falls, distance = whole, 0, len(first)
    for character in second:
        equal = places.get(character, 0)
        kept = ((((equal & rises) + rises) ^ rises) | equal | falls) & whole
        right_rises, right_falls = (falls | ~(kept | rises)) & whole, kept & rises
        distance += bool(right_rises & last) - bool(right_falls & last)
        shifted_rises, shifted_falls = (right_rises << 1) | 1, right_falls << 1
        rises, falls = (shifted_falls | ~(kept | shifted_rises)) & whole, shifted_rises & kept & whole
    return distance


def score(outcomes: Sequence[Outcome]) -> Score:
    """All answers as one score.

    Raises:
        ValueError: there are none.
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


def score_by(outcomes: Sequence[Outcome], group: Group) -> dict[str, Score]:
    """A score for each kind, scene or grid, in the order of their names."""
    members = members_by(outcomes, group)
    return {name: score([outcomes[index] for index in members[name]]) for name in sorted(members)}


@dataclass(frozen=True)
class Paired:
    """Two systems on the same questions: where just one of them is right, and what chance makes of that."""

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """McNemar's test, exact and two-sided: could either be right as often as the other on these questions?

    Where only one of two equally good systems is right, it is either with probability 1/2: a binomial test of the
    discordant pairs (Q. McNemar, Psychometrika 12 (1947) 153).

    Raises:
        ValueError: they are not of one length.
    """
    pairs = list(zip(first, second, strict=True))
    only_first = sum(one and not other for one, other in pairs)
    only_second = sum(other and not one for one, other in pairs)
    discordant = only_first + only_second
    # Whole numbers up to the one division: exact for thousands of pairs.
    tail = sum(math.comb(discordant, count) for count in range(min(only_first, only_second) + 1))
    return Paired(only_first, only_second, min(1.0, 2 * tail / 2**discordant))
