"""What the time to the first token is made of: load, image and prompt, stacked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketvlm.bench.report.plots.svg import INK, PAPER, SERIES, short, svg
from pocketvlm.bench.report.text import duration, own

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from pocketvlm.bench.report.schema import Report, Row

#: Phase -> colour, in the order in which they run.
COLORS = {
    "load": SERIES[7],
    "preprocess": SERIES[4],
    "patch embedding": SERIES[2],
    "vision encoder": SERIES[0],
    "projector": SERIES[3],
    "prefill": SERIES[1],
    "first token": SERIES[5],
}
MEASURED = "measured as one"


@dataclass(frozen=True)
class BarPart:
    """One phase: its seconds, and what exactly was done."""

    phase: str
    label: str
    seconds: float


@dataclass(frozen=True)
class Bar:
    """Parts that follow one another."""

    label: str
    parts: tuple[BarPart, ...]

    @property
    def seconds(self) -> float:
        return sum(part.seconds for part in self.parts)


def bars(report: Report) -> list[Bar]:
    """A bar for each kind of load, with the phases after it; and what was measured as one, in a loaded engine.

    The phases are those that were measured one by one. The projector is a part of the encoder's graph, measured over
    one batch of tiles: what it takes of all image tokens is drawn on its own. A prompt is as long as the measured one
    with its image, at the rate of the prefill that is closest in length.
    """
    rows = [row for row in own(report) if row.seconds]
    whole = next((row for row in rows if row.phase == "first token"), None)
    work = [*_image(rows), *_prefill(rows, whole)]
    loads = [row for row in rows if row.phase == "load"]
    found = [Bar(load.name, (BarPart("load", load.name, load.median), *work)) for load in loads]
    found = found or ([Bar("loaded", tuple(work))] if work else [])
    if whole is not None:
        found.append(Bar(MEASURED, (BarPart("first token", f"{whole.name}, {MEASURED}", whole.median),)))
    return found


def _image(rows: Sequence[Row]) -> list[BarPart]:
    first = {row.phase: row for row in reversed(rows)}
    encoder, projector = first.get("vision encoder"), first.get("projector")
    projected = 0.0
    if encoder and projector and projector.tokens:
        projected = min(projector.median * encoder.tokens / projector.tokens, encoder.median)
    parts = [
        BarPart(phase, phase, row.median - (projected if row is encoder else 0.0))
        for phase in ("preprocess", "patch embedding", "vision encoder")
        if (row := first.get(phase))
    ]
    return parts + ([BarPart("projector", "projector", projected)] if projected else [])


def _prefill(rows: Sequence[Row], whole: Row | None) -> list[BarPart]:
    prefills = [row for row in rows if row.phase == "prefill" and row.rate]
    if not prefills:
        return []
    tokens = whole.tokens if whole is not None and whole.tokens else prefills[0].tokens
    nearest = min(prefills, key=lambda row: abs(row.tokens - tokens))
    label = "prefill" if nearest.tokens == tokens else f"prefill at the rate of {nearest.name}"
    return [BarPart("prefill", f"{label}, {tokens} tokens", nearest.median * tokens / nearest.tokens)]


def draw_first_token(found: Sequence[Bar], name: str) -> str:
    """An SVG."""

    def draw(axes: Axes) -> None:
        longest = max(bar.seconds for bar in found)
        for place, bar in enumerate(found):
            start = 0.0
            for part in bar.parts:
                color = COLORS[part.phase]
                axes.barh(place, part.seconds, left=start, height=0.55, color=color, edgecolor=PAPER, linewidth=0.7)
                start += part.seconds
            axes.text(start + longest * 0.015, place, duration(start), va="center", color=INK)
        axes.set_yticks(range(len(found)), [short(bar.label, 20) for bar in found], color=INK)
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.set_xlim(0, longest * 1.17)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("seconds")
        axes.grid(axis="x")
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)

    alt = "Time to the first token. " + "; ".join(f"{bar.label}: {duration(bar.seconds)}" for bar in found)
    return svg(draw, height=0.65 + 0.42 * len(found), name=name, alt=alt)
