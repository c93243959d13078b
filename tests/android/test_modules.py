"""The Kotlin library's own tests and the sample app's, beside cases that Python makes. Java and Maven come by setup.sh.

Android's part and the sample run on Robolectric: Android's classes on this machine's JVM.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pocketvlm.runtime import GenerationConfig, load
from pocketvlm.scenes import draw
from tests.android.archives import write_archives
from tests.android.dialogues import write_dialogues
from tests.android.graphs import family_bundles, write_graphs
from tests.android.hostile import refuses_manifest, write_bundles, write_manifests
from tests.android.maven import KEYS, counts, counts_of, run_tests
from tests.android.pictures import write_large, write_pictures
from tests.android.portable import write_portable
from tests.android.questions import write_questions, write_turns
from tests.android.stored import write_stored
from tests.android.tokenizers import write_tokenizers
from tests.android.unicode import write_unicode
from tests.runtime.test_npu_emulation import npu_bundle
from tests.support.written_bundle import write_bundle

#: How many tests each has at least; fewer would mean that they were not found.
LEAST = {"pocketvlm-core": 96, "pocketvlm-android": 33, "sample": 17}
#: Texts by which each kind of tokenizer is compared.
TEXTS = 400
#: Graphs that are changed in each way.
CHANGED = 120
QUESTION = "What is the total?"


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
    write_pictures(folder / "pictures")
    write_large(folder / "large.png", 12000, 9000)
    write_asked(folder, reader_bundles["bluelm-v-3b"])
    return folder


def write_asked(folder: Path, bundle: Path) -> None:
    """The built-in model, a picture, a question about it, and the answer of Python's runtime."""
    (folder / "bundle.txt").write_text(str(bundle))
    picture = draw("sample", grids=((2, 2),), scenes=("receipt",)).image
    picture.save(folder / "picture.png")
    with load(bundle, threads=1, engine="onnx") as vlm:
        answer = vlm.stream(QUESTION, [picture], GenerationConfig(64))
        for _ in answer:
            pass
        assert answer.stats.finish_reason == "stop"
    (folder / "question.txt").write_text(QUESTION)
    (folder / "answer.txt").write_text(answer.text)


@pytest.fixture(scope="module")
def said(repository: Path, cases: Path, reader_bundles: dict[str, Path]) -> str:
    """What Maven says of all tests."""
    return run_tests(repository, tuple(LEAST), f"-Dcases={cases}", f"-Dbundle={reader_bundles['bluelm-v-3b']}")


@pytest.mark.parametrize("module", LEAST)
def test_a_modules_own_tests_pass(said: str, repository: Path, module: str) -> None:
    found = counts(repository, module)
    assert (found["failures"], found["errors"], found["skipped"]) == (0, 0, 0), said[-8000:]
    assert found["tests"] >= LEAST[module]


def test_a_failure_is_counted() -> None:
    report = '<testsuite xmlns="x" name="ATest" time="1" tests="3" errors="1" skipped="0" failures="2"><testcase/>'
    assert counts_of(report + report) == dict(zip(KEYS, (6, 4, 2, 0), strict=True))


def test_cases_are_of_both_kinds(cases: Path) -> None:
    """A reader that refuses everything, or nothing, would be seen."""
    lines = [json.loads(line) for line in (cases / "manifests.jsonl").read_text().splitlines()]
    for listed in (lines, json.loads((cases / "bundles.json").read_text())):
        assert 0 < sum(one["refused"] for one in listed) < len(listed)
    assert refuses_manifest(b"{}", loads=False)


def test_pictures_are_of_both_kinds(cases: Path) -> None:
    """A decoder that refuses everything, or nothing, would be seen."""
    lines = (cases / "pictures" / "list.txt").read_text().splitlines()
    assert 10 <= sum(line.endswith(" 0 0 0") for line in lines) < len(lines) - 40
    assert all(line.startswith("refused") == line.endswith(" 0 0 0") for line in lines)
