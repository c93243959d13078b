"""Versions stand in gradle/libs.versions.toml alone; whatever repeats one is held to it."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from android_app.library import build, catalog
from pocketvlm import __version__

POM = "{http://maven.apache.org/POM/4.0.0}"
#: pom.xml's name of a version -> the catalog's
NAMES = {f"{name}.version": name for name in ("kotlin", "coroutines", "onnxruntime", "junit", "robolectric")} | {
    f"{name}.version": name for name in ("android-all", "android-all-instrumented")
}
ALIAS = re.compile(
    r"(?<!/)\blibs\.(?P<table>plugins\.|versions\.)?(?P<name>[a-z.]+?)(?=\.get\(\)|[^a-z.]|$)", re.MULTILINE
)
#: "group:artifact:version", or a plugin's version.
LITERAL = re.compile(r"""['"][\w.-]+:[\w.-]+:\d[^'"]*['"]|\bversion\s+['"]\d""")


@pytest.fixture(scope="module")
def poms(repository: Path) -> dict[Path, ElementTree.Element]:
    found = {path: ElementTree.parse(path).getroot() for path in (repository / "android_app").rglob("pom.xml")}
    assert len(found) >= 3
    return found


def test_the_catalog_is_held_to_the_rest(repository: Path) -> None:
    pinned = re.search(r"^onnxruntime==(\S+)", (repository / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert catalog.version("onnxruntime") == pinned[1]
    assert catalog.version("pocketvlm") == __version__


def test_poms_have_the_catalogs_versions(poms: dict[Path, ElementTree.Element]) -> None:
    wrong = [f"{path}: {line}" for path, root in poms.items() for line in _wrong(root)]
    assert wrong == []


def test_another_version_in_a_pom_is_seen(poms: dict[Path, ElementTree.Element], repository: Path) -> None:
    path = repository / "android_app" / "pom.xml"
    text = path.read_text()
    for old, new in (
        (f"<kotlin.version>{catalog.version('kotlin')}", "<kotlin.version>2.1.20"),
        ("<kotlin.version>", "<another.version>1.0</another.version><kotlin.version>"),
        (f"<version>{__version__}", "<version>0.0.9"),
    ):
        assert old in text
        assert len(_wrong(ElementTree.fromstring(text.replace(old, new)))) == 1


def _wrong(root: ElementTree.Element) -> list[str]:
    """What a POM says of versions that the catalog does not."""
    properties = {
        element.tag.removeprefix(POM): element.text for element in root.findall(f"{POM}properties/*") if element.text
    }
    wrong = [
        f"{name} is {value}"
        for name, value in properties.items()
        if name.endswith(".version") and (name not in NAMES or catalog.version(NAMES[name]) != value)
    ]
    own = root.findtext(f"{POM}parent/{POM}version") or root.findtext(f"{POM}version")
    wrong += [f"its own version is {own}"] if own != __version__ else []
    libraries = {(one.group, one.artifact): one.version for one in catalog.libraries().values()}
    for dependency in root.iter(f"{POM}dependency"):
        group, artifact, version = (
            dependency.findtext(f"{POM}{tag}") or "" for tag in ("groupId", "artifactId", "version")
        )
        if version.startswith("${"):
            continue
        if libraries.get((group, artifact)) != version:
            wrong.append(f"{group}:{artifact} is {version}")
    return wrong


def test_gradles_files_have_no_versions_of_their_own(repository: Path) -> None:
    files = sorted((repository / "android_app").rglob("*.gradle"))
    assert {path.parent.name for path in files} >= {"android_app", "pocketvlm-core", "pocketvlm-android"}
    for path in files:
        assert unknown_in(path.read_text()) == [], path


def test_a_version_in_gradles_files_is_seen() -> None:
    assert unknown_in("implementation libs.kotlin.stdlib\nalias(libs.plugins.kotlin.jvm) apply false") == []
    assert unknown_in("implementation 'org.x:y:1.0'") == ["'org.x:y:1.0'"]
    assert unknown_in("implementation libs.none") == ["none"]
    assert unknown_in("compileSdk = libs.versions.none.sdk.get().toInteger()") == ["versions.none.sdk"]


def unknown_in(text: str) -> list[str]:
    """Versions and aliases of a build.gradle that the catalog does not have."""
    tables = {None: catalog.libraries().keys(), "plugins.": catalog.plugins(), "versions.": catalog.versions()}
    aliases = {table: {name.replace("-", ".") for name in names} for table, names in tables.items()}
    return [match[0] for match in LITERAL.finditer(text)] + [
        f"{match['table'] or ''}{match['name']}"
        for match in ALIAS.finditer(text)
        if match["name"] not in aliases[match["table"]]
    ]


def test_settings_name_the_modules_that_maven_has(repository: Path) -> None:
    settings = (repository / "android_app" / "settings.gradle").read_text()
    included = re.findall(r"include ':([\w-]+)'", settings)
    pom = ElementTree.parse(repository / "android_app" / "pom.xml").getroot()
    modules = [element.text for element in pom.findall(f"{POM}modules/{POM}module")]
    assert included == modules
    assert build.LIBRARY.version == __version__
