"""Where the parts of the built library lie, and what the tests of it fetch."""

from __future__ import annotations

import struct
from pathlib import Path

from android_app.library import build, catalog, maven
from android_app.library.archives import unzipped, zipped
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


def elf(alignment: int = 16384, offset: int = 0, address: int = 0) -> bytes:
    """The headers of a native library of 64 bits with one segment in memory."""
    header = struct.pack("<16s2HI3QI6H", b"\x7fELF\2\1\1", 3, 183, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<2I6Q", 1, 5, offset, address, 0, 120, 120, alignment)


def engine(cache: Path) -> dict[str, bytes]:
    """What stands in for ONNX Runtime's AAR (150 MB): the same Java classes, and headers of native libraries."""
    (jar,) = jars(cache, "onnxruntime", alone=True)
    classes = {name: content for name, content in unzipped(jar).items() if name.endswith(".class")}
    natives = {f"{folder}libonnxruntime.so": elf() for folder in build.ON_PHONES}
    return {"AndroidManifest.xml": b'<manifest package="x"/>', "classes.jar": zipped(classes), **natives}
