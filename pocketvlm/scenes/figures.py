"""Scenes of coloured things: labelled bar charts, and shapes."""

from __future__ import annotations

import random

from pocketvlm.scenes.picture import (
    COLORS,
    FIGURES,
    MARGIN,
    Color,
    DoesNotFit,
    DrawnPicture,
    Sheet,
    fitting,
    paper,
    shade,
    style,
)
from pocketvlm.scenes.questions import Fact, has, yes_or_no
from pocketvlm.scenes.words import LABELS

MAX_BARS = 6
MAX_SHAPES = 6
#: a named colour stands out from the background by at least this much in one of red, green, blue
MIN_DIFFERENCE = 70


def chart(source: random.Random, size: tuple[int, int], smallest: int) -> DrawnPicture:
    """Vertical bars: the label below each, the value above it."""
    width, height = size
    chosen = style(source, smallest, min(smallest + smallest // 2, height // 6))
    column = chosen.width("Mon") + chosen.capital
    most = min(MAX_BARS, (width - 2 * MARGIN) // column)
    lowest, room = chosen.capital // 2, height - 2 * MARGIN - 2 * chosen.line_height
    if most < 2 or room < 2 * lowest:
        raise DoesNotFit
    count = source.randint(2, most)
    column = (width - 2 * MARGIN) // count
    labels: list[str] = []
    for _ in range(count):
        labels.append(fitting(source, [x for x in LABELS if x not in labels], chosen, column - 2))
    values = source.sample(range(1, 100), count)
    background, text = paper(source)
    sheet = Sheet(size, background)
    base = height - MARGIN - chosen.line_height
    one_color = source.random() < 0.5
    names = [_visible(source, background)] * count if one_color else [_visible(source, background) for _ in labels]
    thickness = max(min(column - 4, int(column * source.uniform(0.5, 0.8))), 6)
    for index, (label, value, name) in enumerate(zip(labels, values, names, strict=True)):
        center = MARGIN + index * column + column // 2
        top = base - lowest - (room - lowest) * value // max(values)
        box = (center - thickness // 2, top, center + thickness // 2, base)
        sheet.shape(name, "bar", box, shade(name, source))
        for word, y in ((label, base + 4), (str(value), top - chosen.line_height + 3)):
            sheet.write(word, center - chosen.width(word) // 2, y, chosen, text)
    pairs = list(zip(labels, map(str, values), strict=True))
    said = tuple(f"{label} {value}" for label, value in pairs)
    one, two = source.sample(range(count), 2)
    facts = [
        *(Fact("value", value, {"label": label}) for label, value in pairs),
        Fact("highest", labels[values.index(max(values))]),
        Fact("lowest", labels[values.index(min(values))]),
        *(Fact("bar colour", name, {"label": label}) for label, name in zip(labels, names, strict=True)),
        Fact("bars", str(count)),
        yes_or_no("higher", values[one] > values[two], label=labels[one], other=labels[two]),
        *has(labels, LABELS, labels, source),
        Fact("all", "\n".join(said)),
    ]
    return DrawnPicture(sheet.image, "chart", said, tuple(sheet.marks), tuple(facts))


def shapes(source: random.Random, size: tuple[int, int], smallest: int) -> DrawnPicture:
    """Coloured circles, squares and triangles in the cells of a grid."""
    width, height = size
    cell = round(source.uniform(2, 4) * smallest)
    across, down = width // cell, height // cell
    if across * down < 1:
        raise DoesNotFit
    count = source.randint(1, min(MAX_SHAPES, across * down))
    cells = sorted(source.sample(range(across * down), count))
    background, _ = paper(source)
    sheet = Sheet(size, background)
    drawn: list[tuple[str, str]] = []
    for index in cells:
        name, shape = _visible(source, background), source.choice(FIGURES)
        side = source.randint(round(1.3 * smallest), cell - 3)
        left, top = (index % across) * cell + 1, (index // across) * cell + 1
        left += source.randint(0, cell - 2 - side)
        top += source.randint(0, cell - 2 - side)
        sheet.shape(name, shape, (left, top, left + side, top + side), shade(name, source))
        drawn.append((name, shape))
    said = tuple(f"{name} {shape}" for name, shape in drawn)
    facts = [*_shape_facts(source, drawn), Fact("all", "\n".join(said))]
    return DrawnPicture(sheet.image, "shapes", said, tuple(sheet.marks), tuple(facts))


def _shape_facts(source: random.Random, drawn: list[tuple[str, str]]) -> list[Fact]:
    color = source.choice([*(name for name, _ in drawn), source.choice(list(COLORS))])
    missing = [(name, shape) for name in COLORS for shape in FIGURES if (name, shape) not in drawn]
    (there, its_shape), (absent, other_shape) = source.choice(drawn), source.choice(missing)
    kinds = [shape for _, shape in drawn]
    return [
        Fact("shapes", str(len(drawn))),
        Fact("shapes of", str(sum(name == color for name, _ in drawn)), {"color": color}),
        *(Fact("shape colour", name, {"shape": shape}) for name, shape in drawn if kinds.count(shape) == 1),
        yes_or_no("has shape", True, color=there, shape=its_shape),
        yes_or_no("has shape", False, color=absent, shape=other_shape),
    ]


def _visible(source: random.Random, background: Color) -> str:
    """A colour's name that stands out from the background."""
    stands_out = [
        name
        for name, color in COLORS.items()
        if max(abs(a - b) for a, b in zip(color, background, strict=True)) >= MIN_DIFFERENCE
    ]
    return source.choice(stands_out)
