"""What became of a measurement: printed, and written to files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pocketvlm.cli.console import print_report

if TYPE_CHECKING:
    from pocketvlm.bench.report.schema import Report, Row


def write_report(report: Report, form: str, save: Path | None, html: Path | None) -> None:
    """Print a report and write its files."""
    from pocketvlm.files import write_whole

    if save is not None:
        write_whole(save, json.dumps(report.as_dict(), indent=1) + "\n")
    if html is not None:
        from pocketvlm.bench.report.formats.html import render_html

        write_whole(html, render_html([report]))
    print_report(report, form)


def print_phones(reports: Sequence[Report], failures: Sequence[str]) -> None:
    """Several phones in one table, tokens a second or seconds by the rows that they have; below it what failed."""
    from rich.table import Table
    from rich.text import Text

    from pocketvlm.bench.report.text import own
    from pocketvlm.cli.console import print_table
    from pocketvlm.cli.printing import rich_console
    from pocketvlm.errors import one_line

    console = rich_console()
    rows = list(dict.fromkeys(row.name for report in reports for row in own(report)))
    table = Table("phone", "host", *rows)
    for report in reports:
        measured = {row.name: row for row in own(report) if row.seconds}
        cells = [_speed(measured[name]) if name in measured else "" for name in rows]
        phone = f"{report.machine.device}\n{report.target.partition(':')[2]}"
        table.add_row(Text(phone), Text(one_line(report.host or "")), *cells)
    print_table(console, table)
    for failure in failures:
        console.print(Text(f"missing: {one_line(failure)}"), soft_wrap=True)


def _speed(row: Row) -> str:
    return f"{row.median:.4g} s" if row.rate is None else f"{row.rate:,.1f}/s"
