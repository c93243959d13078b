"""Each repetition of each row as a strip: how far it lies from the row's median."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pocketvlm.bench.report.plots.history import spread_out
from pocketvlm.bench.report.plots.svg import INK, MUTED, SERIES, short, svg
from pocketvlm.bench.report.schema import OWN
from pocketvlm.bench.report.text import percent
from pocketvlm.bench.statistics.summary import quartiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from pocketvlm.bench.report.schema import Row

#: Rows, and repetitions of a row, that are drawn.
MOST_ROWS, MOST_POINTS = 30, 100
#: Where one repetition is farther away than the first, in %, the axis is logarithmic outside of the second.
FAR, NEAR = 60.0, 10.0
LONGEST_LABEL = 30


def deviations(row: Row) -> list[float]:
    """Of the repetitions, sorted, in % of the median; of many, those evenly spread in rank with both ends."""
    ordered = sorted(row.seconds)
    kept = [ordered[0], *(ordered[at] for at in spread_out(len(ordered), MOST_POINTS)[1:])]
    return [100 * (value / row.median - 1) for value in kept]


def draw_spread(rows: Sequence[Row], name: str) -> str:
    """An SVG of the first ``MOST_ROWS`` rows, all of which were measured."""
    rows = rows[:MOST_ROWS]
    samples = [deviations(row) for row in rows]
    lowest, highest = min(map(min, samples)), max(map(max, samples))

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=MUTED, linewidth=0.8)
        for place, (row, values) in enumerate(zip(rows, samples, strict=True)):
            color = SERIES[0] if row.system == OWN else SERIES[1]
            low, middle, high = quartiles(row.seconds)
            box = [100 * (low / middle - 1), 100 * (high / middle - 1)]
            axes.plot(box, [place, place], color=color, alpha=0.3, linewidth=7, solid_capstyle="butt")
            axes.plot(values, [place] * len(values), "o", color=color, alpha=0.65, markersize=4, markeredgewidth=0)
        axes.set_yticks(range(len(rows)), [label(row) for row in rows], color=INK)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        set_scale(axes, lowest, highest)
        axes.set_xlabel("% from the row's median time")
        axes.grid(axis="x")
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)

    widest = max(rows, key=lambda row: row.spread)
    alt = f"Repetitions of {len(rows)} rows. The widest spread has {widest.name}: {percent(widest.spread)} %"
    return svg(draw, height=0.6 + 0.23 * len(rows), name=name, alt=alt)


def set_scale(axes: Axes, lowest: float, highest: float) -> None:
    """Linear and symmetric; where a repetition is far away, logarithmic outside of ``NEAR``."""
    edge = max(-lowest, highest)
    if edge <= FAR:
        edge = max(2.0, 1.1 * edge)
        axes.set_xlim(-edge, edge)
        return
    axes.set_xscale("symlog", linthresh=NEAR, linscale=2)
    axes.set_xlim(min(1.3 * lowest, -NEAR), max(1.3 * highest, NEAR))
    # In words of our own: matplotlib writes powers of ten as formulas.
    axes.set_xticks(far_ticks(edge), [f"{tick:,.0f}" if abs(tick) < 1e5 else f"{tick:.0e}" for tick in far_ticks(edge)])
    axes.set_xticks([], minor=True)


def far_ticks(edge: float) -> list[float]:
    """0, both ends of the linear part, and at most three powers of ten beyond it; nothing is 100 % faster."""
    powers = range(2, max(3, int(math.log10(edge)) + 1))
    return [-NEAR, 0.0, NEAR, *(10.0**power for power in powers[:: -(-len(powers) // 3)])]


def label(row: Row) -> str:
    """The row, and its system where that is another."""
    return short(row.name if row.system == OWN else f"{row.name}, {row.system}", LONGEST_LABEL)
