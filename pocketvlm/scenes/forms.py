"""Scenes of labels and values: receipts, and phone screens with a status bar and a list or a dialog."""

from __future__ import annotations

import random
from collections.abc import Sequence

from pocketvlm.scenes.fonts import Style
from pocketvlm.scenes.picture import (
    MARGIN,
    Color,
    DoesNotFit,
    DrawnPicture,
    Sheet,
    fitting,
    ink_on,
    paper,
    style,
)
from pocketvlm.scenes.questions import Fact, has, yes_or_no
from pocketvlm.scenes.words import APPS, BUTTONS, GOODS, MESSAGES, SHOPS, STATES, SWITCHES, clock, money, price

MAX_ITEMS = 6


def receipt(source: random.Random, size: tuple[int, int], smallest: int) -> DrawnPicture:
    """A shop's name, perhaps the time, some goods with their prices, and the total."""
    width, height = size
    chosen = style(source, smallest, min(2 * smallest, width // 6))
    room = width - 2 * MARGIN
    rows = chosen.lines_in(height - 2 * MARGIN)
    with_time = rows >= 4 and source.random() < 0.6
    most = min(MAX_ITEMS, rows - 2 - with_time)
    if most < 1:
        raise DoesNotFit
    shop = fitting(source, SHOPS, chosen, room)
    prices = [price(source) for _ in range(source.randint(1, most))]
    goods = _labels(source, GOODS, chosen, [room - chosen.width(money(cents)) for cents in prices])
    total_label = source.choice(("Total", "TOTAL"))
    items = [(label, money(cents)) for label, cents in zip(goods, prices, strict=True)]
    total = money(sum(prices))
    if chosen.width(total_label + total) + chosen.capital > room:
        raise DoesNotFit
    time = [clock(source)] if with_time else []
    sheet = _receipt_sheet(source, size, chosen, [shop, *time], items, (total_label, total))
    said = (shop, *time, *(f"{label} {text}" for label, text in items), f"{total_label} {total}")
    facts = [
        Fact("shop", shop),
        Fact("total", total),
        Fact("total", total),
        *(Fact("time", text) for text in time),
        *(Fact("price", text, {"label": label}) for label, text in items),
        Fact("items", str(len(items))),
        *has(goods, GOODS, said, source),
        Fact("all", "\n".join(said)),
    ]
    return DrawnPicture(sheet.image, "receipt", said, tuple(sheet.marks), tuple(facts))


def _receipt_sheet(
    source: random.Random,
    size: tuple[int, int],
    chosen: Style,
    head: Sequence[str],
    items: Sequence[tuple[str, str]],
    total: tuple[str, str],
) -> Sheet:
    width, height = size
    background, color = paper(source)
    sheet = Sheet(size, background)
    count = len(head) + len(items) + 1
    spare = chosen.spare(height - 2 * MARGIN, count)
    pitch = chosen.line_height + source.randint(0, min(spare // count, chosen.capital))
    top = MARGIN + source.randint(0, max(spare - (pitch - chosen.line_height) * (count - 1), 0))
    for text in head:
        sheet.write(text, (width - chosen.width(text)) // 2, top, chosen, color)
        top += pitch
    for row in (*items, total):
        if row is total:
            line = top - (pitch - chosen.capital) // 3
            sheet.pen.line((MARGIN, line, width - MARGIN, line), fill=color)
        _row(sheet, row, top, chosen, color)
        top += pitch
    return sheet


def screen(source: random.Random, size: tuple[int, int], smallest: int) -> DrawnPicture:
    """A phone's screen: the time and the battery's level, then a titled list or a dialog."""
    width, _ = size
    small = Style(style(source, smallest, smallest).face, smallest)
    chosen = Style(small.face, style(source, smallest, min(2 * smallest, width // 6)).capital)
    time, battery = clock(source), f"{source.randint(1, 100)}%"
    if small.width(time + battery) + small.capital > width - 2 * MARGIN:
        raise DoesNotFit
    background, color = paper(source)
    sheet = Sheet(size, background)
    _row(sheet, (time, battery), MARGIN, small, color)
    top = MARGIN + small.line_height + source.randint(0, small.capital // 2)
    body = source.choice((_list, _list, _dialog))
    said, facts = body(source, sheet, top, chosen, (background, color))
    said = [f"{time} {battery}", *said]
    bar = [Fact("time", time), Fact("battery", battery)]
    return DrawnPicture(
        sheet.image, "screen", tuple(said), tuple(sheet.marks), (*bar, *facts, Fact("all", "\n".join(said)))
    )


def _list(
    source: random.Random, sheet: Sheet, top: int, chosen: Style, colors: tuple[Color, Color]
) -> tuple[list[str], list[Fact]]:
    """A title and rows of apps, or of switches and their states; ``colors`` are background and text."""
    background, color = colors
    width, height = sheet.image.size
    room = width - 2 * MARGIN
    most = min(MAX_ITEMS, chosen.lines_in(height - MARGIN - top) - 1)
    if most < 1:
        raise DoesNotFit
    count = source.randint(1, most)
    title = fitting(source, APPS, chosen, room)
    states = [source.choice(STATES) for _ in range(count)] if source.random() < 0.6 else []
    widest = chosen.width("Off")
    names = _labels(source, SWITCHES if states else APPS, chosen, [room - (widest if states else 0)] * count, title)
    spare = chosen.spare(height - MARGIN - top, count + 1)
    pitch = chosen.line_height + source.randint(0, min(spare // (count + 1), chosen.capital))
    title_color = ink_on(background, source) if source.random() < 0.5 else color
    left = MARGIN if source.random() < 0.6 else (width - chosen.width(title)) // 2
    sheet.write(title, left, top, chosen, title_color)
    separated = source.random() < 0.5
    for index, name in enumerate(names):
        top += pitch
        if separated and pitch > chosen.line_height:
            line = top - (pitch - chosen.capital) // 3
            sheet.pen.line((0, line, width, line), fill=color)
        _row(sheet, (name, states[index] if states else ""), top, chosen, color)
    facts = [
        Fact("title", title),
        *(Fact("item", name, {"n": str(number)}) for number, name in enumerate(names, 1)),
        Fact("items", str(count)),
        *has(names, (*APPS, *SWITCHES), (title, *names), source),
    ]
    for name, state in zip(names, states, strict=False):
        facts += [Fact("value", state, {"label": name}), yes_or_no("is on", state == "On", label=name)]
    said = [f"{name} {states[index]}" if states else name for index, name in enumerate(names)]
    return [title, *said], facts


def _dialog(
    source: random.Random, sheet: Sheet, top: int, chosen: Style, colors: tuple[Color, Color]
) -> tuple[list[str], list[Fact]]:
    """A framed message over two buttons."""
    width, height = sheet.image.size
    room = width - 4 * MARGIN
    needed = 2 * chosen.line_height + chosen.capital + 2 * MARGIN
    if height - MARGIN - top < needed:
        raise DoesNotFit
    message = fitting(source, MESSAGES, chosen, room)
    pairs = [tuple(source.sample(BUTTONS, 2)) for _ in range(20)]
    pairs = [pair for pair in pairs if chosen.width("".join(pair)) + 2 * chosen.capital <= room]
    if not pairs:
        raise DoesNotFit
    left_button, right_button = pairs[0]
    top += source.randint(0, height - MARGIN - top - needed)
    background, text = paper(source)
    frame = (MARGIN, top, width - 1 - MARGIN, top + needed - 1)
    sheet.pen.rectangle(frame, fill=background, outline=colors[1])
    sheet.write(message, 2 * MARGIN, top + MARGIN + chosen.capital // 2, chosen, text)
    button_top = top + needed - MARGIN - chosen.capital - chosen.capital // 3
    sheet.write(left_button, 2 * MARGIN, button_top, chosen, text)
    sheet.write(right_button, width - 2 * MARGIN - chosen.width(right_button), button_top, chosen, text)
    facts = [
        Fact("message", message),
        Fact("left button", left_button),
        Fact("right button", right_button),
        *has((left_button, right_button), BUTTONS, (message, left_button, right_button), source),
    ]
    return [message, f"{left_button} {right_button}"], facts


def _row(sheet: Sheet, row: tuple[str, str], top: int, chosen: Style, color: Color) -> None:
    """A label at the left and a value at the right."""
    label, value = row
    sheet.write(label, MARGIN, top, chosen, color)
    sheet.write(value, sheet.image.width - MARGIN - chosen.width(value), top, chosen, color)


def _labels(source: random.Random, words: Sequence[str], chosen: Style, rooms: Sequence[int], *taken: str) -> list[str]:
    """Different labels, each narrow enough for its room less a gap."""
    labels: list[str] = []
    for room in rooms:
        left = [word for word in words if word not in labels and word not in taken]
        labels.append(fitting(source, left, chosen, room - chosen.capital))
    return labels
