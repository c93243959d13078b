"""The report as one HTML file: no script, nothing from elsewhere, light or dark, as wide as a phone or a desk's screen.

The newest report is shown in full, the older ones as a history. All text of a report is escaped, and a policy in the
page's head forbids scripts and requests even so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pocketvlm.bench.report.formats.html import tables
from pocketvlm.bench.report.formats.html.headline import cards
from pocketvlm.bench.report.history import comparable, date_of, in_order, moments, panels
from pocketvlm.bench.report.plots import check_packages
from pocketvlm.bench.report.plots.first_token import COLORS, MEASURED, bars, draw_first_token
from pocketvlm.bench.report.plots.history import draw_panel
from pocketvlm.bench.report.plots.memory import draw_over_time, draw_phases
from pocketvlm.bench.report.plots.spread import FAR, MOST_POINTS, MOST_ROWS, draw_spread
from pocketvlm.bench.report.plots.svg import SERIES, series_color, variable
from pocketvlm.bench.report.text import duration, limits, own, peer_rows
from pocketvlm.errors import ResultsError, one_line, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Template
    from markupsafe import Markup

    from pocketvlm.bench.report.formats.html.tables import PageTable
    from pocketvlm.bench.report.schema import Report

#: Reports of a history, and rows of it, that are drawn.
MOST_REPORTS, MOST_PANELS = 60, 24
#: Letters of the workload that are shown.
MOST_WORKLOAD = 20_000
TEMPLATE = Path(__file__).with_name("page.html.jinja")
#: Colours of the plots, and what they mean.
Legend = list[tuple[str, str]]


@dataclass(frozen=True)
class Plot:
    """``svg`` is the only text of the page that is taken as it is."""

    title: str
    svg: str
    note: str = ""
    legend: Legend | None = None


@dataclass(frozen=True)
class PageHistory:
    """The section of the reports before."""

    note: str
    legend: Legend
    figures: list[Plot]
    reports: PageTable


def render_html(reports: Sequence[Report]) -> str:
    """A whole page. The newest by date is shown in full; by order where a date cannot be read.

    :raises ResultsError: there is no report, or a package is not installed
    """
    if not reports:
        raise ResultsError("no results, no report: give at least one file of pocketvlm bench --save")
    check_packages("a report in HTML")
    ordered = in_order(reports)[-MOST_REPORTS:]
    newest = ordered[-1]
    before = next((report for report in reversed(ordered[:-1]) if comparable(report, newest)), None)
    rendered = page().render(
        report=newest,
        subtitle=_subtitle(newest),
        cards=cards(newest, before),
        speed_figures=[plot for plot in (_first_token(newest), _spread(newest)) if plot],
        speeds=tables.speeds(newest),
        not_measured=tables.not_measured(own(newest)),
        limits=limits(newest),
        peer_speeds=tables.peer_speeds(newest),
        peers_not_measured=tables.not_measured(peer_rows(newest)),
        peers=tables.peers(newest),
        absent=tables.absent(newest),
        memory_figures=_memory(newest),
        memory=tables.memory(newest),
        history=_history(ordered) if len(ordered) > 1 else None,
        machine=tables.machine(newest),
        workload=json.dumps(newest.workload, indent=1)[:MOST_WORKLOAD],
        bundle=tables.bundle(newest),
        counts=tables.counts(newest),
    )
    return printable(rendered)  # also what stands inside the plots


@cache
def page() -> Template:
    """The template: whatever it puts into the page is on one line, without control characters, and escaped.

    ``line`` is a filter that does the same to at most so many letters.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    def line(value: object, most: int = 300) -> Markup:
        return value if isinstance(value, Markup) else escape(one_line(value, most))

    environment = Environment(
        autoescape=True, finalize=line, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["line"] = line
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _subtitle(report: Report) -> list[str]:
    machine, date = report.machine, date_of(report)
    return [
        machine.device,
        machine.summary,
        machine.date if date is None else f"{date:%Y-%m-%d %H:%M} UTC",
        *(["clocks pinned"] if machine.pinned else []),
        *([f"commit {machine.commit[:12]}"] if machine.commit else []),
    ]


def _first_token(report: Report) -> Plot | None:
    found = bars(report)
    if not found:
        return None
    parts = {(part.phase, part.label): part for bar in found for part in bar.parts}
    in_turn = sorted(parts.values(), key=lambda part: list(COLORS).index(part.phase))
    legend = [(variable(COLORS[one.phase]), f"{one_line(one.label, 80)} {duration(one.seconds)}") for one in in_turn]
    note = "Phases that were measured one by one, put together."
    if any(bar.label == MEASURED for bar in found):
        note += " The last bar was measured as one, in a loaded engine, with patch embedding beside the encoder."
    return Plot("Time to the first token", draw_first_token(found, "first"), note, legend)


def _spread(report: Report) -> Plot | None:
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
    return Plot("Spread of the repetitions", draw_spread(rows, "spread"), note)


def _memory(report: Report) -> list[Plot]:
    figures = []
    if report.memory_over_time:
        drawn = draw_over_time(report.memory_over_time, report.memory, "over-time")
        note = "In a process of its own." + (" Dotted: what was left after each phase." if report.memory else "")
        figures.append(Plot("Resident memory over time", drawn, note))
    if report.memory:
        legend = [(variable(SERIES[0]), "anonymous"), (variable(SERIES[4]), "mapped from files")]
        note = "The bundle's mapped weights can be dropped and read again. The line is the peak so far."
        figures.append(Plot("Resident memory by phase", draw_phases(report.memory, "phases"), note, legend))
    return figures


def _history(ordered: Sequence[Report]) -> PageHistory:
    found, labels = panels(ordered), moments(ordered)
    lines = list(dict.fromkeys(line.label for panel in found for line in panel.lines))
    colors = {label: series_color(number) for number, label in enumerate(lines)}
    figures = [
        Plot(one_line(panel.name, 80), draw_panel(panel, labels, colors, f"history{number}"))
        for number, panel in enumerate(found[:MOST_PANELS])
    ]
    legend = [(variable(colors[label]), label) for label in lines] if len(lines) > 1 else []
    note = f"{len(ordered)} reports, the oldest at the left. Medians, and bars between the quartiles."
    if len(found) > MOST_PANELS:
        note += f" The first {MOST_PANELS} of {len(found)} rows."
    return PageHistory(note, legend, figures, tables.reports(ordered))
