"""Where the parts of the built library lie, and what the tests of it fetch."""

from __future__ import annotations

from pathlib import Path

from android_app.library import build, catalog, maven
from android_app.library.archives import zipped
from android_app.library.maven import Dependency

ANDROID_APP = Path("android_app")
#: Of the AAR in its repository, up to what tells its files apart.
FOLDER = f"dev/pocketvlm/pocketvlm/{build.LIBRARY.version}/pocketvlm-{build.LIBRARY.version}"
#: Instead of Dokka's, which takes a minute.
PAGES = zipped({"index.html": b"<html></html>"})


def jars(cache: Path, *aliases: str, alone: bool = False) -> list[Path]:
    """Of the catalog's libraries, with what they depend on unless ``alone``."""
    wanted = (Dependency(str(catalog.library(alias)), alone=alone) for alias in aliases)
    return maven.files(cache, *wanted)
