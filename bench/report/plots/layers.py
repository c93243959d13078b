"""The error of each layer's output as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pocketvlm.errors import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE = "#1c6dd0", "#e8590c"


def draw_layers(layers: dict[str, Any], title: str) -> bytes:
    """A PNG of the section ``fidelity.layers`` of a report: the vision tower, where it has one, and the decoder."""
    from matplotlib.figure import Figure

    decoder, vision = layers["decoder"], layers["vision"]
    # A figure of its own, not one of pyplot's: no window system is asked for, and no global state is left.
    figure = Figure(figsize=(9.0 if vision else 5.5, 3.8), layout="constrained")
    # Each has its own scale: the decoder's errors are often ten times the tower's.
    axes = figure.subplots(1, 2 if vision else 1, squeeze=False)[0]
    if vision:
        _draw(axes[0], vision, [("all", "all patches", BLUE, "-o")], "vision tower")
        lines = [("text", "text positions", BLUE, "-o"), ("all", "all positions", ORANGE, "--s")]
    else:
        lines = [("all", "all positions", BLUE, "-o")]
    _draw(axes[-1], decoder, lines, "decoder")
    axes[0].set_ylabel("relative error of the layer's output, %")
    figure.suptitle(one_line(title, 120), fontsize=11)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


def _draw(axes: Axes, layers: Sequence[dict[str, Any]], lines: Sequence[tuple[str, str, str, str]], title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    numbers = [layer["layer"] for layer in layers]
    for key, label, color, style in lines:
        errors = [100 * layer[key] for layer in layers]
        axes.plot(numbers, errors, style, color=color, label=label, markersize=4, linewidth=1.5)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")
