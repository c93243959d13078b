"""From a matplotlib figure to SVG for a page: its colours are the page's CSS variables, its text is the page's font.

Figures are as wide as a phone, so that their text is readable there; a page puts several side by side.
"""

from __future__ import annotations

import io
import re
import warnings
from html import escape
from typing import TYPE_CHECKING, Any

from pocketvlm.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: inches, which are 72 units of the SVG
WIDTH = 4.8
FONT_SIZE = 10
#: Colours that nothing else has, and the CSS variables that stand for them in the page.
INK, MUTED, LINE, PAPER = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
SERIES = tuple(f"#0a0b1{number}" for number in range(1, 9))
VARIABLES = {
    INK: "ink", MUTED: "muted", LINE: "line", PAPER: "paper",
    **{color: f"c{number}" for number, color in enumerate(SERIES, start=1)},
}  # fmt: skip
#: Written as text, found by the page's search, and never taken for a formula.
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": FONT_SIZE,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
}
_FONT = re.compile(r" font-family: [^;\"]*;?")
_TAG = re.compile(r"<[^>]*>")
_REFERENCE = re.compile(r'(\bid="|href="#|url\(#)([mp][0-9a-f]{10})')


def variable(color: str) -> str:
    """The page's CSS variable for one of the colours above."""
    return f"var(--{VARIABLES[color]})"


def series_color(number: int) -> str:
    """One of ``SERIES``, which begin anew after the last."""
    return SERIES[number % len(SERIES)]


def short(text: str, most: int) -> str:
    """Foreign text for a label: on one line, at most so many characters."""
    line = one_line(text, 300)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def svg(draw: Callable[[Axes], None], *, height: float, name: str, alt: str) -> str:
    """What ``draw`` draws on axes of the page's width and ``height`` inches, as an ``svg`` element.

    ``name`` makes its ids different from those of the page's other plots, ``alt`` says what can be seen.
    """
    import matplotlib
    from matplotlib.figure import Figure

    stream = io.BytesIO()
    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        # Labels may have glyphs that matplotlib's own font lacks: the page's font draws them.
        warnings.simplefilter("ignore", UserWarning)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.subplots())
        _save(figure, stream)
    return page_svg(stream.getvalue().decode(), name, alt)


def _save(figure: Figure, stream: io.BytesIO) -> None:
    # Without a date and a creator: the same report gives the same page.
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(stream, format="svg", transparent=True, metadata=nothing)


def page_svg(text: str, name: str, alt: str) -> str:
    """matplotlib's SVG as an element of a page: no head of its own, ids of its own, colours and font of the page."""
    root = text.index("<svg")
    content = text[text.index(">", root) + 1 :]
    box = re.search(r'viewBox="([0-9. ]+)"', text)
    assert box is not None
    content = re.sub(r"<defs>\s*<style[^>]*>[^<]*</style>\s*</defs>", "", content)
    content = _TAG.sub(lambda tag: _tag(tag[0], name), content)
    content = re.sub(r">\s*\n\s*<", "><", content).strip()
    return f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(one_line(alt, 1000))}">{content}'


def _tag(tag: str, name: str) -> str:
    """Colours, font and ids of one tag; ids that nothing refers to are dropped."""
    tag = _FONT.sub("", " ".join(tag.split()))
    tag = re.sub(r' id="[^"]*[^0-9a-f"][^"]*_[0-9]+"| id="figure_1"| transform="rotate\(-0[^"]*"', "", tag)
    tag = _REFERENCE.sub(rf"\1{name}-\2", tag)
    for color in VARIABLES:
        tag = tag.replace(color, variable(color))
    return tag
