"""The few numbers that a reader looks for first, and how they changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketvlm.bench.report.history import date_of
from pocketvlm.bench.report.text import duration, number, own, percent, size
from pocketvlm.errors import one_line

if TYPE_CHECKING:
    from pocketvlm.bench.report.schema import Report, Row

#: Phase -> what its card is called. The first measured row of the phase is shown.
PHASES = {
    "first token": "image to first token",
    "image": "image encoding",
    "prefill": "prefill",
    "decode": "decode",
    "load": "loading",
}
#: Phases of which a rate says more than seconds do.
AS_RATE = ("prefill", "decode")
#: What differs by less than this share is called the same; speeds also where they differ by less than their spreads.
SAME_SIZE, SAME_SPEED = 0.005, 0.01


@dataclass(frozen=True)
class Card:
    """A number, what it is, and what became of it: ``better`` is None where there is nothing to compare."""

    value: str
    unit: str
    what: str
    row: str = ""
    change: str = ""
    better: bool | None = None


def cards(report: Report, before: Report | None) -> list[Card]:
    """All of them; ``before`` is an older report of the same bundle on the same device."""
    return [*speeds(report, before), *sizes(report, before)]


def speeds(report: Report, before: Report | None) -> list[Card]:
    """One for each of ``PHASES`` that was measured."""
    found = []
    for phase, what in PHASES.items():
        row = next((row for row in own(report) if row.phase == phase and row.seconds), None)
        if row is None:
            continue
        older = next((one for one in own(before) if one.name == row.name and one.seconds), None) if before else None
        rate = row.rate if phase in AS_RATE else None
        value, unit = duration(row.median).split() if rate is None else (number(rate), "tokens/s")
        change, better = ("", None) if before is None or older is None else changed(row, older, before)
        found.append(Card(value, unit, what, one_line(row.name, 60), change, better))
    return found


def sizes(report: Report, before: Report | None) -> list[Card]:
    """Peak of resident memory, where it was measured, and the bundle."""
    peak = max((phase.peak for phase in report.memory), default=0)
    older = max((phase.peak for phase in before.memory), default=0) if before else 0
    found = [_of_bytes("peak resident memory", peak, older, before)] if peak else []
    bundle = report.bundle.bytes
    return [*found, _of_bytes("bundle", bundle, before.bundle.bytes if before else 0, before)]


def changed(row: Row, older: Row, before: Report) -> tuple[str, bool | None]:
    """In words, and whether it is better: None where it is the same."""
    times = older.median / row.median
    if abs(times - 1) <= max(SAME_SPEED, row.spread + older.spread):
        return f"as {_when(before)}", None
    if times > 1:
        return f"{percent(times - 1)} % faster than {_when(before)}", True
    return f"{percent(1 / times - 1)} % longer than {_when(before)}", False


def resized(now: int, older: int, before: Report | None) -> tuple[str, bool | None]:
    """In words, and whether it is better: smaller."""
    if before is None or not older:
        return "", None
    share = now / older - 1
    if abs(share) < SAME_SIZE:
        return f"as {_when(before)}", None
    return f"{percent(abs(share))} % {'more' if share > 0 else 'less'} than {_when(before)}", share < 0


def _of_bytes(what: str, now: int, older: int, before: Report | None) -> Card:
    value, unit = size(now).split()
    change, better = resized(now, older, before)
    return Card(value, unit, what, change=change, better=better)


def _when(before: Report) -> str:
    date = date_of(before)
    return "before" if date is None else f"on {date:%Y-%m-%d}"
