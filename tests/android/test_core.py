"""What the Kotlin core has from elsewhere in the repository. Its own tests are run by test_modules.py."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from pocketvlm import __version__
from tests.android.grammar import SOURCE, source

CORE = Path("android_app") / "pocketvlm-core"


def test_the_grammar_of_graphs_is_pythons() -> None:
    """python -m tests.android.grammar"""
    assert SOURCE.read_text(encoding="utf-8") == source()


def test_versions_are_those_of_the_rest(repository: Path) -> None:
    pom = (repository / CORE.parent / "pom.xml").read_text()
    constants = (repository / CORE / "src/main/kotlin/dev/pocketvlm/Version.kt").read_text()
    onnxruntime = re.search(r"^onnxruntime==(\S+)", (repository / "constraints.txt").read_text(), re.MULTILINE)
    assert onnxruntime is not None
    assert f"<version>{__version__}</version>" in pom
    assert f"<onnxruntime.version>{onnxruntime[1]}<" in pom
    assert re.findall(r'= "([\d.]+)"', constants) == [__version__, onnxruntime[1]]


def test_java_and_maven_are_there() -> None:
    """`make test` has installed them where it could; without them this room would say nothing."""
    assert shutil.which("mvn"), "no Maven: bash setup.sh java, or apt-get install maven openjdk-17-jdk-headless"
