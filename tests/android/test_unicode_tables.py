"""The Kotlin library's tables are what the installed tokenizers library says."""

from __future__ import annotations

import pytest

from android_app.unicode_tables import FOLDER, SOURCES


@pytest.mark.parametrize("name", SOURCES)
def test_tables_are_those_of_the_installed_library(name: str) -> None:
    assert (FOLDER / name).read_text() == SOURCES[name](), "python -m android_app.unicode_tables"
