"""Tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketvlm.bench.report.text import NOTHING, limits, own, peer_rows, percent, share, times_ours, took, what
from pocketvlm.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pocketvlm.bench.report.schema import Memory, Report, Row


def print_table(report: Report, console: Console) -> None:
    """Speed of the bundle, of its peers with the ratio to it, memory by phase, and what stands against the numbers."""
    from rich.text import Text

    def say(text: str, style: str = "") -> None:
        # Text, not markup: a bundle may be called [bold].
        console.print(Text(text, style), soft_wrap=True)

    say(f"{what(report)}; {one_line(report.machine.summary, 300)}")
    console.print(_speeds(own(report)))
    if sentence := limits(report):
        say(sentence)
    if others := peer_rows(report):
        console.print(_peers(report, others))
    for row in report.rows:
        if not row.seconds:
            say(f"{one_line(row.name)} ({one_line(row.system)}) was not measured: {one_line(row.missing)}", "yellow")
    for peer in report.peers:
        if peer.missing is not None:
            say(f"{one_line(peer.system)} did not run: {one_line(peer.missing)}", "yellow")
        elif export := took(peer):
            say(f"{one_line(peer.system)} took for its export {export}")
    if report.memory:
        console.print(_memory(report.memory))
    if report.machine.busy:
        say(f"warning: {one_line(report.machine.busy)}", "yellow")


def _speeds(rows: Sequence[Row]) -> Table:
    table = _table("row", "seconds", "± %", "tokens/s", "of the limit")
    for row in rows:
        table.add_row(_text(row.name), *_speed(row), share(row))
    return table


def _peers(report: Report, rows: Sequence[Row]) -> Table:
    table = _table("row", "system", "seconds", "± %", "tokens/s", "to ours")
    table.columns[1].justify = "left"
    for row in rows:
        times = times_ours(row, report)
        table.add_row(_text(row.name), _text(row.system), *_speed(row), "" if times is None else f"{times:.2f}x")
    return table


def _speed(row: Row) -> tuple[str, str, str]:
    if not row.seconds:
        return NOTHING, "", ""
    return f"{row.median:.4g}", percent(row.spread), "" if row.rate is None else f"{row.rate:,.1f}"


def _memory(phases: Sequence[Memory]) -> Table:
    table = _table("MB after", "resident", "of it anonymous", "mapped files", "peak so far")
    for phase in phases:
        values = (phase.resident, phase.anonymous, phase.mapped, phase.peak)
        table.add_row(_text(phase.phase), *(f"{value / 1e6:,.0f}" for value in values))
    return table


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(*columns)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _text(text: str) -> Text:
    from rich.text import Text

    return Text(one_line(text))
