"""HTML whose text is always escaped: only what this module made is taken as it is."""

from __future__ import annotations

from html import escape

from pocketvlm.errors import one_line

#: Elements without an end.
VOID = ("meta", "link")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


#: What may stand in an element: text, which is escaped, markup, or nothing.
Child = str | Markup | None


def element(name: str, /, *children: Child, **attributes: str | None) -> Markup:
    """``<name attributes>children</name>``.

    Python's own words are written with an underscore behind, others with underscores for hyphens: ``class_``,
    ``aria_label``. An attribute that is None is left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    start = f"<{name}{written}>"
    return Markup(start if name in VOID else f"{start}{fragment(*children)}</{name}>")


def fragment(*children: Child) -> Markup:
    """Children one after the other."""
    return Markup("".join(_escaped(child) for child in children if child is not None))


def text(foreign: object, most: int = 300) -> str:
    """Foreign text on one line, without control characters; it is escaped where it becomes a child."""
    return one_line(foreign, most)


def _escaped(child: str | Markup) -> str:
    return child if isinstance(child, Markup) else escape(child)
