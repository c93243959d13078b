"""``pocketvlm report``: results of benchmarks as a page with plots, a table, or files for others to read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pocketvlm.cli.console import Unusable, print_report
from pocketvlm.errors import ResultsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pocketvlm.bench.report.schema import Report


PAGE = "html"


@click.command("report")
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
    help="Write it there: .html, a page with plots, or the newest as .md, .csv, .json or .jsonl.",
)  # fmt: skip
@click.option(
    "-f", "--format", "form", type=click.Choice(["table", "md", "csv", "json", "jsonl"]),
    help="Print the newest in this form.  [default: table, where no file is asked for]",
)  # fmt: skip
@click.option(
    "--github", type=click.Path(path_type=Path), metavar="DIR",
    help="Write the newest there as the two files that github-action-benchmark reads.",
)  # fmt: skip
@click.pass_context
def command(
    ctx: click.Context, results: tuple[Path, ...], output: Path | None, form: str | None, github: Path | None
) -> None:
    """Show RESULTS, files that pocketvlm bench --save wrote: the newest in full, the older ones as its history.

    They are put in order by their dates. Exit status 2 means that a file is no such result, or is cut off.
    """
    from pocketvlm.bench.report.history import in_order

    _check(results, output)
    newest_last = in_order(_read(ctx, results))
    if output is not None:
        _write(newest_last, output)
    if github is not None:
        from pocketvlm.bench.report.formats.github import write_github

        for path in write_github(newest_last[-1], github):
            click.echo(f"wrote {path}", err=True)
    if form is not None or (output is None and github is None):
        print_report(newest_last[-1], form or "table")


def _check(results: Sequence[Path], output: Path | None) -> None:
    """Refuse an output that cannot be written or is one of the results before any work is done."""
    from pocketvlm.bench.report.formats import FORMATS
    from pocketvlm.bench.report.plots import check_packages
    from pocketvlm.files import check_writable

    if output is None:
        return
    if output.exists() and any(path.exists() and output.samefile(path) for path in results):
        raise click.UsageError(f"-o names a file of results: choose another file than {output}")
    check_writable(output)
    if _form(output) not in (*FORMATS, PAGE):
        endings = ", ".join(f".{form}" for form in (PAGE, *FORMATS))
        raise click.UsageError(f"-o {output}: its ending says what is written: {endings}")
    if _form(output) == PAGE:
        check_packages("a report in HTML")


def _read(ctx: click.Context, results: Sequence[Path]) -> list[Report]:
    from pocketvlm.bench.report.schema import read_report

    try:
        return [read_report(path) for path in results]
    except ResultsError as error:
        if ctx.find_root().params.get("debug"):
            raise
        raise Unusable(str(error)) from error


def _form(output: Path) -> str:
    """The format that a file's ending names."""
    return {"htm": PAGE}.get(ending := output.suffix[1:].lower(), ending)


def _write(reports: Sequence[Report], output: Path) -> None:
    from pocketvlm.bench.report.formats import render
    from pocketvlm.files import write_whole

    if _form(output) == PAGE:
        from pocketvlm.bench.report.formats.html import render_html

        write_whole(output, render_html(reports))
    else:
        write_whole(output, render(reports[-1], _form(output)))
    click.echo(f"wrote {output}", err=True)
