"""The Android library as an app gets it: compiled once a run, for all who look at it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from android_app.library import build, classfile, maven
from android_app.library import repository as written
from android_app.library.archives import tree, unzipped
from android_app.library.classfile import ClassFile
from tests.android.library import ANDROID_APP, FOLDER, PAGES, jars
from tests.support.once import once


@pytest.fixture(scope="session")
def tools(shared: Path) -> Path:
    """Which files the tools are."""
    return shared / "android-tools"


@pytest.fixture(scope="session")
def built(repository: Path, shared: Path) -> Path:
    """A folder with the Maven repository, ``maven``, and what was compiled for it, ``build``, of a copy elsewhere.

    Read only.
    """

    def make(folder: Path) -> None:
        copy = folder / "elsewhere" / ANDROID_APP
        copy.mkdir(parents=True)
        shutil.copy(repository / ANDROID_APP / "pom.xml", copy)
        for module in (*maven.MODULES, "testing", "sample"):
            shutil.copytree(repository / ANDROID_APP / module, copy / module, copy_function=shutil.copyfile)
        written.write(folder / "maven", build.library(copy, folder / "build", PAGES))

    return once(shared / "android-library", make)


@pytest.fixture(scope="session")
def files(built: Path) -> dict[str, bytes]:
    """The Maven repository's files."""
    return tree(built / "maven")


@pytest.fixture(scope="session")
def archive(files: dict[str, bytes]) -> dict[str, bytes]:
    """The AAR's files."""
    return unzipped(files[f"{FOLDER}.aar"])


@pytest.fixture(scope="session")
def classes(archive: dict[str, bytes]) -> list[ClassFile]:
    found = unzipped(archive["classes.jar"])
    return [classfile.read(content) for name, content in found.items() if name.endswith(".class")]


@pytest.fixture(scope="session")
def r8(tools: Path) -> Path:
    (jar,) = jars(tools, "r8", alone=True)
    return jar
