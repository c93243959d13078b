"""Plots of reports as SVG inside an HTML page, and pictures as PNG. A plot is one file.

matplotlib is imported only when one draws.
"""

from __future__ import annotations

from importlib.util import find_spec

from pocketvlm.errors import ResultsError

#: Of the extra "plots": what draws, and what puts drawings into a page.
PACKAGES = ("matplotlib", "jinja2")


def check_packages(what: str) -> None:
    """Before hours of work: whether ``what`` can be drawn.

    :raises ResultsError: a package is not installed
    """
    for name in PACKAGES:
        if find_spec(name) is None:
            raise ResultsError(f"{what} needs {name}: pip install 'pocketvlm[plots]'")
