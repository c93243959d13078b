"""``pocketvlm tile``: which grid an image gets under each strategy, what it costs, and a picture of it."""

from __future__ import annotations

import io
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from pocketvlm.cli.console import print_table
from pocketvlm.cli.printing import rich_console
from pocketvlm.files import write_whole
from pocketvlm.images.rules import RULES
from pocketvlm.images.tiling import MAX_ENUMERATED, Grid, Tiling, grid_candidates

if TYPE_CHECKING:
    from PIL import Image

    from pocketvlm.bundle.vision import Vision
    from pocketvlm.images.prepare import Preprocessing

#: drawing: space around and between the panels, and sizes of their two lines of text, pixels
MARGIN = 24
TITLE_SIZE = 26
SUBTITLE_SIZE = 17


@dataclass(frozen=True)
class Cut:
    """What one strategy makes of an image. Sizes are (width, height) in pixels."""

    strategy: str
    grid: Grid
    canvas: tuple[int, int]
    canvas_to_image_area: float
    fit: str
    thumbnail_index: int | None
    tiles: int
    tokens: int


class Candidates(click.ParamType[tuple[Grid, ...]]):
    """``MxN``, ``MxN:T`` or ``MxN,MxN,...`` as a tuple of grids."""

    name = "grids"

    def convert(
        self, value: str | tuple[Grid, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Grid, ...]:
        if not isinstance(value, str):
            return value
        if not re.fullmatch(r"[0-9]{1,3}x[0-9]{1,3}(:[0-9]{1,5}|(,[0-9]{1,3}x[0-9]{1,3})*,?)?", value):
            self.fail(f"{value!r} is neither a bound (3x3, 4x4:8) nor a list of grids (1x1,1x2,2x4)", param, ctx)
        try:
            if "," in value:
                pairs = [pair.split("x") for pair in value.split(",") if pair]
                return tuple((int(across), int(down)) for across, down in pairs)
            bound, _, tiles = value.partition(":")
            across, down = bound.split("x")
            return grid_candidates(int(across), int(down), int(tiles) if tiles else None)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "--strategy",
    type=click.Choice(list(RULES)),
    help="Only this one (default: all that choose a grid and can do with the candidates).",
)
@click.option("--tile", default=384, show_default=True, type=click.IntRange(1, 4096), help="Side of a tile in pixels.")
@click.option(
    "--candidates",
    default="3x3",
    show_default=True,
    type=Candidates(),
    metavar="GRIDS",
    help="Grids to choose from, across x down. 3x3: all up to 3 by 3; 4x4:8: all up to 4 by 4 with at most 8 tiles; "
    f"1x1,1x2,2x4: exactly these (at most {MAX_ENUMERATED} a side).",
)
@click.option("--alpha", default=0.1, show_default=True, type=click.FloatRange(0, 1), help="Relaxed threshold.")
@click.option(
    "--tokens-per-tile", default=196, show_default=True, type=click.IntRange(1, 1_000_000), help="After downsampling."
)
@click.option("-o", "--output", metavar="PNG", type=click.Path(path_type=Path), help="Draw the grids to this file.")
@click.option(
    "--model",
    metavar="MODEL",
    help="As a bundle, a checkpoint or a preset (pocketvlm init --list) cuts it, and by the paper's rule beside.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    image: Path,
    strategy: str | None,
    tile: int,
    candidates: tuple[Grid, ...],
    alpha: float,
    tokens_per_tile: int,
    output: Path | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Show how IMAGE is cut into tiles, and how many image tokens that makes."""
    from pocketvlm.images.open import open_image

    if model is None:
        settings, own = _settings(strategy, tile, candidates, alpha), None
    else:
        _check_alone(click.get_current_context())
        settings, own = _settings_of(model, strategy)
        tokens_per_tile = own.tokens_per_tile
    _check_output(image, output)
    picture = open_image(image)
    choices = [choose(picture.size, preprocessing, tokens_per_tile, own) for preprocessing in settings]
    if output:
        _write_png(draw(picture, settings, choices), output)
    if as_json:
        click.echo(_json(image, picture.size, settings[0], tokens_per_tile, choices, output))
    else:
        queries = None if own is None or own.patches is None else own.patches.queries
        each = (
            f"{tokens_per_tile} tokens each" if queries is None else f"{queries} tokens of the whole and of each slice"
        )
        _print_table(image, picture.size, settings[0], each, choices, output)


def _settings(strategy: str | None, tile: int, candidates: tuple[Grid, ...], alpha: float) -> list[Preprocessing]:
    """Of the rules that can do with these candidates."""
    from pocketvlm.images.prepare import Preprocessing

    tiling = Tiling(tile_size=tile, candidates=candidates)
    # (one of a crop or a square has no grids to choose from, and cannot make it of every picture)
    chooses = (name for name, rule in RULES.items() if rule.fit not in ("crop", "square"))
    several = [name for name in chooses if RULES[name].check(tiling) is None]
    names = [strategy] if strategy else several
    try:
        return [
            Preprocessing(
                tile_size=tile,
                strategy=name,
                candidates=candidates,
                alpha=alpha,
                thumbnail=RULES[name].thumbnail,
                thumbnail_of_single_tile=RULES[name].thumbnail_of_single_tile,
                resize_filter=RULES[name].resize_filter,
            )
            for name in names
        ]
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _check_alone(context: click.Context) -> None:
    """Refuse what a model says itself."""
    for name in ("tile", "candidates", "alpha", "tokens_per_tile"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} is the model's: leave it out, or --model")


def _settings_of(model: str, strategy: str | None) -> tuple[list[Preprocessing], Vision]:
    """Of a model's own rule and the paper's, or of one that is asked for; and what else it makes of pictures.

    :raises PocketVlmError: there is no such model, or it takes no pictures
    """
    from pocketvlm.export.read.retiling import Retiling, retiled
    from pocketvlm.images.prepare import preprocessing_of

    own = _vision_of(model)
    if own.patches is not None and strategy is None:  # no other rule makes whole pictures of it
        return [preprocessing_of(own)], own
    wanted = dict.fromkeys([own.strategy, "relaxed"] if strategy is None else [strategy])
    return [preprocessing_of(retiled(own, Retiling(name))) for name in wanted], own


def _vision_of(model: str) -> Vision:
    from pocketvlm.bundle.open import open_bundle
    from pocketvlm.errors import PocketVlmError, one_line
    from pocketvlm.export.read.image_processor import read_vision, vision_of
    from pocketvlm.models.checkpoint import open_checkpoint
    from pocketvlm.models.presets import PRESETS
    from pocketvlm.plan.source import is_bundle

    vision: Vision | None
    if is_bundle(model):
        vision = open_bundle(model).manifest.vision
    elif model in PRESETS:
        preset = PRESETS[model]
        sees = preset.config.vision is not None
        vision = vision_of(preset.config, preset.said.processor or {}, model) if sees else None
    else:
        checkpoint = open_checkpoint(model)
        vision = None if checkpoint.config.vision is None else read_vision(checkpoint)
    if vision is None:
        raise PocketVlmError(f"{one_line(model, 120)} takes no pictures")
    return vision


def choose(
    image_size: tuple[int, int], preprocessing: Preprocessing, tokens_per_tile: int, vision: Vision | None = None
) -> Cut:
    """The grid and the cost of an image of ``image_size`` (width, height) pixels under one strategy, to a model that
    has ``vision``."""
    from pocketvlm.images.packing import packed
    from pocketvlm.images.rules import plan_of, rule_of

    plan = plan_of(image_size, preprocessing)
    grid = plan.canvas
    canvas = (grid[0] * preprocessing.tile_size, grid[1] * preprocessing.tile_size)
    tiles = plan.tiles
    tokens = tiles * tokens_per_tile if vision is None else vision.tokens_of(plan)
    if vision is not None and vision.packing is not None:
        tokens = packed(image_size, grid, vision.tokens_per_side, vision.packing.most_tiles).tokens
    return Cut(
        strategy=preprocessing.strategy,
        grid=grid,
        canvas=canvas,
        canvas_to_image_area=round(canvas[0] * canvas[1] / (image_size[0] * image_size[1]), 3),
        fit=rule_of(preprocessing.strategy).fit,
        thumbnail_index=plan.thumbnail_index,
        tiles=tiles,
        tokens=tokens,
    )


def draw(image: Image.Image, settings: list[Preprocessing], choices: list[Cut]) -> Image.Image:
    """The strategies side by side, each tile at the same size, with name, grid and tokens above."""
    from PIL import Image, ImageDraw, ImageFont

    from pocketvlm.images.draw import BACKGROUND_COLOR, draw_grid, drawn_tile_size

    tile_pixels = drawn_tile_size([choice.grid for choice in choices])
    title_font, subtitle_font = ImageFont.load_default(TITLE_SIZE), ImageFont.load_default(SUBTITLE_SIZE)
    drawings = [draw_grid(image, preprocessing, tile_pixels=tile_pixels) for preprocessing in settings]
    texts = [
        (
            f"{choice.strategy}   {_grid(choice.grid)}",
            f"{choice.tokens:,} tokens   {_tiles(choice)}",
            f"{choice.canvas[0]} x {choice.canvas[1]} px, {_area(choice)} the image's area",
        )
        for choice in choices
    ]
    fonts = (title_font, subtitle_font, subtitle_font)
    tops = (0, TITLE_SIZE + 10, TITLE_SIZE + SUBTITLE_SIZE + 18)
    head = tops[-1] + SUBTITLE_SIZE + 16
    widths = [
        max(drawing.width, *(round(font.getlength(line)) for font, line in zip(fonts, lines, strict=True)))
        for drawing, lines in zip(drawings, texts, strict=True)
    ]
    size = (
        sum(widths) + 2 * MARGIN * len(widths),
        head + max(drawing.height for drawing in drawings) + 2 * MARGIN,
    )
    sheet = Image.new("RGB", size, BACKGROUND_COLOR)
    pen = ImageDraw.Draw(sheet)
    left = MARGIN
    for drawing, lines, width in zip(drawings, texts, widths, strict=True):
        for font, line, top, color in zip(fonts, lines, tops, ("#16191d", "#16191d", "#6b7280"), strict=True):
            pen.text((left, MARGIN + top), line, font=font, fill=color)
        sheet.paste(drawing, (left, MARGIN + head))
        left += width + 2 * MARGIN
        if left < sheet.width:
            pen.line((left - MARGIN, MARGIN, left - MARGIN, sheet.height - MARGIN), fill="#d5d9e0", width=1)
    return sheet


def _grid(grid: Grid) -> str:
    return f"{grid[0]} x {grid[1]}"


def _area(choice: Cut) -> str:
    ratio = choice.canvas_to_image_area
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:,.0f}x"


def _tiles(choice: Cut) -> str:
    cut = choice.grid[0] * choice.grid[1]
    plural = "s" if cut > 1 else ""
    return f"{cut} tile{plural}" if choice.thumbnail_index is None else f"{cut} tile{plural} + thumbnail"


def _json(
    image: Path,
    image_size: tuple[int, int],
    preprocessing: Preprocessing,
    tokens_per_tile: int,
    choices: list[Cut],
    output: Path | None,
) -> str:
    return json.dumps(
        {
            "image": str(image),
            "width": image_size[0],
            "height": image_size[1],
            "tile": preprocessing.tile_size,
            "alpha": preprocessing.alpha,
            "candidates": preprocessing.candidates,
            "tokens_per_tile": tokens_per_tile,
            "strategies": [asdict(choice) for choice in choices],
            "output": str(output) if output else None,
        },
        indent=2,
    )


def _print_table(
    image: Path,
    image_size: tuple[int, int],
    preprocessing: Preprocessing,
    each: str,
    choices: list[Cut],
    output: Path | None,
) -> None:
    from rich.box import ROUNDED
    from rich.table import Table
    from rich.text import Text

    console = rich_console()
    tile = preprocessing.tile_size
    facts = f"{image_size[0]} x {image_size[1]} px, tiles of {tile} px, {each}"
    # Text, not markup: a file may be called [bold].png.
    console.print(Text(f"{image}: {facts}"), soft_wrap=True)
    table = Table(box=ROUNDED)
    for name in ("strategy", "grid", "canvas", "area", "fit", "tiles", "tokens"):
        table.add_column(name, justify="right" if name in ("area", "tokens") else "left", no_wrap=True)
    for choice in choices:
        tiles = f"{choice.grid[0] * choice.grid[1]}" + (" + 1" if choice.thumbnail_index is not None else "")
        canvas = f"{choice.canvas[0]} x {choice.canvas[1]}"
        cells = (choice.strategy, _grid(choice.grid), canvas, _area(choice), choice.fit, tiles, f"{choice.tokens:,}")
        table.add_row(*cells)
    print_table(console, table)
    legend = "grid: across x down; area: the canvas to the image; + 1: the thumbnail, its tokens included"
    console.print(legend, style="dim", soft_wrap=True)
    if output:
        console.print(Text(f"wrote {output}"), soft_wrap=True)


def _check_output(image: Path, output: Path | None) -> None:
    """Refuse an output that would mislead or destroy before any work is done."""
    if output is None:
        return
    if output.suffix.lower() != ".png":
        raise click.UsageError(f"-o writes a PNG: name it *.png, not {output.name!r}")
    if output.is_dir():
        raise click.UsageError(f"-o {output}: is a directory")
    if output.exists() and image.exists() and output.samefile(image):
        raise click.UsageError("-o names the image itself: choose another file")


def _write_png(picture: Image.Image, output: Path) -> None:
    encoded = io.BytesIO()
    picture.save(encoded, "PNG", optimize=True)
    write_whole(output, encoded.getvalue())
