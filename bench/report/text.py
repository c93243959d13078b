"""Numbers and rows in words: what the formats for people share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketvlm.bench.report.schema import OWN
from pocketvlm.errors import one_line

if TYPE_CHECKING:
    from pocketvlm.bench.report.schema import Peer, Report, Row

NOTHING = "\N{EN DASH}"


def number(value: float) -> str:
    """Three digits that count, or more before the point."""
    if value == 0:
        return "0"
    if value >= 1e15 or value < 0.1:
        return f"{value:.3g}"
    if value >= 99.95:
        return f"{value:,.0f}"
    if value >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.9995 else f"{value:.3f}"


def percent(share: float, digits: int = 1) -> str:
    """A share in per cent, without the sign."""
    return f"{100 * share:.{digits}f}" if share < 1e3 else f"{100 * share:.3g}"


def duration(seconds: float) -> str:
    """With its unit: s, ms or µs."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 0.9995 or unit == "µs":
            return f"{number(seconds * scale)} {unit}"
    raise AssertionError


def size(count: int) -> str:
    """Bytes with their unit: GB of 10^9 or MB of 10^6."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def share(row: Row) -> str:
    """How much of the machine's limit a row reaches; empty where nothing is known."""
    if row.bandwidth_share is not None:
        return f"{percent(row.bandwidth_share, 0)}% of reads"
    return f"{percent(row.gemm_share, 0)}% of products" if row.gemm_share is not None else ""


def own(report: Report) -> list[Row]:
    """The bundle's own rows."""
    return [row for row in report.rows if row.system == OWN]


def peer_rows(report: Report) -> list[Row]:
    """The rows of other systems that were measured beside it."""
    return [row for row in report.rows if row.system != OWN]


def times_ours(row: Row, report: Report) -> float | None:
    """How many times as fast as the bundle's own row of that name; None where one of them was not measured."""
    ours = next((one for one in own(report) if one.name == row.name and one.seconds), None)
    if ours is None or not row.seconds:
        return None
    if row.rate and ours.rate:
        return row.rate / ours.rate
    return ours.median / row.median


def took(peer: Peer) -> str:
    """Time and memory of a peer's own export; empty where it has none."""
    if peer.export_seconds is None:
        return ""
    memory = "" if peer.export_peak is None else f", {peer.export_peak / 1e9:.2f} GB of memory"
    return f"{peer.export_seconds:,.0f} s{memory}"


def what(report: Report) -> str:
    """Model, recipe and size of the bundle, on one line."""
    bundle = report.bundle
    return f"{one_line(bundle.model, 80)}, {one_line(bundle.recipe, 80)}, {bundle.bytes / 1e6:,.1f} MB"


def limits(report: Report) -> str:
    """What the machine reaches, as a sentence; empty where nobody measured it."""
    if report.limits is None:
        return ""
    return (
        f"the limits: memory is read at {number(report.limits.read_bandwidth / 1e9)} GB/s; float32 matrices are "
        f"multiplied at {number(report.limits.gemm_operations / 1e9)} GFLOPS (INT4 and INT8 can pass that)"
    )
