"""Several reports as a history: in order, comparable with which earlier one, and each rate over them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from pocketvlm.bench.report.schema import OWN
from pocketvlm.bench.statistics.summary import quartiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pocketvlm.bench.report.schema import Report, Row


@dataclass(frozen=True)
class HistoryPoint:
    """The median of a row in the report at ``position``, between its lower and its upper quartile."""

    position: int
    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class HistoryLine:
    """What one bundle on one device, or one peer, reached in a row over the reports."""

    label: str
    points: tuple[HistoryPoint, ...]


@dataclass(frozen=True)
class Panel:
    """A row over the reports; ``unit`` is tokens/s, or s for rows without tokens."""

    name: str
    unit: str
    lines: tuple[HistoryLine, ...]


class Series(NamedTuple):
    """What tells measurements apart that no line may join."""

    system: str
    model: str
    recipe: str
    device: str
    threads: str


def in_order(reports: Sequence[Report]) -> tuple[Report, ...]:
    """The oldest first, by their dates; as they were given where one of the dates cannot be read."""
    dates = [date_of(report) for report in reports]
    if None in dates:
        return tuple(reports)
    ranks = sorted(range(len(reports)), key=lambda at: (dates[at], at))
    return tuple(reports[at] for at in ranks)


def date_of(report: Report) -> datetime | None:
    """The date in UTC, which is taken for what an ISO date without a zone means; None where it is no ISO date."""
    try:
        date = datetime.fromisoformat(report.machine.date)
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def moments(reports: Sequence[Report]) -> list[str]:
    """A short label for each report: the days, the times where all are of one day; else commits or numbers."""
    dates = [date for report in reports if (date := date_of(report)) is not None]
    if len(dates) < len(reports):
        commits = [(report.machine.commit or "")[:7] for report in reports]
        return [commit or f"{number}" for number, commit in enumerate(commits, start=1)]
    one_day = len({date.date() for date in dates}) == 1
    return [date.strftime("%H:%M") if one_day else f"{date.day} {date:%b}" for date in dates]


def comparable(report: Report, other: Report) -> bool:
    """Whether they are of one model by one recipe on one device with as many threads."""
    return _series(report, OWN) == _series(other, OWN)


def panels(reports: Sequence[Report]) -> list[Panel]:
    """Each row over the reports, oldest first: in the order of the newest's rows, then those that it does not have."""
    names = dict.fromkeys(row.name for report in reversed(reports) for row in report.rows if row.seconds)
    found: dict[str, dict[Series, list[HistoryPoint]]] = defaultdict(lambda: defaultdict(list))
    for position, report in enumerate(reports):
        for row in report.rows:
            if row.seconds:
                found[_named(row)][_series(report, row.system)].append(_point(position, row))
    labels = _labels({series for lines in found.values() for series in lines})
    return [
        Panel(name, unit, tuple(HistoryLine(labels[series], tuple(points)) for series, points in lines.items()))
        for name in names
        for unit in ("tokens/s", "s")
        if (lines := found.get(f"{unit} {name}"))
    ]


def _named(row: Row) -> str:
    return f"{_unit(row)} {row.name}"


def _unit(row: Row) -> str:
    return "tokens/s" if row.tokens else "s"


def _point(position: int, row: Row) -> HistoryPoint:
    low, middle, high = quartiles(row.seconds)
    if not row.tokens:
        return HistoryPoint(position, low, middle, high)
    return HistoryPoint(position, row.tokens / high, row.tokens / middle, row.tokens / low)


def _series(report: Report, system: str) -> Series:
    bundle, machine = report.bundle, report.machine
    return Series(system, bundle.model, bundle.recipe, machine.device, f"{machine.threads} threads")


def _labels(series: set[Series]) -> dict[Series, str]:
    """The system of a peer, and of all the parts those in which they differ."""
    varies = [len({one[at] for one in series}) > 1 for at in range(len(Series._fields))]
    return {
        one: ", ".join(part for part, differs in zip(one, varies, strict=True) if differs) or one.recipe
        for one in series
    }
