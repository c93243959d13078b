"""A picture of what the model gets: the tiles of an image, framed and numbered as `pocketvlm tile` draws them."""

from __future__ import annotations

from collections.abc import Iterable

from PIL import Image, ImageDraw, ImageFont

from pocketvlm.images.open import open_image
from pocketvlm.images.prepare import Preprocessing, laid_out
from pocketvlm.images.rules import plan_of
from pocketvlm.images.tiling import Grid, PicturePlan

#: a drawn grid: longest side aimed at and never exceeded, pixels; colours
DRAWN_CANVAS = 640
DRAWN_LIMIT = 4096
TILE_COLOR = "#e8590c"
THUMBNAIL_COLOR = "#1c6dd0"
BACKGROUND_COLOR = "#ffffff"


def drawn_tile_size(grids: Iterable[Grid]) -> int:
    """Side at which to draw the tiles of these grids in one picture, pixels: large enough to read, never huge."""
    longest = max(max(grid) for grid in grids)
    return min(max(DRAWN_CANVAS // longest, 48), DRAWN_CANVAS // 2, max(1, DRAWN_LIMIT // longest))


def draw_grid(image: Image.Image, preprocessing: Preprocessing, *, tile_pixels: int | None = None) -> Image.Image:
    """A picture of what the model gets: the padded or stretched canvas with its tiles numbered in sequence order.

    The thumbnail stands before or after it as in the sequence; padding is hatched. ``tile_pixels`` is the side at
    which a tile is drawn (default: about 640 px for the whole canvas).

    :raises ImageError: the image is not RGB and cannot be made so.
    """
    image = image if image.mode == "RGB" else open_image(image)
    plan = plan_of(image.size, preprocessing)
    side = tile_pixels or drawn_tile_size([plan.canvas])
    across, down = plan.canvas
    index = plan.thumbnail_index
    first = 1 if index == 0 else 0
    canvas, thumbnail = laid_out(image, plan, preprocessing)
    canvas = canvas.resize((across * side, down * side), Image.Resampling.LANCZOS)
    _hatch_padding(canvas, plan, preprocessing)
    for number in range(across * down):
        row, column = divmod(number, across)
        _frame_tile(canvas, (column * side, row * side), side, [str(number + first)], TILE_COLOR)
    if thumbnail is None:
        return canvas
    size = (plan.thumbnail_part[0] * side, plan.thumbnail_part[1] * side)
    thumbnail = thumbnail.resize(size, Image.Resampling.LANCZOS)
    _frame_tile(thumbnail, (0, 0), side, [f"{index} thumbnail", str(index)], THUMBNAIL_COLOR)
    gap = max(6, side // 12)
    drawing = Image.new("RGB", (canvas.width + gap + size[0], canvas.height), BACKGROUND_COLOR)
    drawing.paste(canvas, ((size[0] + gap) * first, 0))
    drawing.paste(thumbnail, (0 if first else canvas.width + gap, 0))
    return drawing


def _hatch_padding(canvas: Image.Image, plan: PicturePlan, preprocessing: Preprocessing) -> None:
    """Hatch what of the drawn canvas is padding, so that it cannot be taken for part of the image."""
    shrink = canvas.width / (plan.canvas[0] * preprocessing.tile_size)
    (left, top), (width, height) = plan.place, plan.resizes[-1]
    padding = Image.new("1", canvas.size, 1)
    box = [round(x * shrink) for x in (left, top, left + width, top + height)]
    padding.paste(0, (box[0], box[1], max(box[2], box[0] + 1), max(box[3], box[1] + 1)))
    lighter = sum(preprocessing.pad_color) < 384
    line_color = tuple(min(max(x + (48 if lighter else -48), 0), 255) for x in preprocessing.pad_color)
    hatching = Image.new("RGB", canvas.size, preprocessing.pad_color)
    pen = ImageDraw.Draw(hatching)
    for x in range(-canvas.height, canvas.width, 12):
        pen.line((x, canvas.height, x + canvas.height, 0), fill=line_color, width=2)
    canvas.paste(hatching, mask=padding)


def _frame_tile(picture: Image.Image, corner: tuple[int, int], side: int, labels: list[str], color: str) -> None:
    """A border around a drawn tile, and the first of ``labels`` that there is room for."""
    left, top = corner
    pen = ImageDraw.Draw(picture)
    pen.rectangle((left, top, left + side - 1, top + side - 1), outline=color, width=2 if side > 100 else 1)
    font_size = min(max(side // 9, 11), 22)
    font = ImageFont.load_default(size=font_size)
    height = font_size + 4
    for label in labels:
        width = max(round(font.getlength(label)) + 10, height)
        if width <= side and height <= side:
            pen.rectangle((left, top, left + width, top + height), fill=color)
            pen.text((left + width / 2, top + height / 2), label, font=font, fill="white", anchor="mm")
            break
