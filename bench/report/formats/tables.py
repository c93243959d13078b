"""The tables of the HTML report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pocketvlm.bench.report.formats.markup import Child, Markup, element, fragment, text
from pocketvlm.bench.report.history import date_of
from pocketvlm.bench.report.schema import OWN
from pocketvlm.bench.report.text import (
    NOTHING,
    duration,
    limits,
    number,
    own,
    peer_rows,
    percent,
    share,
    size,
    times_ours,
    took,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pocketvlm.bench.report.schema import Peer, Report, Row

#: What a cell of the HTML has: a child, or a cell that was made already.
Cells = tuple[Child, ...]


def speeds(report: Report) -> Markup | None:
    """Medians and spread of the bundle's own rows, their rates, and the share of what the machine could do."""
    rows = own(report)
    if not rows:
        return None
    body = [(text(row.name), *_speed(row), _share(row)) for row in rows]
    note = element("p", f"Of {limits(report)}.", class_="note") if report.limits else None
    columns = ("row", "time", "tokens/s", "of the limit")
    table = _table("Medians, with half of what lies between the quartiles", columns, body)
    return fragment(table, _missing(rows), note)


def peers(report: Report) -> Markup | None:
    """Other systems beside this one: their speed, and as a multiple of ours."""
    rows = peer_rows(report)
    if not rows and not report.peers:
        return None
    body = [
        (_row_name(row), *_speed(row), "" if (times := times_ours(row, report)) is None else f"{number(times)}x")
        for row in rows
    ]
    speed = _table("In the same run; above 1x a peer is faster", ("row", "time", "tokens/s", "to ours"), body)
    about = [
        (_system(one), text(one.weights or NOTHING), _bytes(one.bytes), _bytes(one.peak), text(took(one) or NOTHING))
        for one in report.peers
    ]
    columns = ("system", "weights", "file", "peak memory", "its export")
    described = _table("What they loaded", columns, about, ("weights", "its export"))
    return element(
        "section",
        element("h2", "Peers"),
        speed if rows else None,
        _missing(rows),
        described if about else None,
        _absent(report.peers),
    )


def memory(report: Report) -> Markup | None:
    """The numbers of the plots of memory."""
    if not report.memory:
        return None
    body = [
        (text(one.phase), *(number(value / 1e6) for value in (one.resident, one.anonymous, one.mapped, one.peak)))
        for one in report.memory
    ]
    return _table("MB after each phase", ("phase", "resident", "anonymous", "mapped", "peak"), body)


def machine(report: Report) -> Markup:
    """Where it was measured."""
    said = report.machine
    loads = (said.load_before, said.load_after)
    facts = {
        "device": said.device,
        "processor": said.summary,
        "system": f"{said.system} {said.kernel}, {said.architecture}",
        "cores": f"{said.cores}" + (f", bound to {_list(said.affinity)}" if said.affinity else ""),
        "clocks": "pinned" if said.pinned else "not pinned",
        "governor": said.governor,
        "frequencies": f"{_list([number(value) for value in said.frequencies])} MHz" if said.frequencies else None,
        "temperatures": ", ".join(f"{name} {value:.1f} °C" for name, value in said.temperatures.items()),
        "load before and after": ", ".join(NOTHING if load is None else f"{load:.2f}" for load in loads),
        "versions": ", ".join(f"{name} {version}" for name, version in said.versions.items()),
        "commit": said.commit,
        "target": report.target,
    }
    return element("section", element("h2", "Machine"), _facts(facts), _code("Command and workload", report))


