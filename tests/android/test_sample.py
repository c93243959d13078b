"""What the sample app says, in which languages, and for which Android. Its own tests are run by test_modules.py."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from android_app.library import catalog
from pocketvlm import __version__

MANIFEST = "android_app/sample/src/main/AndroidManifest.xml"
RESOURCES = "android_app/sample/src/main/res"
ANDROID = "{http://schemas.android.com/apk/res/android}"
#: What a screen says that is no reference to a resource.
WORDS = re.compile(r'android:(?:text|hint|contentDescription|title)="([^@][^"]*)"')


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


#: Text's colours, and what they stand on.
SHOWN = [(text, below) for text in ("text", "text_quiet") for below in ("background", "card")] + [
    ("text", "question"), ("text", "problem"), ("accent", "background"), ("accent", "card"), ("background", "accent"),
]  # fmt: skip
#: Of text of any size: WCAG 2.2, success criterion 1.4.3.
LEAST_CONTRAST = 4.5


@pytest.mark.parametrize("folder", ["values", "values-night"])
def test_text_can_be_read(folder: str, repository: Path) -> None:
    colors = _strings(repository / RESOURCES / folder / "colors.xml")
    faint = {pair: contrast(*(colors[name] for name in pair)) for pair in SHOWN}
    assert {pair: found for pair, found in faint.items() if found < LEAST_CONTRAST} == {}


def test_contrast_is_wcags() -> None:
    assert contrast("#000000", "#ffffff") == contrast("#ffffff", "#000000") == pytest.approx(21)
    assert 4.47 < contrast("#777777", "#ffffff") < LEAST_CONTRAST  # the best known near miss


def contrast(one: str, other: str) -> float:
    """Of two colours, 1 to 21: WCAG 2.2's contrast ratio of relative luminances."""
    darker, lighter = sorted(map(_luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: str) -> float:
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (at / 12.92 if at <= 0.04045 else ((at + 0.055) / 1.055) ** 2.4 for at in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _strings(path: Path) -> dict[str, str]:
    """Texts of a resource file by name; all quantities of a plural in one."""
    root = ElementTree.parse(path).getroot()
    return {element.get("name", ""): "".join(element.itertext()) for element in root}


def _arguments(text: str) -> set[str]:
    return set(re.findall(r"%(?:\d\$)?[sd]", text))
