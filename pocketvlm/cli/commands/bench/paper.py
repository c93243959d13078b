"""``pocketvlm bench --paper``: the paper's table of speeds in form, beside what it published of another machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pocketvlm.cli.printing import rich_console

if TYPE_CHECKING:
    from pocketvlm.bench.report.schema import Report
    from pocketvlm.bench.speed.workload import Workload


def of_paper(bundle: Path, workload: Workload) -> Workload:
    """The paper's workload, with the repetitions and threads asked for."""
    from pocketvlm.bench.speed.paper import paper_workload
    from pocketvlm.bundle.open import open_bundle

    return paper_workload(open_bundle(bundle).manifest, workload.threads, workload.repeats, workload.warmups)


def print_paper(report: Report) -> None:
    """A line of this machine, and those that were published."""
    from rich.table import Table

    from pocketvlm.bench.speed.paper import COLUMNS, PaperLine, paper_line
    from pocketvlm.cli.console import print_table
    from pocketvlm.plan import DEFAULT_DEVICE, published

    here = paper_line(report)
    table = Table("768x1536 image, 2,048 tokens", *(f"{heading}, {unit}" for heading, unit in COLUMNS.values()))
    there = (PaperLine(f"published: {one.system}", one.values, one.note) for one in published(DEFAULT_DEVICE))
    for line in (here, *there):
        table.add_row(line.system, *(f"{line.values[name]:.3g}" if name in line.values else "" for name in COLUMNS))
    console = rich_console()
    print_table(console, table)
    console.print(f"this machine: {here.note}. The published numbers are of another machine, a phone.", highlight=False)
