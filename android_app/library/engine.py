"""ONNX Runtime for Android as an AAR: Maven Central's where it is served, else the same build out of an npm package.

The second is for trying out the sample app alone. Neither gets into dist/android/maven: an app's build fetches its own.
"""

from __future__ import annotations

import hashlib
import sys
import tarfile
import tempfile
from pathlib import Path

from android_app.library import catalog, maven, programs
from android_app.library.maven import Dependency
from pocketvlm.errors import PocketVlmError, one_line
from pocketvlm.files import write_whole

#: ONNX Runtime's version -> a package that carries its AAR (150 MB), where in it, and the AAR's SHA-256
PACKAGES = {
    "1.29.0": (
        "com.github.asus4.onnxruntime@0.4.9",
        "package/Plugins/Android/onnxruntime.aar",
        "98cddbac92640b4a6af72a03c42e0491851f366d3da66bbaeb5dd66310946cf2",
    )
}
MOST_BYTES = 256 << 20


def archive(cache: Path) -> Path:
    """The AAR of the catalog's version; one of npm is kept in ``cache``.

    Raises:
        PocketVlmError: it cannot be had here.
    """
    library = catalog.library("onnxruntime-android")
    kept = cache / f"onnxruntime-android-{library.version}.aar"
    if kept.is_file():
        return kept
    try:
        return maven.files(cache, Dependency(str(library), "aar", alone=True))[0]
    except PocketVlmError as error:
        sys.stdout.write(f"Maven Central does not serve {library} here ({one_line(error)}): its build out of npm\n")
    return _of_npm(library.version, kept)


def _of_npm(version: str, kept: Path) -> Path:
    if version not in PACKAGES:
        raise PocketVlmError(f"no npm package with ONNX Runtime {version} for Android is known: no APK")
    package, member, digest = PACKAGES[version]
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        options = ("pack", "--silent", "--pack-destination", scratch, package)
        programs.run("npm", *options, advice=f"it fetches {package}, for the sample app alone")
        (packed,) = Path(scratch).glob("*.tgz")
        write_whole(kept, member_of(packed, member, digest))
    return kept


def member_of(packed: Path, member: str, digest: str) -> bytes:
    """A file of a tar file, by its name there.

    Raises:
        PocketVlmError: it is not there, too large, or not what is expected.
    """
    try:
        with tarfile.open(packed) as tar:
            entry = tar.getmember(member)
            file = tar.extractfile(entry)
            if file is None or entry.size > MOST_BYTES:
                raise PocketVlmError(f"{packed.name}: {member} is no file, or too large")
            content = file.read(MOST_BYTES)
    except (KeyError, tarfile.TarError, EOFError, OSError) as error:
        raise PocketVlmError(f"{packed.name} has no {member}: {one_line(error)}") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise PocketVlmError(f"{packed.name}: {member} does not have the digest that is expected")
    return content