def bundle(report: Report) -> Markup:
    """What was measured, and what is the same in each run of it."""
    said, counts = report.bundle, report.counts
    facts = {
        "path": said.path,
        "revision": said.revision,
        "size": size(said.bytes),
        "KV cache": said.kv_cache,
        "SHA-256 of the manifest": said.manifest_sha256,
    }
    counted = counts and element(
        "details",
        element("summary", "What is the same in each run"),
        _facts({
            "tiles": f"{counts.tiles}",
            "image tokens": f"{counts.image_tokens}",
            "prompt tokens": f"{counts.prompt_tokens}",
            "nodes": ", ".join(f"{name} {count:,}" for name, count in counts.nodes.items()),
            "multiply-accumulates": ", ".join(f"{name} {count:,}" for name, count in counts.multiplications.items()),
            "bytes": ", ".join(f"{name} {count:,}" for name, count in counts.bytes.items()),
            "token ids of the answer": ", ".join(map(str, counts.token_ids)),
        }),
    )  # fmt: skip
    return element("section", element("h2", "Bundle"), _facts(facts), counted or None)


def reports(ordered: Sequence[Report]) -> Markup:
    """The reports of a history, the newest first."""
    body = [
        (
            text(report.machine.date) if (date := date_of(report)) is None else f"{date:%Y-%m-%d %H:%M} UTC",
            text((report.machine.commit or NOTHING)[:8]),
            text(f"{report.bundle.model} {report.bundle.recipe}", 120),
            text(f"{report.machine.device}, {report.machine.threads} threads", 120),
            "busy" if report.machine.busy else "",
        )
        for report in reversed(ordered)
    ]
    columns = ("date", "commit", "bundle", "device", "load")
    table = _table("The newest first", columns, body, texts=columns)
    return element("details", element("summary", f"The {len(ordered)} reports"), table)


def _table(caption: str, columns: Sequence[str], rows: Sequence[Cells], texts: Sequence[str] = ()) -> Markup:
    """The first column names the rows; of the others those in ``texts`` are words, the rest numbers."""
    kinds = ["text" if column in texts else "number" for column in columns]
    head = [element("th", column, scope="col", class_=kind) for column, kind in zip(columns, kinds, strict=True)]
    body = [
        element(
            "tr",
            element("th", cells[0], scope="row"),
            *(element("td", cell, class_=kind) for cell, kind in zip(cells[1:], kinds[1:], strict=True)),
        )
        for cells in rows
    ]
    table = element(
        "table", element("caption", caption), element("thead", element("tr", *head)), element("tbody", *body)
    )
    return element("div", table, class_="table")


def _speed(row: Row) -> Cells:
    if not row.seconds:
        return NOTHING, ""
    spread = element("small", f"± {percent(row.spread)} %")
    return fragment(duration(row.median), spread), "" if row.rate is None else number(row.rate)


def _share(row: Row) -> Child:
    value, _, what = share(row).partition(" ")
    return fragment(value, element("small", what)) if value else None


def _row_name(row: Row) -> Markup:
    return fragment(text(row.name), element("small", text(row.system)))


def _system(peer: Peer) -> Markup:
    return fragment(text(peer.system), element("small", text(peer.version)) if peer.version else None)


def _missing(rows: Sequence[Row]) -> Markup | None:
    found = [_warning(row.name, f"{_of(row)} was not measured: {text(row.missing)}") for row in rows if not row.seconds]
    return fragment(*found) if found else None


def _warning(subject: str, said: str) -> Markup:
    return element("p", element("strong", text(subject)), said, class_="warning")


def _of(row: Row) -> str:
    return "" if row.system == OWN else f" of {text(row.system)}"


def _absent(found: Sequence[Peer]) -> Markup | None:
    said = [_warning(one.system, f" did not run: {text(one.missing)}") for one in found if one.missing is not None]
    return fragment(*said) if said else None


def _facts(facts: Mapping[str, str | None]) -> Markup:
    entries = [
        element("div", element("dt", name), element("dd", text(said, 2000))) for name, said in facts.items() if said
    ]
    return element("dl", *entries, class_="facts")


def _code(title: str, report: Report) -> Markup:
    content = element("pre", text(report.command, 2000)), element("pre", json.dumps(report.workload, indent=1)[:20_000])
    return element("details", element("summary", title), *content)


def _bytes(count: int | None) -> str:
    return NOTHING if count is None else size(count)


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
