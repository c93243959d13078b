"""Typefaces by the height of their capitals, and where their ink lies.

Pillow's bundled face is always there; the others come with ``pip install 'pocketvlm[scenes]'``.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pocketvlm.errors import PocketVlmError

#: left, top, right, bottom, pixels
Box = tuple[float, float, float, float]

#: name -> package and file; Aileron is the face that Pillow brings
FACES: dict[str, tuple[str, str] | None] = {
    "Aileron": None,
    "Lato": ("font_lato", "Lato-Regular.ttf"),
    "Lato Bold": ("font_lato", "Lato-Bold.ttf"),
    "Source Sans Semibold": ("font_source_sans_pro", "SourceSansPro-Semibold.ttf"),
    "Caladea": ("font_caladea", "Caladea-Regular.ttf"),
    "Caladea Bold": ("font_caladea", "Caladea-Bold.ttf"),
}


@dataclass(frozen=True)
class Style:
    """A face and the height of its capitals in pixels."""

    face: str
    capital: int

    @property
    def line_height(self) -> int:
        """From the top of one line's capitals to the next line's, pixels: descenders reach 0.3 below the baseline."""
        return round(1.55 * self.capital)

    def spare(self, height: int, count: int) -> int:
        """What ``count`` lines leave of ``height``, pixels: below the last one there is room for descenders."""
        return height - count * self.line_height + self.capital // 4

    def lines_in(self, height: int) -> int:
        """How many lines fit into ``height`` pixels."""
        return self.spare(height, 0) // self.line_height

    def width(self, text: str) -> int:
        """Advance of a text, pixels."""
        return _width(self.face, self.capital, text)

    def ink(self, text: str) -> list[Box]:
        """The box of each character's ink, around a pen at (0, baseline 0); a space has none."""
        boxes = []
        for end, character in enumerate(text, 1):
            if character == " ":
                continue
            advance, (left, top, right, bottom) = _ink(self.face, self.capital, character)
            pen = font(self.face, self.capital).getlength(text[:end]) - advance  # kerning moves the pen
            boxes.append((pen + left, top, pen + right, bottom))
        return boxes


@cache
def font(face: str, capital: int) -> ImageFont.FreeTypeFont:
    """The face at the smallest size whose H is ``capital`` pixels high.

    :raises PocketVlmError: the package that brings the face is not installed
    """
    # Capitals are 0.6 to 0.8 em high.
    sizes = range(capital, 2 * capital + 3)
    return next(found for size in sizes if _capital_height(found := _sized(face, size)) >= capital)


def _capital_height(face: ImageFont.FreeTypeFont) -> float:
    return -face.getbbox("H", anchor="ls")[1]


def _sized(face: str, size: int) -> ImageFont.FreeTypeFont:
    place = FACES[face]
    # The basic layout is the same on every machine.
    if place is not None:
        return ImageFont.truetype(_path(*place), size, layout_engine=ImageFont.Layout.BASIC)
    found = ImageFont.load_default(size=size)
    if not isinstance(found, ImageFont.FreeTypeFont):
        raise PocketVlmError("this Pillow was built without FreeType: install its wheel")
    return found


@cache
def _path(package: str, name: str) -> str:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise PocketVlmError("the typefaces are not installed: pip install 'pocketvlm[scenes]'")
    return str(Path(found.origin).parent / "files" / name)


@cache
def _width(face: str, capital: int, text: str) -> int:
    return round(font(face, capital).getlength(text))


@cache
def _ink(face: str, capital: int, character: str) -> tuple[float, Box]:
    """Advance, and the box of the ink around a pen at (0, baseline 0), pixels."""
    found = font(face, capital)
    # Font.getbbox reaches from the pen to the advance; the ink itself is narrower.
    paper = Image.new("L", (4 * capital, 4 * capital))
    x, y = capital, 2 * capital
    ImageDraw.Draw(paper).text((x, y), character, font=found, fill=255, anchor="ls")
    left, top, right, bottom = paper.getbbox() or (x, y, x, y)
    return found.getlength(character), (left - x, top - y, right - x, bottom - y)
