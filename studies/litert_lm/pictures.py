"""Pictures handed over whole: what LiteRT-LM's own preprocessing costs in answers, cause by cause.

python -m studies.litert_lm.pictures --output bench/results/litertlm-pictures.json

LiteRT-LM takes a picture whole where the file says how to cut it into patches (its model type ``gemma4``). With a tile
for a patch and eight of them that is: the largest size of whole tiles with at most that area, by the picture's sides
rounded down, scaled up to it where it is smaller; stretched to it; by Catmull-Rom in linear light; and a thumbnail can
only be made of what was scaled. Each of these is done here to the tiles that a client cuts, alone and together, and the
stock LiteRT-LM is asked about them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import numpy.typing as npt
from PIL import Image
from tokenizers import Tokenizer

from pocketvlm.bench.accuracy.paired import compare
from pocketvlm.bundle.open import Bundle, open_bundle
from pocketvlm.export.litert.container import write_litertlm
from pocketvlm.images.prepare import Preprocessing, TiledImage, cut_tiles, preprocessing_of
from pocketvlm.images.rules import plan_of
from pocketvlm.images.tiling import Grid, Size
from pocketvlm.runtime import litert_lm
from pocketvlm.scenes import held_out
from studies.litert_lm.stock import answers
from studies.reader.study import CHECKPOINT, export, provenance, write

WORK, RECIPE, SEED, NEW_TOKENS = Path("build") / "litertlm", "int4-g32", "test", 48
COMMAND = "python -m studies.litert_lm.pictures"
#: Tiles of a picture, as its budget of patches: as many as the model's rule has at most, and half as many again.
MOST_TILES, MORE_TILES = 8, 12
#: Tiles a side that there are markers of.
MARKERS = 8
#: The name of all causes together.
ALL = "all of it"

Resize = Callable[[Image.Image, Size], Image.Image]
Cut = Callable[[Image.Image, Preprocessing], TiledImage]


def patch_grid(size: Size, tile: int, most: int = MOST_TILES) -> Grid:
    """Tiles across and down that LiteRT-LM scales a picture to (``GetAspectRatioPreservingSize``, Gemma 4's rule)."""
    width, height = size
    factor = math.sqrt(most * tile * tile / (width * height))
    across, down = (math.floor(factor * side / tile) for side in size)
    if down == 0:
        return min(width // height, most), 1
    if across == 0:
        return 1, min(height // width, most)
    return across, down


def pillow(image: Image.Image, size: Size) -> Image.Image:
    """The runtime's own filter."""
    return image.resize(size, Image.Resampling.BICUBIC)


def catmull_rom(image: Image.Image, size: Size) -> Image.Image:
    """As stb_image_resize2 does it: the same cubic, but in linear light, at the edges on repeated pixels."""
    values = np.asarray(image, np.float64) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear = np.einsum("oh,hwc->owc", _weights(image.height, size[1]), linear)
    linear = np.einsum("ow,hwc->hoc", _weights(image.width, size[0]), linear).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return Image.fromarray(np.rint(encoded * 255).astype(np.uint8))


@functools.cache
def _weights(length: int, target: int) -> npt.NDArray[np.float64]:
    """[target, length]: what each pixel gives to each; where it shrinks the cubic is as much wider."""
    scale = length / target
    wide = max(scale, 1.0)
    found = np.zeros((target, length))
    for at in range(target):
        centre = (at + 0.5) * scale
        first, last = math.floor(centre - 2 * wide), math.ceil(centre + 2 * wide)
        for pixel in range(first, last + 1):
            found[at, min(max(pixel, 0), length - 1)] += _cubic(abs(pixel + 0.5 - centre) / wide)
    normed: npt.NDArray[np.float64] = found / found.sum(1, keepdims=True)
    return normed


def _cubic(x: float) -> float:
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def cut(
    image: Image.Image, preprocessing: Preprocessing, *, grid: int, stretch: bool, resize: Resize, enlarged: bool
) -> TiledImage:
    """Tiles and thumbnail with some of LiteRT-LM's ways: its ``grid`` of at most so many tiles (0: the rule's),
    ``stretch`` over it, ``resize``, and a thumbnail of what was scaled (``enlarged``), which a picture of one tile gets
    too."""
    tile, plan = preprocessing.tile_size, plan_of(image.size, preprocessing)
    across, down = patch_grid(image.size, tile, grid) if grid else plan.grid
    whole = (across * tile, down * tile)
    if stretch:
        canvas = resize(image, whole)
    else:  # fitted into the grid, padded below and to the right
        factor = min(whole[0] / image.width, whole[1] / image.height)
        fitted = (min(whole[0], round(image.width * factor)), min(whole[1], round(image.height * factor)))
        canvas = Image.new("RGB", whole, preprocessing.pad_color)
        canvas.paste(resize(image, fitted if grid else plan.resizes[-1]), (0, 0) if grid else plan.place)
    # [down * tile, across * tile, 3] -> [down, tile, across, tile, 3] -> [down * across, tile, tile, 3]
    pixels = np.asarray(canvas).reshape(down, tile, across, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
    if not enlarged and across * down == 1 and not preprocessing.thumbnail_of_single_tile:
        return TiledImage((across, down), np.ascontiguousarray(pixels), None)
    thumbnail = pillow(canvas, (tile, tile)) if enlarged else resize(image, (tile, tile))
    return TiledImage((across, down), np.insert(pixels, 0, np.asarray(thumbnail), axis=0), 0)


def ways() -> dict[str, Cut]:
    """What is done to pictures, by name."""

    def way(*, grid: int = 0, stretch: bool = False, stb: bool = False, enlarged: bool = False) -> Cut:
        return functools.partial(
            cut, grid=grid, stretch=stretch, resize=catmull_rom if stb else pillow, enlarged=enlarged
        )

    return {
        "as this runtime cuts them": cut_tiles,
        "filter in linear light": way(stb=True),
        "stretched over the rule's grid": way(stretch=True),
        "scaled to eight tiles, padded": way(grid=MOST_TILES),
        "scaled to eight tiles, stretched": way(grid=MOST_TILES, stretch=True),
        "scaled, stretched, thumbnail of that": way(grid=MOST_TILES, stretch=True, enlarged=True),
        ALL: way(grid=MOST_TILES, stretch=True, stb=True, enlarged=True),
        "all of it, twelve tiles": way(grid=MORE_TILES, stretch=True, stb=True, enlarged=True),
    }


def contents(bundle: Bundle, cutting: Cut, count: int) -> list[list[Any]]:
    """The questions about held-out pictures, each with its tiles as images."""
    layout, tokenizer = (
        bundle.manifest.image_layout,
        Tokenizer.from_str(bundle.read(bundle.manifest.tokenizer).decode()),
    )
    rows, columns = (
        [tokenizer.token_to_id(f"<|{kind}_{at + 1}|>") for at in range(MARKERS)] for kind in ("row", "column")
    )
    assert layout is not None
    # The rule's grids have at most four tiles a side; LiteRT-LM's have up to eight, and there are markers of so many.
    larger = layout.model_copy(update={"tile": tuple(tuple((row, column) for column in columns) for row in rows)})
    bundle = Bundle(bundle.location, bundle.manifest.model_copy(update={"image_layout": larger}))
    with mock.patch.object(litert_lm, "cut_tiles", cutting):
        return [[litert_lm.message_parts(bundle, one.question, [one.image])] for one in held_out(SEED, count)]


def kind_of(size: Size, preprocessing: Preprocessing) -> str:
    """What LiteRT-LM's grid of a picture is beside the rule's."""
    own, other = plan_of(size, preprocessing).grid, patch_grid(size, preprocessing.tile_size)
    if own == other:
        return "the same grid"
    if max(other) > max(side for grid in preprocessing.candidates for side in grid):
        return "more tiles a side than the model was trained on"
    return "more tiles" if math.prod(other) > math.prod(own) else "no more tiles"


def by_kind(report: dict[str, Any], bundle: Bundle) -> dict[str, dict[str, int]]:
    """Pictures by what their grid becomes: how many, and how many are right as they are cut here and by all of it."""
    assert bundle.manifest.vision is not None
    preprocessing = preprocessing_of(bundle.manifest.vision)
    own, other = (report["ways"][name]["right"] for name in (next(iter(report["ways"])), ALL))
    found: dict[str, dict[str, int]] = {}
    for at, one in enumerate(held_out(SEED, report["questions"])):
        row = found.setdefault(
            kind_of(one.image.size, preprocessing), {"pictures": 0, "right": 0, "right by all of it": 0}
        )
        row["pictures"] += 1
        row["right"] += own[at]
        row["right by all of it"] += other[at]
    return found


def table(report: dict[str, Any]) -> str:
    """As Markdown."""
    lines = [
        f"| pictures | right of {report['questions']} | beside this runtime's (95 %) | tiles a picture |",
        "| --- | ---: | --- | ---: |",
    ]
    for name, row in report["ways"].items():
        pair = row["paired"]
        beside = "" if pair is None else f"{pair['difference']:+.1%} ({pair['low']:+.1%} to {pair['high']:+.1%})"
        lines.append(f"| {name} | {sum(row['right'])} | {beside} | {row['tiles']:.1f} |")
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--questions", default=200, show_default=True, help="One about each picture.")
@click.option("--output", type=click.Path(path_type=Path), help="Where the report goes as JSON.")
def main(questions: int, output: Path | None) -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    path, packed = WORK / "reader", WORK / "reader.litertlm"
    if not path.is_dir():
        export(CHECKPOINT, path, RECIPE, "--backend", "litert")
    bundle = open_bundle(path)
    write_litertlm(bundle, packed)
    wanted, report = [one.answer.strip() for one in held_out(SEED, questions)], provenance(COMMAND, 1)
    report |= {"recipe": RECIPE, "data": f"generated:{SEED}", "questions": questions, "ways": {}}
    for name, cutting in ways().items():
        asked = contents(bundle, cutting, questions)
        said = [answer.strip() for (answer,) in answers(packed, asked, NEW_TOKENS, sees=True)]
        right = [answer == one for answer, one in zip(said, wanted, strict=True)]
        first = next(iter(report["ways"].values()), None)
        images = sum(part["type"] == "image" for (parts,) in asked for part in parts)
        report["ways"][name] = {
            "right": right,
            "paired": None if first is None else vars(compare(right, first["right"])),
            "tiles": images / questions,
            "answers": said,
        }
        click.echo(f"{name}: {sum(right)} of {questions}", err=True)
    report["grids"] = by_kind(report, bundle)
    click.echo(table(report))
    click.echo(str(report["grids"]))
    if output is not None:
        write(report, output)


if __name__ == "__main__":
    main()
