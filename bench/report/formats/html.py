"""The report as one HTML file: no script, nothing from elsewhere, light or dark, as wide as a phone or a desk's screen.

The newest report is shown in full, the older ones as a history. All text of a report is escaped, and a policy in the
page's head forbids scripts and requests even so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketvlm.bench.report.formats import tables
from pocketvlm.bench.report.formats.headline import cards
from pocketvlm.bench.report.formats.markup import Markup, element, fragment, text
from pocketvlm.bench.report.formats.style import CSS
from pocketvlm.bench.report.history import comparable, date_of, in_order, moments, panels
from pocketvlm.bench.report.plots import check_packages
from pocketvlm.bench.report.plots.first_token import COLORS, MEASURED, bars, draw_first_token
from pocketvlm.bench.report.plots.history import draw_panel
from pocketvlm.bench.report.plots.memory import draw_over_time, draw_phases
from pocketvlm.bench.report.plots.spread import FAR, MOST_POINTS, MOST_ROWS, draw_spread
from pocketvlm.bench.report.plots.svg import SERIES, series_color, variable
from pocketvlm.bench.report.text import duration
from pocketvlm.errors import ResultsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pocketvlm.bench.report.schema import Report

#: Reports of a history, and rows of it, that are drawn.
MOST_REPORTS, MOST_PANELS = 60, 24
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render_html(reports: Sequence[Report]) -> str:
    """A whole page. The newest by date is shown in full; by order where a date cannot be read.

    Raises:
        ResultsError: there is no report, or matplotlib is not installed.
    """
    if not reports:
        raise ResultsError("no results, no report: give at least one file of pocketvlm bench --save")
    check_packages("a report in HTML")
    ordered = in_order(reports)[-MOST_REPORTS:]
    newest = ordered[-1]
    title = f"{text(newest.bundle.model, 80)} {text(newest.bundle.recipe, 80)}"
    body = element(
        "body",
        _header(ordered),
        element(
            "main",
            _speed(newest),
            tables.peers(newest),
            _memory(newest),
            _history(ordered),
            tables.machine(newest),
            tables.bundle(newest),
        ),
        element("footer", "Made by pocketvlm report from results of schema ", element("code", newest.schema_name)),
    )
    return f"<!doctype html>\n{element('html', _head(title), body, lang='en')}\n"


def section(title: str, *children: Markup | None) -> Markup | None:
    """A part of the page under its title; nothing where it would be empty."""
    found = [child for child in children if child]
    return element("section", element("h2", title), *found) if found else None


def _head(title: str) -> Markup:
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", f"{title} - pocketvlm bench"),
        element("style", Markup(CSS)),
    )


def _header(ordered: Sequence[Report]) -> Markup:
    newest = ordered[-1]
    machine, bundle = newest.machine, newest.bundle
    before = next((report for report in reversed(ordered[:-1]) if comparable(report, newest)), None)
    date = date_of(newest)
    facts = [
        machine.device,
        machine.summary,
        machine.date if date is None else f"{date:%Y-%m-%d %H:%M} UTC",
        *(["clocks pinned"] if machine.pinned else []),
    ]
    facts += [f"commit {machine.commit[:12]}"] if machine.commit else []
    title = element("h1", text(bundle.model, 80), " ", element("small", text(bundle.recipe, 80)))
    warning = machine.busy and element(
        "p", element("strong", "The machine was busy: "), text(machine.busy), class_="warning", role="note"
    )
    subtitle = element("p", " · ".join(text(fact, 200) for fact in facts), class_="note")
    return element("header", title, subtitle, warning or None, cards(newest, before))


def _figure(title: str, note: str, drawn: str, below: Markup | None = None) -> Markup:
    caption = element("figcaption", title, element("small", note) if note else None)
    return element("figure", caption, Markup(drawn), below)


def _legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """Colours of the plots and what they mean."""
    items = [
        element("li", element("i", style=f"--color:{variable(color)}", aria_hidden="true"), label)
        for color, label in entries
    ]
    return element("ul", *items, class_="legend")


def _first_token(report: Report) -> Markup | None:
    found = bars(report)
    if not found:
        return None
    parts = {(part.phase, part.label): part for bar in found for part in bar.parts}
    in_turn = sorted(parts.values(), key=lambda part: list(COLORS).index(part.phase))
    legend = _legend([(COLORS[one.phase], f"{text(one.label, 80)} {duration(one.seconds)}") for one in in_turn])
    note = "Phases that were measured one by one, put together."
    if any(bar.label == MEASURED for bar in found):
        note += " The last bar was measured as one, in a loaded engine, with patch embedding beside the encoder."
    return _figure("Time to the first token", note, draw_first_token(found, "first"), legend)


def _spread(report: Report) -> Markup | None:
    rows = [row for row in report.rows if row.seconds]
    if not rows:
        return None
    note = "Each dot is a repetition, each bar lies between the quartiles."
    if len(rows) > MOST_ROWS:
        note += f" The first {MOST_ROWS} of {len(rows)} rows."
    if any(len(row.seconds) > MOST_POINTS for row in rows):
        note += f" Of more than {MOST_POINTS}, as many are drawn."
    if any(abs(value / row.median - 1) * 100 > FAR for row in rows[:MOST_ROWS] for value in row.seconds):
        note += " Beyond 10 % the scale is logarithmic."
    return _figure("Spread of the repetitions", note, draw_spread(rows, "spread"))


def _speed(report: Report) -> Markup | None:
    figures = [drawn for drawn in (_first_token(report), _spread(report)) if drawn]
    plots = element("div", *figures, class_="plots wide") if figures else None
    return section("Speed", plots, tables.speeds(report))


def _memory(report: Report) -> Markup | None:
    figures = []
    if report.memory_over_time:
        drawn = draw_over_time(report.memory_over_time, report.memory, "over-time")
        note = "In a process of its own." + (" Dotted: what was left after each phase." if report.memory else "")
        figures.append(_figure("Resident memory over time", note, drawn))
    if report.memory:
        legend = _legend([(SERIES[0], "anonymous"), (SERIES[4], "mapped from files")])
        note = "The bundle's mapped weights can be dropped and read again. The line is the peak so far."
        figures.append(_figure("Resident memory by phase", note, draw_phases(report.memory, "phases"), legend))
    if not figures:
        return None
    return section("Memory", element("div", *figures, class_="plots wide"), tables.memory(report))


def _history(ordered: Sequence[Report]) -> Markup | None:
    if len(ordered) < 2:
        return None
    found, labels = panels(ordered), moments(ordered)
    lines = list(dict.fromkeys(line.label for panel in found for line in panel.lines))
    colors = {label: series_color(number) for number, label in enumerate(lines)}
    figures = [
        _figure(text(panel.name, 80), "", draw_panel(panel, labels, colors, f"history{number}"))
        for number, panel in enumerate(found[:MOST_PANELS])
    ]
    legend = _legend([(colors[label], text(label)) for label in lines]) if len(lines) > 1 else None
    note = f"{len(ordered)} reports, the oldest at the left. Medians, and bars between the quartiles."
    if len(found) > MOST_PANELS:
        note += f" The first {MOST_PANELS} of {len(found)} rows."
    plots = element("div", *figures, class_="plots")
    return section("History", fragment(element("p", note, class_="note"), legend, plots, tables.reports(ordered)))
