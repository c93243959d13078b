"""The sample app on Robolectric: whole conversations with the built-in model, and screenshots that were looked at."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from android_app.library import catalog
from pocketvlm import __version__
from pocketvlm.runtime import GenerationConfig, load
from pocketvlm.scenes import draw
from tests.android.maven import run_tests

MODULE = "sample"
#: Kotlin tests; fewer would mean that they were not found.
LEAST = 15
QUESTION = "What is the total?"
MANIFEST = "android_app/sample/src/main/AndroidManifest.xml"
RESOURCES = "android_app/sample/src/main/res"
ANDROID = "{http://schemas.android.com/apk/res/android}"
#: What a screen says that is no reference to a resource.
WORDS = re.compile(r'android:(?:text|hint|contentDescription|title)="([^@][^"]*)"')


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, reader_bundles: dict[str, Path]) -> Path:
    """A picture, a question about it, and the answer of Python's runtime."""
    folder = tmp_path_factory.mktemp("cases")
    picture = draw("sample", grids=((2, 2),), scenes=("receipt",)).image
    picture.save(folder / "picture.png")
    with load(reader_bundles["bluelm-v-3b"], threads=1, engine="onnx") as vlm:
        answer = vlm.stream(QUESTION, [picture], GenerationConfig(64))
        for _ in answer:
            pass
        assert answer.stats.finish_reason == "stop"
    (folder / "question.txt").write_text(QUESTION)
    (folder / "answer.txt").write_text(answer.text)
    return folder


def test_the_sample_passes_its_tests(repository: Path, cases: Path, reader_bundles: dict[str, Path]) -> None:
    given = [f"-Dcases={cases}", f"-Dbundle={reader_bundles['bluelm-v-3b']}"]
    run_tests(repository, MODULE, LEAST, *given, "-Dandroid.test.skip=true")


def test_what_compiles_resources_is_there() -> None:
    """`make test` has installed it where it could; without it this room would say nothing."""
    assert shutil.which("aapt2"), "no aapt2: bash setup.sh apk, or apt-get install aapt android-framework-res"


def test_translations_say_the_same(repository: Path) -> None:
    strings = _strings(repository / RESOURCES / "values" / "strings.xml")
    assert len(strings) > 80
    for path in sorted((repository / RESOURCES).glob("values-*/strings.xml")):
        translated = _strings(path)
        assert translated.keys() == strings.keys()
        wrong = [name for name, text in translated.items() if _arguments(text) != _arguments(strings[name])]
        assert wrong == [], path
    assert _arguments("%1$s of %2$d") != _arguments("%1$s of %2$s")


def test_screens_have_no_words_of_their_own(repository: Path) -> None:
    """All that is said is in strings.xml, where it can be translated."""
    for path in (repository / RESOURCES).glob("layout*/*.xml"):
        assert WORDS.findall(path.read_text()) == [], path
    assert WORDS.findall('android:text="Ask"') == ["Ask"]


def test_versions_are_the_catalogs(repository: Path) -> None:
    root = ElementTree.parse(repository / MANIFEST).getroot()
    levels = root.find("uses-sdk")
    assert levels is not None
    assert root.get(f"{ANDROID}versionName") == __version__
    assert levels.get(f"{ANDROID}minSdkVersion") == catalog.version("min-sdk")
    assert levels.get(f"{ANDROID}targetSdkVersion") == catalog.version("target-sdk")


def _strings(path: Path) -> dict[str, str]:
    """Texts of a resource file by name; all quantities of a plural in one."""
    root = ElementTree.parse(path).getroot()
    return {element.get("name", ""): "".join(element.itertext()) for element in root}


def _arguments(text: str) -> set[str]:
    return set(re.findall(r"%(?:\d\$)?[sd]", text))
