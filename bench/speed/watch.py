"""Who hears what is measured next."""

from __future__ import annotations

from collections.abc import Callable

#: Said before each row: its name.
Watch = Callable[[str], None]
