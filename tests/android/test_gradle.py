"""An app's build finds the library: Gradle's own resolver on our repository, without Android's plugin."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from android_app.library import build, catalog, programs
from android_app.library import repository as written
from android_app.library.archives import zipped
from tests.android.library import FOLDER, engine, jars

RESOLVE = Path(__file__).parent / "stranger" / "Resolve.java"
#: What Gradle's own start asks of Java.
OPENED = ("--add-opens", "java.base/java.lang=ALL-UNNAMED")
#: A version that nobody has made.
NEWER = "999.0"


@pytest.fixture(scope="module")
def engines(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with what stands in for ONNX Runtime for Android."""
    library, archive = catalog.library("onnxruntime-android"), zipped(engine(tools))
    pom = written.pom(library, "aar", "Stands in for the engine", ())
    folder = tmp_path_factory.mktemp("engine") / "maven"
    written.write(folder, written.contents(library, {".aar": archive, ".pom": pom}))
    return folder


@pytest.fixture(scope="module")
def newer(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our repository, where the library needs a version of coroutines that is not to be had."""
    library = catalog.Library(build.LIBRARY.group, build.LIBRARY.artifact, NEWER)
    needed = written.Needed(catalog.Library("org.jetbrains.kotlinx", "kotlinx-coroutines-core", NEWER), "compile")
    pom = written.pom(library, "aar", "Cannot be resolved", (needed,))
    folder = tmp_path_factory.mktemp("newer") / "maven"
    written.write(folder, written.contents(library, {".aar": files[f"{FOLDER}.aar"], ".pom": pom}))
    return folder


@pytest.fixture(scope="module")
def said(built: Path, engines: Path, newer: Path, tools: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of the library for apps, of the one for desktops, and of the one that cannot be had."""
    gradle = os.pathsep.join(map(str, jars(tools, "gradle-api")))
    folder = tmp_path_factory.mktemp("gradle")
    places = ",".join(map(str, (built / "maven", engines, newer)))
    asked = (str(build.LIBRARY), str(build.DESKTOP), str(build.LIBRARY).replace(build.LIBRARY.version, NEWER))
    said = programs.run("java", *programs.SHORT_RUN, *OPENED, "-cp", gradle, RESOLVE, folder, places, *asked)
    return [line for line in said.splitlines() if line.startswith(("compile ", "run "))]


def test_gradle_finds_the_library_and_what_it_needs(said: list[str]) -> None:
    wanted = {
        ("compile", build.LIBRARY, "aar"),
        ("compile", catalog.library("kotlin-stdlib"), "jar"),
        ("compile", catalog.library("coroutines-core-jvm"), "jar"),
        ("run", build.LIBRARY, "aar"),
        ("run", catalog.library("kotlin-stdlib"), "jar"),
        ("run", catalog.library("coroutines-core-jvm"), "jar"),
        ("run", catalog.library("coroutines-android"), "jar"),
        ("run", catalog.library("onnxruntime-android"), "aar"),
        ("compile", build.DESKTOP, "jar"),
        ("run", build.DESKTOP, "jar"),
        ("run", catalog.library("onnxruntime"), "jar"),
    }
    of_tools = ("org.jetbrains:annotations:",)  # what Kotlin's own library brings
    found = {line for line in said if " missing " not in line and not line.split()[1].startswith(of_tools)}
    assert found == {f"{usage} {library} {extension}" for usage, library, extension in wanted}


def test_what_gradle_cannot_find_is_seen(said: list[str]) -> None:
    lines = [line for line in said if " missing " in line]
    wanted = f"missing org.jetbrains.kotlinx:kotlinx-coroutines-core:{NEWER}"
    assert sorted(lines) == [f"compile {wanted}", f"run {wanted}"]
