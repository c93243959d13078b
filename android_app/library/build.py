"""Build what an app developer uses: python -m android_app.library.build TARGET...

aar     the library as a Maven repository, into dist/android/maven, with dist/android/README.md
pages   Dokka's pages about its API, into build/android/pages
api     its public API, into android_app/library/pocketvlm.api: what the tests hold it to
apk     the sample app, signed with a debug key, into dist/android: aapt2, R8, zipalign, apksigner
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from android_app.library import aar, api_levels, apk, catalog, engine, maven, pages, programs, repository
from android_app.library.archives import tree, unzipped, zipped
from android_app.library.catalog import Library
from android_app.library.maven import Dependency
from android_app.library.repository import Needed
from pocketvlm import __version__
from pocketvlm.errors import PocketVlmError, one_line
from pocketvlm.files import write_whole

HERE = Path(__file__).resolve().parent
MODULES = HERE.parent
REPOSITORY = MODULES.parent
BUILD = REPOSITORY / "build" / "android"
DIST = REPOSITORY / "dist" / "android"
API = HERE / "pocketvlm.api"
PACKAGES = DIST / "maven"
GROUP = "dev.pocketvlm"
LIBRARY = Library(GROUP, "pocketvlm", __version__)
#: Core alone, for programs on a desktop and for an app's tests on the JVM.
DESKTOP = Library(GROUP, "pocketvlm-jvm", __version__)
SAMPLE = "sample"
#: What the sample app has beside our modules and ONNX Runtime.
AT_RUN_TIME = ("kotlin-stdlib", "coroutines-android")
ON_PHONES = tuple(f"jni/{abi}/" for abi in apk.ABIS)
DESCRIPTION = "Vision-language models on a phone, over ONNX Runtime"


def library(modules: Path, build: Path, pages: bytes) -> dict[str, bytes]:
    """Compile the modules of an android_app folder; gives the files of a Maven repository. ``pages``: a jar of them.

    Raises:
        PocketVlmError: there is no Maven or JDK, or the code does not compile.
    """
    core, android = (tree(folder) for folder in maven.compile_modules(modules, build))
    return packed(modules, core, android, pages)


def packed(modules: Path, core: dict[str, bytes], android: dict[str, bytes], pages: bytes) -> dict[str, bytes]:
    """``library`` of classes that were compiled: those of ``maven.MODULES``, by path."""
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


def public_api(jar: Path, cache: Path) -> str:
    """A jar's public classes and members, as Kotlin's binary compatibility validator writes them.

    Raises:
        PocketVlmError: there is no Maven or Java, or the validator cannot be had.
    """
    needed = ("binary-compatibility-validator", "kotlin-metadata", "asm-tree")
    classpath = maven.files(cache, *(Dependency(str(catalog.library(alias))) for alias in needed))
    return programs.java(classpath, HERE / "Api.java", jar)


def write_api() -> None:
    """``api``."""
    files = library(MODULES, BUILD, b"")
    (name,) = (name for name in files if name.endswith(".aar"))
    with tempfile.TemporaryDirectory() as scratch:
        jar = Path(scratch) / "classes.jar"
        jar.write_bytes(unzipped(files[name])["classes.jar"])
        write_whole(API, public_api(jar, BUILD / "tools"))
    sys.stdout.write(f"{API.relative_to(REPOSITORY)}\n")


def build_library() -> None:
    """``aar``."""
    files = library(MODULES, BUILD, _packed_pages())
    repository.write(PACKAGES, files)
    write_whole(DIST / "README.md", readme(DIST))
    for name, content in files.items():
        if name.endswith((".aar", ".jar")):
            sys.stdout.write(f"{len(content) / 1000:>8.1f} kB  {(PACKAGES / name).relative_to(REPOSITORY)}\n")
    sys.stdout.write(f"How an app gets it: {(DIST / 'README.md').relative_to(REPOSITORY)}\n")


def build_pages() -> dict[str, bytes]:
    """``pages``: gives them by their path as well.

    Raises:
        PocketVlmError: there is no Maven, or Dokka cannot be had or fails.
    """
    sources = [MODULES / module / "src" / "main" / "kotlin" for module in maven.MODULES]
    written = pages.written(sources, BUILD / "dokka")
    repository.write(BUILD / "pages", written)
    return written


def _packed_pages() -> bytes:
    """A jar of Dokka's pages; where they cannot be had, it says so."""
    try:
        return zipped(build_pages())
    except PocketVlmError as error:
        sys.stdout.write(f"No pages about the Kotlin API: {one_line(error)}\n")
        return zipped({"README.txt": b"KDoc stands in the sources jar.\n"})


