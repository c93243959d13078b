"""A module of this project in a process of its own, by the code of this checkout or of another."""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: The folder that ``pocketvlm`` is imported from.
HERE = Path(__file__).parents[2]


def module_command(name: str, *arguments: str, code: Path | None = None) -> tuple[list[str], dict[str, str]]:
    """The command that runs it, and its environment. ``code``: a checkout whose code it has; None: this one's.

    ``python -m`` would put the current directory before all else, and with it whatever checkout or file of a library's
    name lies there: PYTHONSAFEPATH keeps it out, of what the process starts too (``-P`` does not reach so far).
    """
    root = code.resolve() if code is not None else HERE if (HERE / "pyproject.toml").is_file() else None
    path = [str(root)] if root is not None else []  # of an installed package, Python finds it
    path += filter(None, [os.environ.get("PYTHONPATH")])
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(path)}
    return [sys.executable, "-m", name, *arguments], environment
