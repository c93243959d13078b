"""The Kotlin library's own tests and the sample app's, beside cases that Python makes. Java and Maven come by setup.sh.

Android's part and the sample run on Robolectric: Android's classes on this machine's JVM.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from android_app.library import aar, apk, build, catalog, maven, programs
from android_app.library.archives import tree
from pocketvlm.errors import PocketVlmError
from pocketvlm.export import export_bundle
from pocketvlm.runtime import GenerationConfig, load
from pocketvlm.scenes import draw
from tests.android.archives import write_archives
from tests.android.dialogues import write_dialogues
from tests.android.graphs import family_bundles, write_graphs
from tests.android.hostile import refuses_manifest, write_bundles, write_manifests
from tests.android.library import ANDROID_APP, PAGES, engine
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
LEAST = {"pocketvlm-core": 126, "pocketvlm-android": 35, "sample": 17}
#: Texts by which each kind of tokenizer is compared.
TEXTS = 400
#: Graphs that are changed in each way.
CHANGED = 120
#: Families whose pictures have their own resolution, or whose tokens see each other.
NATIVE = (
    "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "lfm2_vl", "gemma3", "paligemma", "minicpmv", "minicpmv4_6", "qwen3_5",
    "gemma4",
)  # fmt: skip
#: Of them those that answer one question.
ONCE = ("paligemma",)
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
    families = family_bundles(folder / "families")
    bundles = [*tiny_bundles.values(), *reader_bundles.values(), npu_bundle(), *families]
    write_graphs(folder, bundles, CHANGED)
    write_dialogues(folder / "dialogues.jsonl", 1500)
    sources = sorted((repository / "docs").glob("*.md")) + sorted((repository / "runtime").glob("*.py"))
    write_tokenizers(folder / "tokenizers", [path.read_text() for path in sources], TEXTS)
    write_unicode(folder / "unicode.json")
    write_portable(folder / "portable.json")
    checkpoint = folder / "families" / "checkpoints" / "qwen3_5"
    export_bundle(checkpoint, folder / "states", recipe="fp32", backends=["onnx"], max_length=448)
    native = [path for path in families if path.name in NATIVE]
    write_questions(folder, [*reader_bundles.values(), split_bundle, *native], 10)
    write_stored(folder / "store")
    write_turns(folder, reader_bundles["bluelm-v-3b"], 4)
    for path in (path for path in native if path.name not in ONCE):
        write_turns(folder, path, 2, f"turns-{path.name}")
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


def test_another_folder_and_another_day_give_the_same_library(
    said: str, files: dict[str, bytes], repository: Path
) -> None:
    """Of what was compiled for the tests here and for an app elsewhere, by files that are as old as their copy."""
    assert said is not None
    core, android = (tree(repository / "build" / "android" / module / "classes") for module in maven.MODULES)
    assert build.packed(repository / ANDROID_APP, core, android, PAGES) == files
    core["another"] = b""
    assert build.packed(repository / ANDROID_APP, core, android, PAGES) != files


# --- The sample app's APK ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(said: str, repository: Path, tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of what was compiled for the tests, as `make apk` builds it; only the engine's native part is not in it."""
    assert said is not None
    classes = [tree(repository / "build" / "android" / module / "classes", ".class") for module in LEAST]
    folder = tmp_path_factory.mktemp("apk") / "app"
    return build.sample_apk(classes, engine(tools), folder, tools)


def test_the_apk_is_what_a_phone_installs(sample: Path) -> None:
    said = programs.run("aapt2", "dump", "badging", sample)
    assert "package: name='dev.pocketvlm.sample'" in said
    for name in ("min-sdk", "target-sdk"):
        assert f"dkVersion:'{catalog.version(name)}'" in said
    assert "launchable-activity: name='dev.pocketvlm.sample.MainActivity'" in said
    assert "native-code: 'arm64-v8a' 'x86_64'" in said


def test_all_that_the_manifest_names_is_in_the_code(sample: Path) -> None:
    application = ElementTree.parse(sample.with_name("AndroidManifest.xml")).getroot().find("application")
    assert application is not None
    package = "dev.pocketvlm.sample"
    components = [one.get(f"{{{aar.ANDROID}}}name", "") for one in application if one.tag in ("activity", "service")]
    names = {f"{package}{name}" if name.startswith(".") else name for name in components}
    assert {f"{package}.MainActivity", "dev.pocketvlm.android.ProbeService"} <= names <= apk.class_names(sample)


def test_an_apk_that_was_changed_or_lacks_its_activity_is_refused(sample: Path, tmp_path: Path) -> None:
    with pytest.raises(PocketVlmError, match=r"has no class dev\.pocketvlm\.sample\.Other"):
        apk.verify(sample, "dev.pocketvlm.sample.Other")
    changed = tmp_path / "changed.apk"
    shutil.copy(sample, changed)
    content = bytearray(changed.read_bytes())
    content[content.index(b"classes.dex") + 40] ^= 1
    changed.write_bytes(content)
    with pytest.raises(PocketVlmError, match="apksigner failed"):
        apk.verify(changed, "dev.pocketvlm.sample.MainActivity")


def test_a_failure_is_counted() -> None:
    report = '<testsuite xmlns="x" name="ATest" time="1" tests="3" errors="1" skipped="0" failures="2"><testcase/>'
    assert counts_of(report + report) == dict(zip(KEYS, (6, 4, 2, 0), strict=True))


def test_cases_are_of_both_kinds(cases: Path) -> None:
    """A reader that refuses everything, or nothing, would be seen."""
    lines = [json.loads(line) for line in (cases / "manifests.jsonl").read_text().splitlines()]
    graphs = [json.loads(line) for line in (cases / "graphs.jsonl").read_text().splitlines()]
    for listed in (lines, json.loads((cases / "bundles.json").read_text())):
        assert 0 < sum(one["refused"] for one in listed) < len(listed)
    assert 100 < sum(bool(one["refused"]) for one in graphs) < len(graphs) - 60
    assert refuses_manifest(b"{}", loads=False)


def test_pictures_are_of_both_kinds(cases: Path) -> None:
    """A decoder that refuses everything, or nothing, would be seen."""
    lines = (cases / "pictures" / "list.txt").read_text().splitlines()
    assert 10 <= sum(line.endswith(" 0 0 0") for line in lines) < len(lines) - 40
    assert all(line.startswith("refused") == line.endswith(" 0 0 0") for line in lines)
