"""Size against divergence as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from pocketvlm.errors import one_line


@dataclass(frozen=True)
class Dot:
    """A recipe; those without a name are joined by a line."""

    megabytes: float
    kl_mean: float
    name: str = ""


def draw_sizes(dots: Sequence[Dot], picked: Dot) -> bytes:
    """A PNG: bundles' sizes in MB against mean KL divergence in nats, on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    joined = [dot for dot in dots if not dot.name]
    axes.plot([dot.megabytes for dot in joined], [dot.kl_mean for dot in joined], "o-", label="mixed bits")
    for dot in dots:
        if dot.name:
            axes.plot(dot.megabytes, dot.kl_mean, "s", label=one_line(dot.name, 60))
    axes.plot(picked.megabytes, picked.kl_mean, "o", label="picked", markersize=14, fillstyle="none", color="black")
    axes.set(xlabel="bundle, MB", ylabel="mean KL divergence, nats", yscale="log", title="size against divergence")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()
