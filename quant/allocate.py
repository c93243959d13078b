"""Mixed bits: which weight gets how many, so that the sum of their errors is small within a budget of bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pocketvlm.errors import RecipeError
from pocketvlm.recipe import Rule


@dataclass(frozen=True)
class Choice:
    """One way to store a weight: what it takes, and the error that was measured with it."""

    rule: Rule
    bytes: int
    error: float


def allocate(choices: Mapping[str, Sequence[Choice]], most_bytes: int) -> dict[str, Choice]:
    """A choice for each weight, together at most ``most_bytes``.

    Beginning with the smallest of each, bytes go where a byte takes off the most error: along the lower convex hull of
    each weight's choices. Where such an exchange just fits, no other choice of so many bytes has less error
    (H. Everett, Operations Research 11 (1963) 399); where it does not, the next that fits is made.

    :raises RecipeError: when even the smallest choices take more
    """
    hulls = {name: lower_hull(options) for name, options in choices.items()}
    chosen = {name: hull[0] for name, hull in hulls.items()}
    taken = sum(choice.bytes for choice in chosen.values())
    if taken > most_bytes:
        raise RecipeError(f"the smallest choices take {taken:,} bytes, more than the {most_bytes:,} there are")
    steps = [(name, *step) for name, hull in hulls.items() for step in pairwise(hull)]
    # A hull's steps become less steep along it, so that those of one weight are met in their order.
    for name, smaller, larger in sorted(steps, key=lambda step: _gain(*step[1:]), reverse=True):
        more = larger.bytes - smaller.bytes
        if chosen[name] is smaller and taken + more <= most_bytes:
            chosen[name], taken = larger, taken + more
    return chosen


def lower_hull(choices: Sequence[Choice]) -> list[Choice]:
    """The choices that are the best at some price of a byte: fewest bytes first, errors falling ever more slowly."""
    hull: list[Choice] = []
    for choice in sorted(choices, key=lambda choice: (choice.bytes, choice.error)):
        if hull and choice.error >= hull[-1].error:
            continue
        while len(hull) > 1 and _gain(hull[-2], hull[-1]) <= _gain(hull[-1], choice):
            hull.pop()
        hull.append(choice)
    return hull


def _gain(smaller: Choice, larger: Choice) -> float:
    """The error that each further byte takes off."""
    return (smaller.error - larger.error) / (larger.bytes - smaller.bytes)
