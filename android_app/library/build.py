"""Build what an app developer uses: python -m android_app.library.build TARGET...

aar     the library as a Maven repository, into dist/android/maven, with dist/android/README.md
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

from android_app.library import aar, catalog, maven, pages, repository
from android_app.library.archives import tree, zipped
from android_app.library.catalog import Library
from android_app.library.repository import Needed
from pocketvlm import __version__
from pocketvlm.errors import PocketVlmError, one_line
from pocketvlm.files import write_whole

HERE = Path(__file__).resolve().parent
MODULES = HERE.parent
REPOSITORY = MODULES.parent
BUILD = REPOSITORY / "build" / "android"
DIST = REPOSITORY / "dist" / "android"
PACKAGES = DIST / "maven"
GROUP = "dev.pocketvlm"
LIBRARY = Library(GROUP, "pocketvlm", __version__)
#: Core alone, for programs on a desktop and for an app's tests on the JVM.
DESKTOP = Library(GROUP, "pocketvlm-jvm", __version__)
DESCRIPTION = "Vision-language models on a phone, over ONNX Runtime"


def library(modules: Path, build: Path, pages: bytes) -> dict[str, bytes]:
    """Compile the modules of an android_app folder; gives the files of a Maven repository. ``pages``: a jar of them.

    Raises:
        PocketVlmError: there is no Maven or JDK, or the code does not compile.
    """
    core, android = (tree(folder) for folder in maven.compile_modules(modules, build))
    core_sources, android_sources = (
        tree(modules / module / "src" / "main" / "kotlin", ".kt") for module in maven.MODULES
    )
    least = catalog.version("min-sdk")
    folder = modules / maven.MODULES[1]
    manifest = aar.library_manifest((folder / "src" / "main" / "AndroidManifest.xml").read_bytes(), least)
    rules = (folder / "consumer-rules.pro").read_bytes()
    kotlin = Needed(catalog.library("kotlin-stdlib"), "compile")
    coroutines = Needed(catalog.library("coroutines-core"), "compile")
    main = Needed(catalog.library("coroutines-android"), "runtime")
    desktop = Needed(catalog.library("onnxruntime"), "runtime")
    engine = Needed(catalog.library("onnxruntime-android"), "runtime", "aar")
    on_phones = {
        ".aar": aar.aar(aar.merged((core, android)), manifest, rules, least),
        ".pom": repository.pom(LIBRARY, "aar", DESCRIPTION, (kotlin, coroutines, main, engine)),
        "-sources.jar": zipped(aar.merged((core_sources, android_sources))),
        "-javadoc.jar": pages,
    }
    on_desktops = {
        ".jar": zipped(core),
        ".pom": repository.pom(DESKTOP, "jar", f"{DESCRIPTION}: without Android", (kotlin, coroutines, desktop)),
        "-sources.jar": zipped(core_sources),
        "-javadoc.jar": pages,
    }
    return {**repository.contents(LIBRARY, on_phones), **repository.contents(DESKTOP, on_desktops)}


def build_library() -> None:
    """``aar``."""
    files = library(MODULES, BUILD, _pages())
    repository.write(PACKAGES, files)
    write_whole(DIST / "README.md", readme(DIST))
    for name, content in files.items():
        if name.endswith((".aar", ".jar")):
            sys.stdout.write(f"{len(content) / 1000:>8.1f} kB  {(PACKAGES / name).relative_to(REPOSITORY)}\n")
    sys.stdout.write(f"How an app gets it: {(DIST / 'README.md').relative_to(REPOSITORY)}\n")


def _pages() -> bytes:
    """A jar of Dokka's pages, which also lie in build/android/pages; where they cannot be had, it says so."""
    sources = [MODULES / module / "src" / "main" / "kotlin" for module in maven.MODULES]
    try:
        written = pages.written(sources, BUILD / "dokka")
    except PocketVlmError as error:
        sys.stdout.write(f"No pages about the Kotlin API: {one_line(error)}\n")
        return zipped({"README.txt": b"KDoc stands in the sources jar.\n"})
    repository.write(BUILD / "pages", written)
    return zipped(written)


def readme(dist: Path) -> str:
    """How an app developer uses what lies in a folder, with the name and the digest of a bundle that is there."""
    text = (HERE / "dist.md").read_text(encoding="utf-8").replace("VERSION", LIBRARY.version)
    manifest = next(iter(sorted(dist.glob("*/manifest.json"))), None)
    if manifest is None:
        return text
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    return text.replace("MANIFEST_SHA256", digest).replace("BUNDLE", manifest.parent.name)


TARGETS: dict[str, Callable[[], None]] = {"aar": build_library}


def main() -> None:
    """See the module's documentation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", choices=TARGETS)
    parser.add_argument("--lenient", action="store_true", help="say on one line what cannot be built, and succeed")
    options = parser.parse_args()
    for target in options.targets:
        try:
            TARGETS[target]()
        except (PocketVlmError, OSError) as error:
            if not options.lenient:
                sys.exit(f"error: {one_line(error)}")
            sys.stdout.write(f"No {target}: {one_line(error)}\n")


if __name__ == "__main__":
    main()
