"""The whole report as JSON, which is read back; and its rows as lines of JSON, as llama-bench's jsonl."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pocketvlm.bench.report.schema import Report

#: What belongs to no row.
NOT_OF_A_ROW = ("rows", "memory", "memory_over_time", "counts")


def render_json(report: Report) -> str:
    """What ``--save`` writes and ``parse_report`` reads."""
    return json.dumps(report.as_dict(), indent=1, allow_nan=False) + "\n"


def render_jsonl(report: Report) -> str:
    """A line for each row: the row's keys beside those that all of them share. Memory and counts are left out."""
    values = report.as_dict()
    shared = {key: value for key, value in values.items() if key not in NOT_OF_A_ROW}
    return "".join(json.dumps({**shared, **row}, allow_nan=False) + "\n" for row in values["rows"])
