"""A table in Markdown with llama-bench's columns: model first, test and tokens a second last, mean ± deviation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pocketvlm.bench.report.text import number, size
from pocketvlm.bench.statistics.summary import mean_and_deviation
from pocketvlm.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pocketvlm.bench.report.schema import Report, Row

COLUMNS = ("model", "recipe", "size", "KV cache", "system", "threads", "test", "seconds", "t/s")
NUMBERS = ("size", "threads", "seconds", "t/s")
#: What Markdown or HTML would take for its own.
SPECIAL = re.compile(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w))")


def render_md(report: Report) -> str:
    """The table, aligned; below it the machine, what was not measured, and a warning where the machine was busy."""
    machine = report.machine
    lines = aligned([COLUMNS, *(_cells(report, row) for row in report.rows)])
    notes = [f"{machine.device}, {machine.system} {machine.kernel}: {machine.summary}; {machine.date}"]
    notes += [f"{row.name} ({row.system}) was not measured: {row.missing}" for row in report.rows if not row.seconds]
    notes += [f"warning: {machine.busy}"] if machine.busy else []
    return "\n".join([*lines, *(f"\n{escaped(note, 2500)}" for note in notes)]) + "\n"


def escaped(text: str, most: int = 200) -> str:
    """Foreign text for a cell or a line: no control characters, nothing that Markdown or HTML takes for its own."""
    line = one_line(text, most).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return SPECIAL.sub(r"\\\1", line)


def aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Lines of a table whose first row is its head; numbers to the right."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    right = [name in NUMBERS for name in rows[0]]
    head, *body = (
        [
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(row, widths, right, strict=True)
        ]
        for row in rows
    )
    rule = [
        ("-" * (width - 1) + ":") if to_right else "-" * width for width, to_right in zip(widths, right, strict=True)
    ]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *body)]


def _cells(report: Report, row: Row) -> tuple[str, ...]:
    bundle = report.bundle
    return (
        escaped(bundle.model),
        escaped(bundle.recipe),
        size(bundle.bytes),
        bundle.kv_cache,
        escaped(row.system),
        str(report.machine.threads),
        escaped(row.name),
        _mean(row.seconds),
        _mean(row.rates),
    )


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    middle, deviation = mean_and_deviation(values)
    return f"{number(middle)} ± {number(deviation)}"
