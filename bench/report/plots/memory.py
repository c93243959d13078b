"""Resident memory: over time, and by phase."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from pocketvlm.bench.report.plots.svg import INK, MUTED, PAPER, SERIES, short, svg
from pocketvlm.bench.report.text import size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from pocketvlm.bench.report.schema import Memory, MemorySample

#: Phases, and samples over time, that are drawn.
MOST_PHASES, MOST_SAMPLES = 20, 1000
MEGABYTE = 1e6
#: Height of a line of text by the height of the axes of ``draw_over_time``.
LINE_HEIGHT = 0.075


def draw_over_time(samples: Sequence[MemorySample], phases: Sequence[Memory], name: str) -> str:
    """An SVG; what was resident after each phase is marked at the right."""
    samples = samples[:: max(1, -(-len(samples) // MOST_SAMPLES))]
    times = [sample.seconds for sample in samples]
    resident = [sample.resident / MEGABYTE for sample in samples]
    top = max(*resident, *(phase.resident / MEGABYTE for phase in phases), 1.0) * 1.08
    marks = [phase.resident / MEGABYTE for phase in phases[:MOST_PHASES]]

    def draw(axes: Axes) -> None:
        axes.fill_between(times, resident, color=SERIES[0], alpha=0.15, linewidth=0)
        axes.plot(times, resident, color=SERIES[0], linewidth=1.4)
        places = apart([mark / top for mark in marks], min(LINE_HEIGHT, 1 / max(1, len(marks))))
        for phase, mark, place in zip(phases, marks, places, strict=False):
            axes.axhline(mark, color=MUTED, linewidth=0.7, linestyle=(0, (2, 3)))
            axes.annotate(
                short(phase.phase, 22), (1, mark / top), (1.03, place), "axes fraction", "axes fraction",
                arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 0},
                va="center", color=INK, fontsize=9,
            )  # fmt: skip
        axes.set_ylim(0, top)
        axes.set_xlim(times[0], times[-1] if times[-1] > times[0] else times[0] + 1)
        axes.set(xlabel="seconds", ylabel="resident, MB")
        axes.grid(axis="y")
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)

    peak = max(sample.resident for sample in samples)
    alt = f"Resident memory over {times[-1]:.3g} seconds; the largest sample is {size(peak)}"
    return svg(draw, height=2.9, name=name, alt=alt)


def apart(places: Sequence[float], distance: float) -> list[float]:
    """Places for labels, in the order given: pushed from one another where they are closer, and below 1."""
    order = sorted(range(len(places)), key=lambda at: places[at])
    moved = list(places)
    for before, at in pairwise(order):
        moved[at] = max(moved[at], moved[before] + distance)
    ceiling = 1.0
    for at in reversed(order):
        moved[at] = min(moved[at], ceiling)
        ceiling = moved[at] - distance
    return moved


def draw_phases(phases: Sequence[Memory], name: str) -> str:
    """An SVG: anonymous and mapped bytes after each phase, stacked, and the peak so far."""
    phases = phases[:MOST_PHASES]
    longest = max(max(phase.peak, phase.anonymous + phase.mapped) for phase in phases) / MEGABYTE or 1.0

    def draw(axes: Axes) -> None:
        for place, phase in enumerate(phases):
            anonymous, mapped, peak = (value / MEGABYTE for value in (phase.anonymous, phase.mapped, phase.peak))
            axes.barh(place, anonymous, height=0.55, color=SERIES[0], edgecolor=PAPER, linewidth=0.7)
            axes.barh(place, mapped, left=anonymous, height=0.55, color=SERIES[4], edgecolor=PAPER, linewidth=0.7)
            axes.plot([peak, peak], [place - 0.33, place + 0.33], color=INK, linewidth=1.4)
        labels = [f"{short(phase.phase, 22)}\n{size(phase.resident)}" for phase in phases]
        axes.set_yticks(range(len(phases)), labels, color=INK)
        axes.set_ylim(len(phases) - 0.5, -0.5)
        axes.set_xlim(0, longest * 1.03)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("MB")
        axes.grid(axis="x")
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)

    alt = "Resident memory after " + "; ".join(f"{phase.phase}: {size(phase.resident)}" for phase in phases)
    return svg(draw, height=0.6 + 0.42 * len(phases), name=name, alt=alt)
