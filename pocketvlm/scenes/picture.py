"""What a scene is made of: an image, all that it says and shows, and the facts that questions ask for."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from pocketvlm.scenes.fonts import FACES, Box, Style, font
from pocketvlm.scenes.questions import Fact
from pocketvlm.scenes.words import CHARACTERS

Color = tuple[int, int, int]

#: colours that a question may ask for
COLORS: dict[str, Color] = {
    "red": (214, 40, 40),
    "green": (40, 150, 60),
    "blue": (40, 80, 210),
    "yellow": (245, 215, 50),
    "orange": (245, 140, 30),
    "purple": (130, 50, 160),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
}
FIGURES = ("circle", "square", "triangle")
SHAPES = (*FIGURES, "bar")
#: what can be marked in a picture: a character, or a coloured shape
MARKS = (*CHARACTERS, *(f"{color} {shape}" for shape in SHAPES for color in COLORS))
#: smallest difference of the luminances of text and background, of 255
MIN_CONTRAST = 90
MARGIN = 3


class DoesNotFit(Exception):  # noqa: N818 - no error: another scene is tried
    """The scene needs more room than the picture has."""


@dataclass(frozen=True)
class Mark:
    """A drawn character or shape (one of MARKS) and the box of its ink, pixels of the picture."""

    what: str
    box: Box


@dataclass(frozen=True)
class DrawnPicture:
    """An image and all that is known about it."""

    image: Image.Image
    scene: str
    lines: tuple[str, ...]
    """what a transcription says, in reading order"""
    marks: tuple[Mark, ...]
    facts: tuple[Fact, ...]


Scene = Callable[[random.Random, tuple[int, int], int], DrawnPicture]
"""Draws a picture of (width, height) pixels whose smallest capitals have the given height.

Raises DoesNotFit.
"""


class Sheet:
    """An image that is being drawn on, and the marks left so far."""

    def __init__(self, size: tuple[int, int], background: Color) -> None:
        self.image = Image.new("RGB", size, background)
        self.pen = ImageDraw.Draw(self.image)
        self.marks: list[Mark] = []

    def write(self, text: str, left: int, top: int, style: Style, color: Color) -> None:
        """Write a line whose capitals begin at ``top``."""
        baseline = top + style.capital
        self.pen.text((left, baseline), text, font=font(style.face, style.capital), fill=color, anchor="ls")
        characters = text.replace(" ", "")
        for what, (x0, y0, x1, y1) in zip(characters, style.ink(text), strict=True):
            self.marks.append(Mark(what, (left + x0, baseline + y0, left + x1, baseline + y1)))

    def shape(self, name: str, shape: str, box: tuple[int, int, int, int], color: Color) -> None:
        """Draw a shape of a named colour into a box; ``color`` is the shade of it."""
        left, top, right, bottom = box
        if shape == "circle":
            self.pen.ellipse(box, fill=color)
        elif shape == "triangle":
            self.pen.polygon([((left + right) // 2, top), (right, bottom), (left, bottom)], fill=color)
        else:
            self.pen.rectangle(box, fill=color)
        self.marks.append(Mark(f"{name} {shape}", box))


def luminance(color: Color) -> float:
    """Luma of BT.601, 0 to 255."""
    red, green, blue = color
    return 0.299 * red + 0.587 * green + 0.114 * blue


def shade(name: str, source: random.Random) -> Color:
    """A named colour, a little off."""
    red, green, blue = (min(max(value + source.randint(-14, 14), 0), 255) for value in COLORS[name])
    return red, green, blue


def ink_on(background: Color, source: random.Random) -> Color:
    """A text colour of enough contrast."""
    while True:
        color = (source.randrange(256), source.randrange(256), source.randrange(256))
        if abs(luminance(color) - luminance(background)) >= MIN_CONTRAST:
            return color


def paper(source: random.Random) -> tuple[Color, Color]:
    """Background and text colour: mostly a light or a dark theme, sometimes any two that differ enough."""
    theme = source.random()
    tint = [source.randrange(30) for _ in range(3)]
    if theme < 0.45:
        background = (255 - tint[0], 255 - tint[1], 255 - tint[2])
    elif theme < 0.7:
        background = (tint[0], tint[1], tint[2])
    else:
        background = (source.randrange(256), source.randrange(256), source.randrange(256))
    return background, ink_on(background, source)


def style(source: random.Random, smallest: int, largest: int) -> Style:
    """Any face; small capitals are likelier than large ones.

    Raises DoesNotFit when even the smallest are too large.
    """
    if largest < smallest:
        raise DoesNotFit
    capital = smallest + int((largest - smallest + 1) * source.random() ** 2)
    return Style(source.choice(list(FACES)), capital)


def fitting(source: random.Random, texts: Sequence[str], style: Style, width: int) -> str:
    """One of the texts that are at most ``width`` pixels wide.

    Raises DoesNotFit when all are wider.
    """
    # Measuring costs more than shuffling: only what is tried is measured.
    for text in source.sample(texts, len(texts)):
        if style.width(text) <= width:
            return text
    raise DoesNotFit
