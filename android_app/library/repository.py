"""A Maven repository as a folder: artifacts with their checksums, replaced as a whole when it is complete."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from android_app.library.catalog import Library

CHECKSUMS = ("md5", "sha1", "sha256", "sha512")


@dataclass(frozen=True)
class Needed:
    """A dependency in a POM. ``scope``: compile, where its types stand in the public API, else runtime."""

    library: Library
    scope: str
    packaging: str = "jar"


def pom(library: Library, packaging: str, description: str, needed: tuple[Needed, ...]) -> bytes:
    """A POM that Maven and Gradle read."""
    dependencies = "".join(
        "    <dependency>\n"
        f"      <groupId>{escape(one.library.group)}</groupId>\n"
        f"      <artifactId>{escape(one.library.artifact)}</artifactId>\n"
        f"      <version>{escape(one.library.version)}</version>\n"
        + (f"      <type>{one.packaging}</type>\n" if one.packaging != "jar" else "")
        + f"      <scope>{one.scope}</scope>\n"
        "    </dependency>\n"
        for one in needed
    )
    return f"""\
<?xml version="1.0" encoding="UTF-8"?>
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>{escape(library.group)}</groupId>
  <artifactId>{escape(library.artifact)}</artifactId>
  <version>{escape(library.version)}</version>
  <packaging>{packaging}</packaging>
  <name>{escape(library.artifact)}</name>
  <description>{escape(description)}</description>
  <licenses>
    <license><name>Apache-2.0</name><distribution>repo</distribution></license>
  </licenses>
  <dependencies>
{dependencies}  </dependencies>
</project>
""".encode()


def metadata(library: Library) -> bytes:
    """``maven-metadata.xml``: which versions there are."""
    return f"""\
<?xml version="1.0" encoding="UTF-8"?>
<metadata>
  <groupId>{escape(library.group)}</groupId>
  <artifactId>{escape(library.artifact)}</artifactId>
  <versioning>
    <latest>{escape(library.version)}</latest>
    <release>{escape(library.version)}</release>
    <versions><version>{escape(library.version)}</version></versions>
  </versioning>
</metadata>
""".encode()


def contents(library: Library, artifacts: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of a repository by their path: ``artifacts`` are by what follows the version (".aar", ".pom")."""
    folder = f"{library.group.replace('.', '/')}/{library.artifact}"
    files = {
        f"{folder}/{library.version}/{library.artifact}-{library.version}{suffix}": content
        for suffix, content in artifacts.items()
    }
    files[f"{folder}/maven-metadata.xml"] = metadata(library)
    checksums = {
        f"{name}.{kind}": hashlib.new(kind, content, usedforsecurity=False).hexdigest().encode()
        for name, content in files.items()
        for kind in CHECKSUMS
    }
    return {**files, **checksums}


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace a folder by these files."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial:
        target = Path(partial) / "new"
        for name, content in files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if folder.is_dir():
            folder.rename(Path(partial) / "old")
        elif folder.exists():
            folder.unlink()
        target.rename(folder)
        shutil.rmtree(Path(partial) / "old", ignore_errors=True)
