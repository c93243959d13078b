"""How a report is printed. A format is one file here and one line in ``FORMATS``.

``table`` is for a terminal and takes its console, ``html`` and ``github`` make files: they are called by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from pocketvlm.errors import ResultsError, one_line

if TYPE_CHECKING:
    from pocketvlm.bench.report.schema import Report

#: format name -> "module:function", from a report to its text, which ends with a newline
FORMATS: dict[str, str] = {
    "md": "pocketvlm.bench.report.formats.md:render_md",
    "csv": "pocketvlm.bench.report.formats.csv:render_csv",
    "json": "pocketvlm.bench.report.formats.json:render_json",
    "jsonl": "pocketvlm.bench.report.formats.json:render_jsonl",
}


def render(report: Report, form: str) -> str:
    """The report in one of ``FORMATS``.

    :raises ResultsError: there is no such format
    """
    if form not in FORMATS:
        raise ResultsError(f"there is no format {one_line(form, 40)!r}: choose one of {', '.join(FORMATS)}")
    module, _, function = FORMATS[form].partition(":")
    rendered: Callable[[Report], str] = getattr(importlib.import_module(module), function)
    return rendered(report)
