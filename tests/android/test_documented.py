"""All Kotlin that the pages show is compiled: it stands in a file among the Android module's tests."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

SOURCE = "android_app/pocketvlm-android/src/test/kotlin/dev/pocketvlm/android/Documented.kt"


def _blocks(page: str) -> list[str]:
    return re.findall(r"^```kotlin\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def _is_compiled(block: str, source: str) -> bool:
    """Whether the block stands in the source as it is, at whatever indent."""
    lines = textwrap.dedent(block).splitlines()
    return any(
        textwrap.indent("\n".join(lines), " " * indent, lambda line: bool(line.strip())) in source
        for indent in (0, 4, 8)
    )


def test_the_pages_show_what_is_compiled(repository: Path) -> None:
    source = (repository / SOURCE).read_text()
    pages = {path.name: _blocks(path.read_text()) for path in (repository / "docs").glob("android*.md")}
    assert len(pages["android.md"]) >= 5
    for name, blocks in pages.items():
        for block in blocks:
            assert _is_compiled(block, source), f"{name} shows what {SOURCE} does not have:\n{block}"


def test_a_changed_page_is_noticed(repository: Path) -> None:
    block = _blocks((repository / "docs/android.md").read_text())[0]
    assert not _is_compiled(block.replace("stream(", "strean("), (repository / SOURCE).read_text())
