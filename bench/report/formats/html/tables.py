"""What the tables and lists of the HTML report have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketvlm.bench.report.history import date_of
from pocketvlm.bench.report.schema import OWN
from pocketvlm.bench.report.text import (
    NOTHING,
    duration,
    number,
    own,
    peer_rows,
    percent,
    share,
    size,
    times_ours,
    took,
)
from pocketvlm.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pocketvlm.bench.report.schema import Report, Row

#: A text, or one with a smaller one behind or below it.
Cell = str | tuple[str, str]
#: Names, and what is said of them; what has nothing is left out.
Facts = dict[str, str | None]
#: What a warning is about, and the rest of its sentence.
Warnings = list[tuple[str, str]]


@dataclass(frozen=True)
class PageTable:
    """The first column names the rows; of the others those in ``texts`` are words, the rest numbers."""

    caption: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    texts: tuple[str, ...] = ()

    def kind(self, column: str) -> str:
        return "text" if column in self.texts else "number"


def speeds(report: Report) -> PageTable | None:
    """Medians and spread of the bundle's own rows, their rates, and the share of what the machine could do."""
    body = [(row.name, *_speed(row), _share(row)) for row in own(report)]
    columns = ("row", "time", "tokens/s", "of the limit")
    return PageTable("Medians, with half of what lies between the quartiles", columns, body) if body else None


def peer_speeds(report: Report) -> PageTable | None:
    """Other systems beside this one: their speed, and as a multiple of ours."""
    body = [
        (
            (row.name, row.system),
            *_speed(row),
            "" if (times := times_ours(row, report)) is None else f"{number(times)}x",
        )
        for row in peer_rows(report)
    ]
    columns = ("row", "time", "tokens/s", "to ours")
    return PageTable("In the same run; above 1x a peer is faster", columns, body) if body else None


def peers(report: Report) -> PageTable | None:
    """What each of them is."""
    body: list[tuple[Cell, ...]] = [
        (
            (one.system, one.version) if one.version else one.system,
            one.weights or NOTHING,
            *(NOTHING if count is None else size(count) for count in (one.bytes, one.peak)),
            took(one) or NOTHING,
        )
        for one in report.peers
    ]
    columns = ("system", "weights", "file", "peak memory", "its export")
    return PageTable("What they loaded", columns, body, ("weights", "its export")) if body else None


def not_measured(rows: Iterable[Row]) -> Warnings:
    """Of the rows."""
    return [
        (row.name, f"{'' if row.system == OWN else f'of {row.system} '}was not measured: {one_line(row.missing)}")
        for row in rows
        if not row.seconds
    ]


def absent(report: Report) -> Warnings:
    """Peers that did not run."""
    return [(one.system, f"did not run: {one_line(one.missing)}") for one in report.peers if one.missing is not None]


def memory(report: Report) -> PageTable | None:
    """The numbers of the plots of memory."""
    body = [
        (one.phase, *(number(value / 1e6) for value in (one.resident, one.anonymous, one.mapped, one.peak)))
        for one in report.memory
    ]
    columns = ("phase", "resident", "anonymous", "mapped", "peak")
    return PageTable("MB after each phase", columns, body) if body else None


def machine(report: Report) -> Facts:
    """Where it was measured."""
    said = report.machine
    loads = (said.load_before, said.load_after)
    return {
        "device": said.device,
        "processor": said.summary,
        "system": f"{said.system} {said.kernel}, {said.architecture}",
        "cores": f"{said.cores}" + (f", bound to {_list(said.affinity)}" if said.affinity else ""),
        "clocks": "pinned" if said.pinned else "not pinned",
        "governor": said.governor,
        "frequencies": f"{_list(map(number, said.frequencies))} MHz" if said.frequencies else None,
        "temperatures": _list(f"{name} {value:.1f} °C" for name, value in said.temperatures.items()),
        "load before and after": _list(NOTHING if load is None else f"{load:.2f}" for load in loads),
        "versions": _list(f"{name} {version}" for name, version in said.versions.items()),
        "commit": said.commit,
        "target": report.target,
    }


def bundle(report: Report) -> Facts:
    """What was measured."""
    said = report.bundle
    return {
        "path": said.path,
        "revision": said.revision,
        "size": size(said.bytes),
        "KV cache": said.kv_cache,
        "SHA-256 of the manifest": said.manifest_sha256,
    }


def counts(report: Report) -> Facts:
    """What is the same in each run of it."""
    said = report.counts
    if said is None:
        return {}

    def each(found: dict[str, int]) -> str:
        return _list(f"{name} {count:,}" for name, count in found.items())

    return {
        "tiles": f"{said.tiles}",
        "image tokens": f"{said.image_tokens}",
        "prompt tokens": f"{said.prompt_tokens}",
        "nodes": each(said.nodes),
        "multiply-accumulates": each(said.multiplications),
        "bytes": each(said.bytes),
        "token ids of the answer": _list(said.token_ids),
    }


def reports(ordered: Sequence[Report]) -> PageTable:
    """The reports of a history, the newest first."""
    body = [
        (
            report.machine.date if (date := date_of(report)) is None else f"{date:%Y-%m-%d %H:%M} UTC",
            (report.machine.commit or NOTHING)[:8],
            one_line(f"{report.bundle.model} {report.bundle.recipe}", 120),
            one_line(f"{report.machine.device}, {report.machine.threads} threads", 120),
            "busy" if report.machine.busy else "",
        )
        for report in reversed(ordered)
    ]
    columns = ("date", "commit", "bundle", "device", "load")
    return PageTable("The newest first", columns, body, texts=columns)


def _speed(row: Row) -> tuple[Cell, ...]:
    if not row.seconds:
        return NOTHING, ""
    return (duration(row.median), f"± {percent(row.spread)} %"), "" if row.rate is None else number(row.rate)


def _share(row: Row) -> Cell:
    value, _, what = share(row).partition(" ")
    return (value, what) if value else ""


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
