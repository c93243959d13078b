"""The two files that github-action-benchmark reads: one where bigger is better and one where smaller is.

Its tools customBiggerIsBetter and customSmallerIsBetter take a list of {name, unit, value, range, extra}: ``value`` is
a number, the others are text, and a value is compared with the last one of the same name.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pocketvlm.bench.report.text import own
from pocketvlm.bench.statistics.summary import quartiles
from pocketvlm.errors import ResultsError, one_line
from pocketvlm.files import label, write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from pocketvlm.bench.report.schema import Report, Row

BIGGER, SMALLER = "bigger-is-better.json", "smaller-is-better.json"
#: Their seconds are what a user waits for; the other phases are told by their rates.
WAITED_FOR = ("load", "image", "first token")


@dataclass(frozen=True)
class Entry:
    """One benchmark; ``range`` is the spread of ``value``, ``extra`` is shown where one points at it."""

    name: str
    unit: str
    value: float
    range: str
    extra: str


def write_github(report: Report, directory: Path) -> tuple[Path, Path]:
    """Write ``bigger-is-better.json`` and ``smaller-is-better.json`` to a directory, which is made if need be.

    :raises ResultsError: they cannot be written
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = one_line(error.strerror or error, 80)
        raise ResultsError(f"{label(directory)}: cannot be made a directory ({reason})") from error
    paths = directory / BIGGER, directory / SMALLER
    for path, entries in zip(paths, (bigger_is_better(report), smaller_is_better(report)), strict=True):
        write_whole(
            path, json.dumps([asdict(entry) for entry in entries], indent=1, allow_nan=False) + "\n", ResultsError
        )
    return paths


def bigger_is_better(report: Report) -> list[Entry]:
    """Tokens a second of the bundle's own rows, medians, ± half of what lies between the quartiles."""
    return [_entry(report, row, "tokens/s", row.rates) for row in own(report) if row.seconds and row.tokens]


def smaller_is_better(report: Report) -> list[Entry]:
    """Seconds of loads, images and first tokens; the peak of resident memory and the bundle, in bytes."""
    waits = [row for row in own(report) if row.seconds and row.phase in WAITED_FOR]
    entries = [_entry(report, row, "s", row.seconds) for row in waits]
    extra = _extra(report)
    if report.memory:
        peak = max(phase.peak for phase in report.memory)
        entries.append(Entry(_name(report, "peak resident memory"), "bytes", peak, "", extra))
    return [*entries, Entry(_name(report, "bundle"), "bytes", report.bundle.bytes, "", extra)]


def _entry(report: Report, row: Row, unit: str, values: list[float] | tuple[float, ...]) -> Entry:
    low, middle, high = quartiles(values)
    extra = f"{_extra(report)}\n{len(values)} repetitions"
    return Entry(_name(report, row.name), unit, middle, f"± {(high - low) / 2:.3g}", extra)


def _name(report: Report, test: str) -> str:
    """Of the model and the recipe: the files of several bundles may be put together."""
    return one_line(f"{report.bundle.model} {report.bundle.recipe}: {test}", 700)


def _extra(report: Report) -> str:
    machine = report.machine
    lines = [one_line(machine.device), one_line(machine.summary)]
    return "\n".join([*lines, f"warning: {one_line(machine.busy)}"] if machine.busy else lines)
