"""How export and run time grow with layers, width, tokens and tiles, and how well a straight line fits."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pocketvlm.models.presets import Preset
    from studies.real_size.study import Place

LAYERS = (4, 8, 12, 16)
#: Hidden sizes; heads of 64 and a feed-forward part of 2.5 times the width, as MiniCPM-2B has them.
WIDTHS = (576, 1152, 1728, 2304)
LAYERS_OF_WIDTHS = 8
TOKENS = (256, 512, 1024, 2048)
#: Images of 1, 2 + 1, 4 + 1, 6 + 1 and 8 + 1 tiles with the thumbnail.
IMAGES = ("384x384", "384x768", "768x768", "768x1152", "768x1536")
RECIPE = "bluelm-v-3b"
HEAD = 64


@dataclass(frozen=True)
class Series:
    """``values`` of what ``name`` says against ``sizes`` of what ``against`` says, and the line through them."""

    name: str
    against: str
    sizes: tuple[float, ...]
    values: tuple[float, ...]
    unit: str

    def fit(self) -> dict[str, float]:
        """Least squares: value = slope * size + intercept; r2 is the share of the variance that it explains."""
        slope, intercept = np.polyfit(self.sizes, self.values, 1)
        rest = np.asarray(self.values) - (slope * np.asarray(self.sizes) + intercept)
        total = np.asarray(self.values) - np.mean(self.values)
        spread = float(total @ total)
        r2 = 1 - float(rest @ rest) / spread if spread else 1.0
        return {"slope": float(slope), "intercept": float(intercept), "r2": r2}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "fit": self.fit()}


def measure_growth(place: Place, threads: int, repeats: int) -> list[Series]:
    """All series. Models of other sizes are written, measured and removed one after the other."""
    series = list(_by_model("layers", LAYERS, [_of(layers=count) for count in LAYERS], place, threads, repeats))
    widths = [_of(layers=LAYERS_OF_WIDTHS, width=width) for width in WIDTHS]
    # Work grows with the square of the width.
    squares = [width**2 / 1e6 for width in WIDTHS]
    series += _by_model("width squared, millions", squares, widths, place, threads, repeats)
    series.append(_by_tokens(place, threads, repeats))
    return [*series, _by_tiles(place, threads, repeats)]


def _of(*, layers: int, width: int = 2304) -> Preset:
    """MiniCPM-2B's decoder without a tower, with other numbers of layers and of heads."""
    from pocketvlm.models.config import VlmConfig
    from pocketvlm.models.presets import MINICPM_2B, Preset

    text = replace(
        MINICPM_2B,
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=width // HEAD,
        num_key_value_heads=width // HEAD,
        intermediate_size=width * 5 // 2,
        vocab_size=32000,
    )
    return Preset(f"layers-{layers}-width-{width}", "", VlmConfig(text=text, vision=None))


def _by_model(
    against: str, sizes: Sequence[float], presets: Sequence[Preset], place: Place, threads: int, repeats: int
) -> Iterator[Series]:
    from pocketvlm.models.presets.write import write_preset
    from studies.real_size.study import bench, run

    found: dict[str, list[float]] = {}
    units = {"export, time": "s", "export, peak memory": "MB", "load": "s", "prefill of 256": "s", "decode of 16": "s"}
    for preset in presets:
        checkpoint, bundle = (place.cache / f"growth-{kind}" for kind in ("checkpoint", "bundle"))
        for directory in (checkpoint, bundle):
            shutil.rmtree(directory, ignore_errors=True)
        checkpoint.mkdir(parents=True)
        write_preset(preset, checkpoint)
        cost = run("export", str(checkpoint), "-o", str(bundle), "--recipe", RECIPE, "--max-length", "512")
        report = bench(bundle, threads, repeats, ("--image", "none", "-p", "256", "-n", "16", "-d", "0"))
        rows = {row["name"]: row["median_s"] for row in report["rows"]}
        values = (cost.seconds, cost.peak_bytes / 1e6, rows["load warm"], rows["pp256"], rows["tg16"])
        for name, value in zip(units, values, strict=True):
            found.setdefault(name, []).append(value)
        for directory in (checkpoint, bundle):
            shutil.rmtree(directory)
    for name, values_of in found.items():
        yield Series(name, against, tuple(sizes), tuple(values_of), units[name])


def _by_tokens(place: Place, threads: int, repeats: int) -> Series:
    from studies.real_size.study import bench

    lengths = ",".join(map(str, TOKENS))
    report = bench(
        place.bundle(RECIPE), threads, repeats, ("--image", "none", "-p", lengths, "-n", "1", "--warmups", "0")
    )
    rows = {row["name"]: row["median_s"] for row in report["rows"]}
    return Series("prefill", "tokens", TOKENS, tuple(rows[f"pp{count}"] for count in TOKENS), "s")


def _by_tiles(place: Place, threads: int, repeats: int) -> Series:
    from studies.real_size.study import bench

    tiles, seconds = [], []
    for size in IMAGES:
        workload = ("--image", size, "-p", "1", "-n", "1", "--warmups", "0")
        report = bench(place.bundle(RECIPE), threads, repeats, workload)
        row = next(row for row in report["rows"] if row["name"] == f"img {size}")
        tiles.append(row["tokens"])
        seconds.append(row["median_s"])
    return Series("image", "image tokens", tuple(tiles), tuple(seconds), "s")


def draw(series: Sequence[Series]) -> bytes:
    """A panel a series, with its line: PNG."""
    from matplotlib.figure import Figure

    columns = 4
    rows = -(-len(series) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.6 * rows), layout="constrained")
    for place, one in enumerate(series):
        axes = figure.add_subplot(rows, columns, place + 1)
        line = one.fit()
        sizes = np.array([0, max(one.sizes)])
        axes.plot(sizes, line["slope"] * sizes + line["intercept"], color="#9aa4b2", linewidth=1)
        axes.plot(one.sizes, one.values, "o", color="#2b59c3")
        axes.set(title=f"{one.name} (R² {line['r2']:.3f})", xlabel=one.against, ylabel=one.unit, ylim=(0, None))
        axes.title.set_fontsize(9)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()
