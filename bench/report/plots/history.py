"""A row over the reports: medians on a line, quartiles as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketvlm.bench.report.plots.svg import MUTED, PAPER, svg
from pocketvlm.bench.report.text import number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from pocketvlm.bench.report.history import Panel

HEIGHT = 2.0
MOST_LABELS = 5
#: An axis spans at least this share of its middle: noise of one per cent shall not look like a cliff.
LEAST_SPAN = 0.2


def draw_panel(panel: Panel, labels: Sequence[str], colors: Mapping[str, str], name: str) -> str:
    """An SVG; ``labels`` of the reports, oldest first, ``colors`` by the label of a line."""

    def draw(axes: Axes) -> None:
        for line in panel.lines:
            at = [point.position for point in line.points]
            middles = [point.middle for point in line.points]
            below = [point.middle - point.low for point in line.points]
            above = [point.high - point.middle for point in line.points]
            color = colors[line.label]
            axes.errorbar(at, middles, (below, above), fmt="none", ecolor=color, alpha=0.5, elinewidth=2.5)
            axes.plot(at, middles, "-o", color=color, markersize=4.5, markeredgecolor=PAPER, markeredgewidth=0.7)
        ticks = spread_out(len(labels), MOST_LABELS)
        axes.set_xticks(ticks, [labels[tick] for tick in ticks])
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.set_ylim(*limits(panel))
        axes.locator_params(axis="y", nbins=4)
        axes.grid(axis="y")
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylabel(panel.unit, color=MUTED)

    newest = "; ".join(f"{line.label}: {number(line.points[-1].middle)} {panel.unit}" for line in panel.lines)
    alt = f"{panel.name} over {len(labels)} reports. The newest of each line: {newest}"
    return svg(draw, height=HEIGHT, name=name, alt=alt)


def spread_out(count: int, most: int) -> list[int]:
    """At most so many of the positions from 0 on, evenly apart, the last one among them."""
    step = max(1, -(-count // most))
    return list(range(count - 1, -1, -step))[::-1]


def limits(panel: Panel) -> tuple[float, float]:
    """Of the axis: all points and their quartiles, and no less than ``LEAST_SPAN`` of the middle."""
    low = min(point.low for line in panel.lines for point in line.points)
    high = max(point.high for line in panel.lines for point in line.points)
    middle = (low + high) / 2
    half = max((high - low) * 0.6, middle * LEAST_SPAN / 2)
    return max(0.0, middle - half), middle + half
