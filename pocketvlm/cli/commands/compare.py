"""``pocketvlm compare``: whether a bundle became slower, larger or different."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pocketvlm.cli.console import Unusable, print_table
from pocketvlm.cli.printing import rich_console
from pocketvlm.errors import ResultsError, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from pocketvlm.bench.gate.compare import Change, GateComparison

#: So many names are listed in a line.
MOST_NAMES = 8
STYLES = {"regressed": "red", "improved": "green", "too noisy to say": "yellow"}


@click.command("compare")
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("new", required=False, type=click.Path(path_type=Path))
@click.option("--gate", type=click.Path(path_type=Path), metavar="FILE", help="How much worse NEW may be (TOML).")
@click.option("--force", is_flag=True, help="Compare results of two machines or workloads all the same.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, base: Path, new: Path | None, gate: Path | None, force: bool, as_json: bool) -> None:
    """Hold NEW to BASE, two files that pocketvlm bench --save wrote, or hold one file of bench --interleave.

    Exit status 1 means that something became worse than the gate lets it, 2 that nothing can be said: a file that is
    cut off or is something else, a metric that BASE lacks, results of two machines, or a gate file that is wrong.
    """
    try:
        found = _compare(base, new, gate, force=force)
    except ResultsError as error:
        if ctx.find_root().params.get("debug"):
            raise
        raise Unusable(str(error)) from error
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=1))
    else:
        show(found, rich_console())
    if not found.gated:
        raise Unusable(
            "nothing was held to the gate: neither counts, nor memory, nor speeds of pinned clocks are there"
        )
    if found.failed:
        ctx.exit(1)


def show(comparison: GateComparison, console: Console) -> None:
    """Print the two results, what became of each metric, and a line that sums it up."""
    from rich.text import Text

    def say(text: str, style: str = "") -> None:
        # Text, not markup: a bundle may be called [bold].
        console.print(Text(text, style), soft_wrap=True)

    say(f"base: {comparison.base}")
    say(f"new:  {comparison.new}")
    shown = [one for one in comparison.findings if not (one.exact and one.verdict == "same")]
    if shown:
        print_table(console, _table(shown))
        say(f"change: + takes longer or is more; in brackets the {100 * comparison.confidence:g} % interval", "dim")
    if same := len(comparison.findings) - len(shown):
        say(f"{same} counts are the same")
    for why in dict.fromkeys(one.why for one in comparison.findings if not one.gated and one.why):
        say(f"not gated ({why}): {_names([one for one in comparison.findings if not one.gated and one.why == why])}")
    for note in comparison.notes:
        say(f"note: {note}", "yellow")
    say(summary(comparison), "bold red" if comparison.failed else "")


def summary(comparison: GateComparison) -> str:
    """One line: whether it passed, and which metrics did not."""
    regressed, noisy = comparison.having("regressed"), comparison.having("too noisy to say")
    facts = []
    if regressed:
        facts.append(f"{len(regressed)} regressed: {_names(regressed)}")
    if improved := comparison.having("improved"):
        facts.append(f"{len(improved)} improved")
    if noisy:
        facts.append(f"{len(noisy)} too noisy to say: {_names(noisy)}")
    how = "FAILED" if comparison.failed else "passed" if comparison.gated else "no verdict"
    plural = "" if comparison.gated == 1 else "s"
    return "; ".join([f"{how}: {comparison.gated} gated metric{plural} by {comparison.gate}", *facts])


def _compare(base: Path, new: Path | None, gate: Path | None, *, force: bool) -> GateComparison:
    from pocketvlm.bench.gate.compare import check_comparable, compare_interleaved, compare_reports
    from pocketvlm.bench.gate.gate import load_gate
    from pocketvlm.bench.gate.interleaved import read_interleaved
    from pocketvlm.bench.report.schema import read_report

    bounds = load_gate(gate)
    if new is None:
        return compare_interleaved(read_interleaved(base), bounds)
    old, young = read_report(base), read_report(new)
    return compare_reports(old, young, bounds, check_comparable(old, young, force=force))


def _table(findings: Sequence[Change]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("metric", "base", "new", "change", "verdict")
    for column in table.columns[1:4]:
        column.justify, column.no_wrap = "right", True
    for one in findings:
        style = STYLES.get(one.verdict or "", "") if one.gated else "dim"
        values = (_value(value, one) for value in (one.base, one.new))
        table.add_row(Text(one_line(one.metric, 80)), *values, _change(one), Text(_verdict(one), style))
    return table


def _value(value: float | None, finding: Change) -> str:
    from pocketvlm.bench.report.text import duration, size

    if value is None:
        return ""
    if finding.unit == "s":
        return duration(value)
    if finding.exact:
        return f"{int(value):,}" + (" B" if finding.unit == "bytes" else "")
    return size(int(value))


def _change(finding: Change) -> str:
    if finding.ratio is None:
        return ""
    if finding.low is None or finding.high is None:
        return "" if finding.ratio == 1 else f"{_percent(finding.ratio)} %"
    return f"{_percent(finding.ratio)} % [{_percent(finding.low)}, {_percent(finding.high)}]"


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+,.1f}"


def _verdict(finding: Change) -> str:
    """In brackets where it does not count."""
    said = finding.verdict or "no bound"
    if not finding.gated:
        return f"({said})"
    return f"{said}: {finding.why}" if finding.why else said


def _names(findings: Sequence[Change]) -> str:
    names = [one_line(one.metric, 80) for one in findings]
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
