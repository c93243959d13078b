"""Intervals of shares, and a paired test. SciPy is imported when one is computed: that takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def wilson(right: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, without continuity correction: (low, high), both from 0 to 1.

    E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209. It keeps its meaning at 0 % and 100 %, where the normal
    approximation has no width.

    :raises ValueError: there is nothing to count, or more right than there are
    """
    from scipy.stats import binomtest

    interval = binomtest(right, count).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class DiscordantPairs:
    """Two systems on the same questions: where just one of them is right, and what chance makes of that."""

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> DiscordantPairs:
    """McNemar's test, exact and two-sided: could either be right as often as the other on these questions?

    Where only one of two equally good systems is right, it is either with probability 1/2: a binomial test of the
    discordant pairs (Q. McNemar, Psychometrika 12 (1947) 153).

    :raises ValueError: they are not of one length
    """
    from scipy.stats import binomtest

    pairs = list(zip(first, second, strict=True))
    only_first = sum(one and not other for one, other in pairs)
    only_second = sum(other and not one for one, other in pairs)
    discordant = only_first + only_second
    p_value = float(binomtest(min(only_first, only_second), discordant).pvalue) if discordant else 1.0
    return DiscordantPairs(only_first, only_second, p_value)
