"""The Kotlin library: built once, its own tests run beside cases that Python makes. Java and Maven come by setup.sh."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from pocketvlm import __version__
from tests.android.archives import write_archives
from tests.android.dialogues import write_dialogues
from tests.android.grammar import SOURCE, source
from tests.android.graphs import family_bundles, write_graphs
from tests.android.hostile import refuses_manifest, write_bundles, write_manifests
from tests.android.maven import run_tests
from tests.android.portable import write_portable
from tests.android.questions import write_questions, write_turns
from tests.android.stored import write_stored
from tests.android.tokenizers import write_tokenizers
from tests.android.unicode import write_unicode
from tests.runtime.test_npu_emulation import npu_bundle
from tests.support.written_bundle import write_bundle

CORE = Path("android_app") / "pocketvlm-core"
#: Texts by which each kind of tokenizer is compared.
TEXTS = 400
#: Graphs that are changed in each way.
CHANGED = 120
#: Kotlin tests; fewer would mean that they were not found.
LEAST = 46


@pytest.fixture(scope="module")
def cases(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_bundles: dict[str, Path],
    reader_bundles: dict[str, Path],
    split_bundle: Path,
    repository: Path,
) -> Path:
    """What the Kotlin tests read beside the golden files."""
    folder = tmp_path_factory.mktemp("cases")
    raw = write_bundle(folder / "raw")
    whole = json.loads((tiny_bundles["bluelm-v-3b"] / "manifest.json").read_text())
    write_manifests(folder / "manifests.jsonl", raw, whole, repository / "android_app/runner/fuzz/corpus/manifest")
    write_bundles(folder, tiny_bundles["fp32"])
    write_archives(folder / "archives")
    bundles = [*tiny_bundles.values(), *reader_bundles.values(), npu_bundle(), *family_bundles(folder / "families")]
    write_graphs(folder, bundles, CHANGED)
    write_dialogues(folder / "dialogues.jsonl", 1500)
    sources = sorted((repository / "docs").glob("*.md")) + sorted((repository / "runtime").glob("*.py"))
    write_tokenizers(folder / "tokenizers", [path.read_text() for path in sources], TEXTS)
    write_unicode(folder / "unicode.json")
    write_portable(folder / "portable.json")
    write_questions(folder, [*reader_bundles.values(), split_bundle], 10)
    write_stored(folder / "store")
    write_turns(folder, reader_bundles["bluelm-v-3b"], 4)
    return folder


def test_the_kotlin_library_passes_its_tests(repository: Path, cases: Path) -> None:
    run_tests(repository, "pocketvlm-core", LEAST, f"-Dcases={cases}")


def test_cases_are_of_both_kinds(cases: Path) -> None:
    """A reader that refuses everything, or nothing, would be seen."""
    lines = [json.loads(line) for line in (cases / "manifests.jsonl").read_text().splitlines()]
    for listed in (lines, json.loads((cases / "bundles.json").read_text())):
        assert 0 < sum(one["refused"] for one in listed) < len(listed)
    assert refuses_manifest(b"{}", loads=False)


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
