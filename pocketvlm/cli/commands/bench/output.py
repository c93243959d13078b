"""What became of a measurement: printed, and written to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pocketvlm.cli.console import print_report

if TYPE_CHECKING:
    from pocketvlm.bench.report.schema import Report


def write_report(report: Report, form: str, save: Path | None, html: Path | None) -> None:
    """Print a report and write its files."""
    from pocketvlm.files import write_whole

    if save is not None:
        write_whole(save, json.dumps(report.as_dict(), indent=1) + "\n")
    if html is not None:
        from pocketvlm.bench.report.formats.html import render_html

        write_whole(html, render_html([report]))
    print_report(report, form)
