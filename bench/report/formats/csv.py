"""Rows as CSV: fixed columns, one line a row, for spreadsheets as well."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from pocketvlm.bench.statistics.summary import mean_and_deviation
from pocketvlm.errors import one_line

if TYPE_CHECKING:
    from pocketvlm.bench.report.schema import Report, Row

#: A spreadsheet takes a cell that begins so for a formula.
FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # also full-width
SHARED = (
    "date", "commit", "target", "device", "cpu", "threads", "load_before", "busy", "pinned", "model", "revision",
    "recipe", "kv_cache", "bundle_bytes", "manifest_sha256",
)  # fmt: skip
OF_A_ROW = (
    "system", "phase", "test", "tokens", "repeats", "median_s", "spread", "min_s", "max_s", "avg_ts", "stddev_ts",
    "bytes_per_token", "bandwidth_share", "operations", "gemm_share", "missing",
)  # fmt: skip
COLUMNS = (*SHARED, *OF_A_ROW)


def render_csv(report: Report) -> str:
    """A header and a line for each row; what is not known is an empty cell. Lines end with a newline alone."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    shared = _shared(report)
    for row in report.rows:
        values = {**shared, **_of_a_row(row)}
        writer.writerow({name: cell(value) for name, value in values.items()})
    return stream.getvalue()


def cell(value: str | float | None) -> str | float:
    """Text on one line that no spreadsheet takes for a formula; a number as it is; None as nothing."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    text = one_line(value, 2000)
    return f"'{text}" if text.startswith(FORMULA) else text


def _shared(report: Report) -> dict[str, str | float | None]:
    machine, bundle = report.machine, report.bundle
    return {
        "date": machine.date,
        "commit": machine.commit,
        "target": report.target,
        "device": machine.device,
        "cpu": machine.cpu,
        "threads": machine.threads,
        "load_before": machine.load_before,
        "busy": machine.busy,
        "pinned": int(machine.pinned),
        "model": bundle.model,
        "revision": bundle.revision,
        "recipe": bundle.recipe,
        "kv_cache": bundle.kv_cache,
        "bundle_bytes": bundle.bytes,
        "manifest_sha256": bundle.manifest_sha256,
    }


def _of_a_row(row: Row) -> dict[str, str | float | None]:
    values: dict[str, str | float | None] = {
        "system": row.system,
        "phase": row.phase,
        "test": row.name,
        "tokens": row.tokens,
        "repeats": len(row.seconds),
        "bytes_per_token": row.bytes_per_token,
        "bandwidth_share": row.bandwidth_share,
        "operations": row.operations,
        "gemm_share": row.gemm_share,
        "missing": row.missing,
    }
    if row.seconds:
        values |= {"median_s": row.median, "spread": row.spread, "min_s": min(row.seconds), "max_s": max(row.seconds)}
    if of_rates := row.rates:
        values["avg_ts"], values["stddev_ts"] = mean_and_deviation(of_rates)
    return values
