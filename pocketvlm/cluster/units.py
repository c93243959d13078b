"""Units of work by what they are to give, and their results put together: nothing twice, nothing lost unsaid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pocketvlm.errors import ClusterError, one_line

#: A unit fails so often at most: halved each time, one of eight ids or fewer is alone by then.
MOST_FAILURES = 4

Value = TypeVar("Value")


@dataclass(frozen=True)
class Unit:
    """Work that is done as a whole. ``ids`` are what it is counted by, ``items`` what is needed of each, one an id.

    ``failures``: how often it failed; ``avoided``: the machines where it did.
    """

    ids: tuple[int, ...]
    items: tuple[Any, ...]
    failures: int = 0
    avoided: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if not self.ids or len(self.ids) != len(self.items):
            raise ValueError(f"{len(self.items)} items of {len(self.ids)} ids")

    def after_failure(self, where: str) -> tuple[Unit, ...]:
        """What is tried next, elsewhere: its halves, so that in the end what ends its machine's process is alone."""
        failed = replace(self, failures=self.failures + 1, avoided=self.avoided | {where})
        if failed.failures >= MOST_FAILURES:
            return ()
        middle = len(self.ids) // 2
        halves = ((0, middle), (middle, len(self.ids))) if middle else ((0, 1),)
        return tuple(replace(failed, ids=self.ids[start:end], items=self.items[start:end]) for start, end in halves)


@dataclass(frozen=True)
class Lost:
    """Ids without a result, or that were tried again, and the reason, on one line."""

    ids: tuple[int, ...]
    reason: str

    def as_dict(self, name: str) -> dict[str, Any]:
        """For JSON: the ids, counted from 1, are ``name``."""
        return {name: [number + 1 for number in self.ids], "reason": self.reason}


def units_of(items: Iterable[Value], size: int) -> Iterator[Unit]:
    """Units of ``size`` items that follow one another, numbered from 0; the last may be smaller. Lazy."""
    held: list[Value] = []
    first = 0
    for item in items:
        held.append(item)
        if len(held) == size:
            yield Unit(tuple(range(first, first + size)), tuple(held))
            first, held = first + size, []
    if held:
        yield Unit(tuple(range(first, first + len(held))), tuple(held))


def merged(parts: Iterable[tuple[Sequence[int], Sequence[Value]]], missing: Iterable[int] = ()) -> dict[int, Value]:
    """The results of all units by their ids, in the ids' order. With the ``missing`` ones they are 0, 1, 2, ...

    :raises ClusterError: an id is there twice, has no result and is not missing, or has one and is
    """
    found: dict[int, Value] = {}
    for ids, values in parts:
        if len(ids) != len(values):
            raise ClusterError(f"{len(values)} results came back for {len(ids)} ids: nothing of this run is used")
        for number, value in zip(ids, values, strict=True):
            if number in found:
                raise ClusterError(f"number {number + 1} was answered twice: nothing of this run is used")
            found[number] = value
    lost = set(missing)
    if both := lost & found.keys():
        raise ClusterError(f"number {min(both) + 1} was answered and is missing: nothing of this run is used")
    wanted = range(len(found) + len(lost))
    if unsaid := set(wanted) - found.keys() - lost:
        raise ClusterError(f"number {min(unsaid) + 1} has no result and is not missing: nothing of this run is used")
    return {number: found[number] for number in wanted if number in found}


def numbers(ids: Iterable[int], most: int = 5) -> str:
    """Ids counted from 1, for a line: "3-6, 9"."""
    runs: list[list[int]] = []
    for number in sorted(ids):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [str(first + 1) if first == last else f"{first + 1}-{last + 1}" for first, last in runs]
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "")


def refuse_missing(missing: Sequence[Lost], what: str) -> None:
    """That nothing is missing of ``what``, as "questions".

    :raises ClusterError: something is; the line says which and why the first is
    """
    if missing:
        ids = [number for lost in missing for number in lost.ids]
        raise ClusterError(f"{len(ids)} {what} are missing (number {numbers(ids)}): {one_line(missing[0].reason)}")
