"""The grammar of graphs as Kotlin's source: no resource that a build of an app could leave out.

Run as ``python -m tests.android.grammar`` it writes ``Table.kt``.
"""

from __future__ import annotations

from pathlib import Path

from pocketvlm.bundle.graphs.wire import TABLE

SOURCE = Path(__file__).resolve().parents[2] / (
    "android_app/pocketvlm-core/src/main/kotlin/dev/pocketvlm/bundle/graphs/Table.kt"
)


def source() -> str:
    """What ``Table.kt`` has to be."""
    table = TABLE.read_text(encoding="utf-8")
    assert "$" not in table  # Kotlin would put a value there
    assert '"""' not in table
    return (
        "package dev.pocketvlm.bundle.graphs\n\n"
        "/** pocketvlm/bundle/graphs/grammar.json, to the byte: python -m tests.android.grammar */\n"
        f'internal const val TABLE: String = """{table}"""\n'
    )


if __name__ == "__main__":
    SOURCE.write_text(source(), encoding="utf-8")
