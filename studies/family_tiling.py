"""What the paper's tiling makes of published models' pictures: tiles, image tokens and encoding time saved a family.

python -m studies.family_tiling --output bench/results/family-tiling.json [--sizes bench/results/true-sizes.json]

Each preset's own rule beside ``export --tiling relaxed`` over the same tiles: plans alone, no weights. Seconds a tile
are those that ``make true-sizes`` measured. What a model answers is another question: it was trained with its own rule.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import click

from pocketvlm.export.read.image_processor import vision_of
from pocketvlm.export.read.retiling import Retiling, retiled
from pocketvlm.files import write_whole
from pocketvlm.images.packing import packed
from pocketvlm.images.prepare import preprocessing_of, select, sequence_length
from pocketvlm.models.presets import PRESETS, Preset
from studies.reader.study import provenance, write

if TYPE_CHECKING:
    from pocketvlm.bundle.vision import Vision
    from pocketvlm.images.tiling import Grid

Size = tuple[int, int]
GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "tiling.csv"
#: Pixels as cameras, messengers and screens make them; each as often as the others.
PHOTOS: tuple[Size, ...] = (
    (3024, 4032), (4032, 3024), (4000, 3000), (4624, 3468), (1200, 1600), (1600, 1200), (960, 1280), (1280, 720),
    (1920, 1080), (1080, 1920), (1080, 1080), (3000, 3000), (1080, 1350), (640, 480), (2048, 1365), (6000, 4000),
)  # fmt: skip
SCREENS: tuple[Size, ...] = (
    (1080, 2400), (1080, 2340), (1170, 2532), (1179, 2556), (1290, 2796), (1440, 3120), (720, 1600), (2400, 1080),
    (1920, 1080), (2560, 1440), (1366, 768), (2880, 1800), (1080, 6000), (1080, 900), (400, 300), (1200, 240),
)  # fmt: skip


#: What an export is asked for.
ASKED = {
    "own": Retiling(),
    "relaxed": Retiling("relaxed"),
    "relaxed, at most 4 tiles": Retiling("relaxed", max_tiles=4),
}
COLORS = ("#9aa5b1", "#0d9488", "#f59e0b")


@dataclass(frozen=True)
class Cost:
    """Of a picture, on average: tiles with thumbnails, image tokens, seconds of encoding where a tile's are known."""

    tiles: float
    tokens: float
    seconds: float | None


def golden_sizes() -> list[Size]:
    """Those of the golden file of grids."""
    with GOLDEN.open(newline="") as file:
        return list({(int(row["width"]), int(row["height"])) for row in csv.DictReader(file)})


def vision_of_preset(preset: Preset) -> Vision:
    """How a preset's processor cuts pictures."""
    assert preset.said.processor is not None
    return vision_of(preset.config, preset.said.processor, preset.name)


def tokens_of(vision: Vision, size: Size, grid: Grid) -> int:
    """Image tokens of a picture of this size, which this grid was chosen for."""
    if vision.packing is not None:
        return packed(size, grid, vision.tokens_per_side, vision.packing.most_tiles).tokens
    return sequence_length(grid, preprocessing_of(vision)) * vision.tokens_per_tile


def cost(vision: Vision, sizes: Sequence[Size], seconds_a_tile: float | None) -> Cost:
    """The mean over pictures of these sizes."""
    settings = preprocessing_of(vision)
    grids = [select(size, settings) for size in sizes]
    tiles = mean(sequence_length(grid, settings) for grid in grids)
    tokens = mean(tokens_of(vision, size, grid) for size, grid in zip(sizes, grids, strict=True))
    return Cost(tiles, tokens, None if seconds_a_tile is None else tiles * seconds_a_tile)


def row(preset: Preset, pictures: Mapping[str, Sequence[Size]], seconds_a_tile: float | None) -> dict[str, Any]:
    """A preset's own rule and the paper's, for each kind of picture."""
    own = vision_of_preset(preset)
    return {
        "preset": preset.name,
        "rule": own.strategy,
        "seconds_a_tile": seconds_a_tile,
        "pictures": {
            kind: {name: asdict(cost(retiled(own, asked), sizes, seconds_a_tile)) for name, asked in ASKED.items()}
            for kind, sizes in pictures.items()
        },
    }


def seconds_by_preset(report: Path) -> dict[str, float]:
    """Seconds a tile, of the picture that was measured."""
    from studies.true_sizes.study import HEIGHT, WIDTH

    found = {}
    for measured in json.loads(report.read_text())["rows"] if report.exists() else []:
        vision = vision_of_preset(PRESETS[measured["preset"]])
        settings = preprocessing_of(vision)
        tiles = sequence_length(select((WIDTH, HEIGHT), settings), settings)
        found[measured["preset"]] = measured["bench"][f"img {WIDTH}x{HEIGHT}"]["seconds"] / tiles
    return found


def draw(rows: list[dict[str, Any]]) -> bytes:
    """Image tokens a picture, own rule beside the paper's, a panel a kind of picture: PNG."""
    import io

    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    kinds = list(rows[0]["pictures"])
    figure, axes = plt.subplots(1, len(kinds), figsize=(4.2 * len(kinds), 0.62 * len(rows) + 1.6), sharey=True)
    for axis, kind in zip(axes, kinds, strict=True):
        for place, (rule, color) in enumerate(zip(ASKED, COLORS, strict=True)):
            values = [found["pictures"][kind][rule]["tokens"] for found in rows]
            label = "the model's own rule" if rule == "own" else rule
            at = [index + (place - 1) * 0.28 for index in range(len(rows))]
            bars = axis.barh(at, values, 0.26, color=color, label=label)
            axis.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
        axis.set_title(kind, fontsize=10)
        axis.set_yticks(range(len(rows)), [found["preset"] for found in rows])
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.18)
        axis.set_xlabel("image tokens a picture")
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="upper center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=140)
    plt.close(figure)
    return png.getvalue()


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown, a line a preset and kind of picture."""
    found = [
        f"| model, its rule | pictures | tiles: {'; '.join(ASKED)} | image tokens | seconds of encoding |",
        "| --- | --- | --- | --- | --- |",
    ]
    for entry in rows:
        for kind, costs in entry["pictures"].items():
            each = [Cost(**costs[name]) for name in ASKED]
            tiles, tokens = (", ".join(texts) for texts in zip(*map(_in_words, each), strict=True))
            seconds = ", ".join("not measured" if one.seconds is None else f"{one.seconds:.1f}" for one in each)
            found.append(f"| `{entry['preset']}`, {entry['rule']} | {kind} | {tiles} | {tokens} | {seconds} |")
    return found


def _in_words(cost: Cost) -> tuple[str, str]:
    return f"{cost.tiles:.1f}", f"{cost.tokens:,.0f}"


@click.command(help=__doc__)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The report, JSON; a PNG beside it.")
@click.option("--sizes", default=Path("bench/results/true-sizes.json"), type=click.Path(path_type=Path))
def main(output: Path, sizes: Path) -> None:
    seconds = seconds_by_preset(sizes)
    pictures = {"photos": PHOTOS, "screenshots": SCREENS, "1,200 golden sizes": golden_sizes()}
    seeing = [one for one in PRESETS.values() if one.config.vision is not None and not one.config.is_native]
    published = [one for one in seeing if one.published is not None]
    rows = [row(preset, pictures, seconds.get(preset.name)) for preset in published]
    write({**provenance("python -m studies.family_tiling", 1), "rows": rows}, output)
    write_whole(output.with_suffix(".png"), draw(rows))
    for line in lines(rows):
        click.echo(line)


if __name__ == "__main__":
    main()
