"""Scenes of text alone: lines on plain paper, and signs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from pocketvlm.scenes.fonts import Style
from pocketvlm.scenes.picture import (
    COLORS,
    MARGIN,
    DoesNotFit,
    DrawnPicture,
    Sheet,
    fitting,
    ink_on,
    paper,
    shade,
    style,
)
from pocketvlm.scenes.questions import Fact, has, yes_or_no
from pocketvlm.scenes.words import SIGNS, any_text, number

MAX_LINES = 7
#: how often a text that is too wide is drawn again
ATTEMPTS = 25


def lines(source: random.Random, size: tuple[int, int], smallest: int) -> DrawnPicture:
    """One to seven lines of words, numbers, prices, times and codes, anywhere on plain paper."""
    width, height = size
    chosen = style(source, smallest, min(height - 2 * MARGIN, width // 4, 4 * smallest))
    most = min(MAX_LINES, chosen.lines_in(height - 2 * MARGIN))
    if most < 1:
        raise DoesNotFit
    texts = _distinct(source, source.randint(1, most), chosen, width - 2 * MARGIN)
    background, color = paper(source)
    sheet = Sheet(size, background)
    _scatter(source, sheet, texts, chosen, color)
    facts = [*_line_facts(texts), *has(texts, [any_text(source) for _ in range(ATTEMPTS)], texts, source)]
    return DrawnPicture(sheet.image, "lines", tuple(texts), tuple(sheet.marks), tuple(facts))


def sign(source: random.Random, size: tuple[int, int], smallest: int) -> DrawnPicture:
    """One to three large lines in the middle of a coloured board."""
    width, height = size
    border = source.randint(2, 4)
    name = source.choice(list(COLORS))
    board = shade(name, source)
    count = source.randint(1, 3)
    room = height - 2 * (border + MARGIN)
    chosen = style(source, smallest, min(int(room / (1.55 * count)), width // 4, 5 * smallest))
    texts = _distinct(source, count, chosen, width - 2 * (border + MARGIN), sign_text)
    around, _ = paper(source)
    sheet = Sheet(size, around)
    sheet.pen.rectangle((border, border, width - 1 - border, height - 1 - border), fill=board)
    color = ink_on(board, source)
    if source.random() < 0.5:
        sheet.pen.rectangle((border, border, width - 1 - border, height - 1 - border), outline=color)
    top = (height - count * chosen.line_height + chosen.line_height - chosen.capital) // 2
    for index, text in enumerate(texts):
        sheet.write(text, (width - chosen.width(text)) // 2, top + index * chosen.line_height, chosen, color)
    other = source.choice([x for x in COLORS if x != name])
    facts = [
        *_line_facts(texts),
        *has(texts, [sign_text(source) for _ in range(ATTEMPTS)], texts, source),
        Fact("sign colour", name),
        yes_or_no("is sign", True, color=name),
        yes_or_no("is sign", False, color=other),
    ]
    return DrawnPicture(sheet.image, "sign", tuple(texts), tuple(sheet.marks), tuple(facts))


def sign_text(source: random.Random) -> str:
    """What a sign may say: words, at times with a number, at times in capitals."""
    text = source.choice(SIGNS)
    if source.random() < 0.25:
        text = f"{text} {number(source)}"
    return text.upper() if source.random() < 0.3 else text


def _distinct(
    source: random.Random,
    count: int,
    chosen: Style,
    width: int,
    make: Callable[[random.Random], str] = any_text,
) -> list[str]:
    """``count`` different texts that are at most ``width`` pixels wide."""
    texts: list[str] = []
    for _ in range(count):
        tried = [text for text in (make(source) for _ in range(ATTEMPTS)) if text not in texts]
        texts.append(fitting(source, tried, chosen, width))
    return texts


def _scatter(
    source: random.Random, sheet: Sheet, texts: Sequence[str], chosen: Style, color: tuple[int, int, int]
) -> None:
    """Write the lines from top to bottom, each left, centred, right or anywhere."""
    width, height = sheet.image.size
    spare = chosen.spare(height - 2 * MARGIN, len(texts))
    gaps = sorted(source.randint(0, spare) for _ in texts)
    align = source.choice(("left", "centre", "right", "anywhere"))
    for index, (text, gap) in enumerate(zip(texts, gaps, strict=True)):
        room = width - 2 * MARGIN - chosen.width(text)
        left = MARGIN + {"left": 0, "centre": room // 2, "right": room}.get(align, source.randint(0, room))
        sheet.write(text, left, MARGIN + gap + index * chosen.line_height, chosen, color)


def _line_facts(texts: Sequence[str]) -> list[Fact]:
    facts = [Fact("line", text, {"n": str(number)}) for number, text in enumerate(texts, 1)]
    return [*facts, Fact("lines", str(len(texts))), Fact("all", "\n".join(texts))]
