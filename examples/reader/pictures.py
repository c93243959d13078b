"""Pictures of a few lines of digits and capitals, drawn with Pillow and its bundled font.

The same seed gives the same picture. Each character's box is known, so that a dense loss can say which character covers
a patch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from pocketvlm.images import Preprocessing, select
from pocketvlm.tiling import Grid, grid_candidates

DIGITS = "0123456789"
CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CHARACTERS = DIGITS + CAPITALS
#: in lines that mix both, 0 and O, 1 and I would be guesswork
MIXED = "".join(x for x in CHARACTERS if x not in "01OI")

#: how the model sees a picture; the published preprocessor_config.json and config.json say the same
PREPROCESSING = Preprocessing(
    tile_size=72,
    strategy="relaxed",
    candidates=grid_candidates(4, 4, 8),
    alpha=0.1,
    thumbnail="first",
    thumbnail_of_single_tile=False,
    pad_color=(127, 127, 127),
)

#: grids (across, down) that are drawn; the model has seen no others
GRIDS: tuple[Grid, ...] = ((1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (1, 3))
MAX_LINES = 4
MIN_LENGTH, MAX_LENGTH = 2, 5
#: Pillow's bundled font has capitals of 0.7 em: 15 makes them 10 px high and more
MIN_FONT_SIZE, MAX_FONT_SIZE = 15, 44
MARGIN = 3
#: smallest difference of the luminances of text and background, of 255
MIN_CONTRAST = 100

Box = tuple[float, float, float, float]
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Character:
    """A drawn character and the box of its ink: left, top, right, bottom in pixels of the picture."""

    text: str
    box: Box


@dataclass(frozen=True)
class Picture:
    """A picture and everything that is written on it."""

    image: Image.Image
    lines: tuple[str, ...]
    characters: tuple[Character, ...]


def draw(
    seed: int | str,
    *,
    grids: Sequence[Grid] = GRIDS,
    max_lines: int = MAX_LINES,
    max_length: int = MAX_LENGTH,
) -> Picture:
    """The picture of a seed: 1 to ``max_lines`` lines of 2 to ``max_length`` characters on one of ``grids``."""
    source = random.Random(seed)
    width, height = _size(source, source.choice(list(grids)))
    lines = _lines(source, source.randint(1, max_lines), max_length)
    while not _font_sizes(lines, width, height):
        # Too much text for so small a picture: fewer characters, then fewer lines.
        longest = max(map(len, lines))
        lines = [x[: longest - 1] for x in lines] if longest > MIN_LENGTH else lines[:-1]
    font_size = source.choice(_font_sizes(lines, width, height))
    background, foreground = _colors(source)
    image = Image.new("RGB", (width, height), background)
    characters = _write(source, ImageDraw.Draw(image), lines, font_size, image.size, foreground)
    return Picture(image, tuple(lines), tuple(characters))


def _size(source: random.Random, grid: Grid) -> tuple[int, int]:
    """A size (width, height) that the tiling rule cuts into ``grid``."""
    tile = PREPROCESSING.tile_size
    while True:
        width, height = (source.randint(max(48, tile * n - 44), tile * n + 10) for n in grid)
        if select((width, height), PREPROCESSING) == grid:
            return width, height


def _lines(source: random.Random, count: int, max_length: int) -> list[str]:
    """Lines of digits, of capitals, or of both."""
    lines = []
    for _ in range(count):
        alphabet = source.choices((DIGITS, CAPITALS, MIXED), weights=(4, 3, 3))[0]
        lines.append("".join(source.choices(alphabet, k=source.randint(MIN_LENGTH, max_length))))
    return lines


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType: install its wheel")
    return font


@cache
def _ink(character: str, size: int) -> tuple[int, Box]:
    """Advance and box of the ink around a pen at (0, baseline 0), pixels."""
    font = _font(size)
    # Font.getbbox reaches from the pen to the advance; the ink itself is narrower.
    paper = Image.new("L", (3 * size, 3 * size))
    ImageDraw.Draw(paper).text((size, 2 * size), character, font=font, fill=255, anchor="ls")
    left, top, right, bottom = paper.getbbox() or (size, 2 * size, size, 2 * size)
    return round(font.getlength(character)), (left - size, top - 2 * size, right - size, bottom - 2 * size)


def _line_width(text: str, size: int) -> int:
    return sum(_ink(character, size)[0] for character in text)


@cache
def _capital_height(size: int) -> int:
    """Highest ink above the baseline plus what rounds below it, pixels."""
    boxes = [_ink(character, size)[1] for character in CHARACTERS]
    return round(max(bottom for _, _, _, bottom in boxes) - min(top for _, top, _, _ in boxes))


def _font_sizes(lines: Sequence[str], width: int, height: int) -> list[int]:
    """All font sizes at which the lines fit."""
    sizes = []
    for size in range(MIN_FONT_SIZE, MAX_FONT_SIZE + 1):
        needed_width = max(_line_width(line, size) for line in lines)
        needed_height = len(lines) * (_capital_height(size) + 3) - 3
        if needed_width > width - 2 * MARGIN or needed_height > height - 2 * MARGIN:
            break
        sizes.append(size)
    return sizes


def _luminance(color: Color) -> float:
    red, green, blue = color
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _colors(source: random.Random) -> tuple[Color, Color]:
    """Background and foreground of enough contrast."""
    while True:
        background, foreground = ((source.randrange(256), source.randrange(256), source.randrange(256)) for _ in "bf")
        if abs(_luminance(background) - _luminance(foreground)) >= MIN_CONTRAST:
            return background, foreground


def _write(
    source: random.Random,
    pen: ImageDraw.ImageDraw,
    lines: Sequence[str],
    font_size: int,
    size: tuple[int, int],
    color: Color,
) -> list[Character]:
    """Write the lines from top to bottom, each left, centred, right or anywhere; character by character."""
    width, height = size
    capital = _capital_height(font_size)
    spare = height - 2 * MARGIN - len(lines) * (capital + 3) + 3
    gaps = sorted(source.randint(0, spare) for _ in lines)
    align = source.choice(("left", "centre", "right", "anywhere"))
    characters = []
    for number, (line, gap) in enumerate(zip(lines, gaps, strict=True)):
        room = width - 2 * MARGIN - _line_width(line, font_size)
        left = MARGIN + {"left": 0, "centre": room // 2, "right": room}.get(align, source.randint(0, room))
        top = MARGIN + gap + number * (capital + 3)
        # capitals have no descenders; the deepest ink is what round letters overshoot
        baseline = top - round(min(_ink(x, font_size)[1][1] for x in CHARACTERS))
        for text in line:
            advance, box = _ink(text, font_size)
            pen.text((left, baseline), text, font=_font(font_size), fill=color, anchor="ls")
            characters.append(Character(text, (left + box[0], baseline + box[1], left + box[2], baseline + box[3])))
            left += advance
    return characters