def readme(dist: Path) -> str:
    """How an app developer uses what lies in a folder, with the name and the digest of a bundle that is there."""
    text = (HERE / "dist.md").read_text(encoding="utf-8").replace("VERSION", LIBRARY.version)
    manifest = next(iter(sorted(dist.glob("*/manifest.json"))), None)
    if manifest is None:
        return text
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    return text.replace("MANIFEST_SHA256", digest).replace("BUNDLE", manifest.parent.name)


def build_apk() -> None:
    """``apk``."""
    if not (MODULES / SAMPLE / "pom.xml").is_file():
        raise PocketVlmError(f"there is no sample app in {(MODULES / SAMPLE).relative_to(REPOSITORY)}")
    folders = maven.compile_modules(MODULES, BUILD, (*maven.MODULES, SAMPLE))
    archive = unzipped(engine.archive(BUILD / "engine"))
    made = sample_apk([tree(path, ".class") for path in folders], archive, BUILD / "apk", BUILD / "tools")
    target = DIST / "pocketvlm-sample.apk"
    write_whole(target, made.read_bytes())
    for name, size in apk.sizes(target).items():
        sys.stdout.write(f"{size / 1e6:>8.2f} MB  {name}\n")
    sys.stdout.write(f"adb install {target.relative_to(REPOSITORY)}\n")


def sample_apk(classes: list[dict[str, bytes]], archive: dict[str, bytes], folder: Path, tools: Path) -> Path:
    """The signed APK of the sample app, below ``folder``, which is replaced.

    ``classes``: of our modules and the app; ``archive``: the engine's AAR; ``tools``: which files the tools are.

    Raises:
        PocketVlmError: a tool is missing or refuses something, or the APK is not as it should be.
    """
    repository.write(folder, _parts(classes, archive))
    needed = maven.files(tools, *(Dependency(str(catalog.library(alias))) for alias in AT_RUN_TIME))
    (r8,) = maven.files(tools, Dependency(str(catalog.library("r8")), alone=True))
    (hidden,) = maven.files(tools, Dependency(str(catalog.library("android-all")), alone=True))
    android = folder / "android" / "android.jar"
    android.parent.mkdir()
    apk.public_classes(hidden, api_levels.levels(r8), android)
    app = apk.App(
        activity=f"{GROUP}.{SAMPLE}.MainActivity",
        manifest=MODULES / SAMPLE / "src" / "main" / "AndroidManifest.xml",
        resources=MODULES / SAMPLE / "src" / "main" / "res",
        jars=[*sorted(folder.glob("*.jar")), *needed],
        rules=sorted(folder.glob("*.pro")),
        natives={name.replace("jni/", "lib/", 1): archive[name] for name in archive if name.startswith(ON_PHONES)},
        library=(MODULES / maven.MODULES[1] / "src" / "main" / "AndroidManifest.xml").read_bytes(),
    )
    return apk.built(app, r8, android, folder, tools / "debug.p12")


def _parts(classes: list[dict[str, bytes]], archive: dict[str, bytes]) -> dict[str, bytes]:
    """What R8 reads: the classes of our modules and of ONNX Runtime, and the rules that each brings."""
    return {
        "ours.jar": zipped(aar.merged(classes)),
        "onnxruntime.jar": archive["classes.jar"],
        "ours.pro": (MODULES / maven.MODULES[1] / "consumer-rules.pro").read_bytes(),
        "onnxruntime.pro": archive.get("proguard.txt", b""),
        # Android's public classes name its own ones, which R8 is not given.
        "android.pro": b"".join(
            b"-dontwarn %s.**\n" % name for name in (b"android", b"com.android", b"dalvik", b"libcore")
        ),
    }


TARGETS: dict[str, Callable[[], object]] = {
    "aar": build_library,
    "api": write_api,
    "apk": build_apk,
    "pages": build_pages,
}


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
