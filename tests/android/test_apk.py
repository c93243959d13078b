"""An app with the library as a signed APK, and what is looked at in one. `make apk` takes the sample app, and with it
ONNX Runtime's native libraries, which are not fetched here."""

from __future__ import annotations

import os
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest

from android_app.library import alignment, api_levels, apk, engine, programs
from pocketvlm.errors import PocketVlmError
from tests.android.library import jars

SOURCES = Path(__file__).parent / "app"
LIBRARY = "lib/arm64-v8a/libexample.so"


def elf(alignment: int = 16384, offset: int = 0, address: int = 0) -> bytes:
    """The headers of a native library of 64 bits with one segment in memory."""
    header = struct.pack("<16s2HI3QI6H", b"\x7fELF\2\1\1", 3, 183, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<2I6Q", 1, 5, offset, address, 0, 120, 120, alignment)


@pytest.fixture(scope="module")
def android(tools: Path, r8: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Android's public classes."""
    (jar,) = jars(tools, "android-all", alone=True)
    public = tmp_path_factory.mktemp("android") / "android.jar"
    apk.public_classes(jar, api_levels.levels(r8), public)
    return public


@pytest.fixture(scope="module")
def app(archive: dict[str, bytes], tools: Path, android: Path, tmp_path_factory: pytest.TempPathFactory) -> apk.App:
    """Of one activity, in Java; its ONNX Runtime has the classes of the desktop's."""
    folder = tmp_path_factory.mktemp("app")
    (folder / "library.jar").write_bytes(archive["classes.jar"])
    (folder / "library.pro").write_bytes(archive["proguard.txt"])
    needed = jars(tools, "kotlin-stdlib", "coroutines-android")
    with (
        zipfile.ZipFile(jars(tools, "onnxruntime", alone=True)[0]) as jar,
        zipfile.ZipFile(folder / "engine.jar", "w") as own,
    ):
        for name in jar.namelist():
            if name.endswith(".class"):
                own.writestr(name, jar.read(name))
    classpath = os.pathsep.join(map(str, (folder / "library.jar", android, *needed)))
    programs.run(
        "javac", "-nowarn", "--release", "8", "-cp", classpath, "-d", folder / "classes", SOURCES / "Main.java"
    )
    programs.run("jar", "--create", "--file", folder / "app.jar", "-C", folder / "classes", ".")
    return apk.App(
        activity="org.example.Main",
        manifest=SOURCES / "AndroidManifest.xml",
        resources=SOURCES / "res",
        jars=[folder / name for name in ("app.jar", "library.jar", "engine.jar")] + needed,
        rules=[folder / "library.pro"],
        natives={LIBRARY: elf()},
    )


@pytest.fixture(scope="module")
def made(app: apk.App, r8: Path, android: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("apk")
    return apk.built(app, r8, android, folder, folder / "debug.p12")


def test_an_app_with_the_library_is_an_apk(made: Path) -> None:
    badging = programs.run("aapt2", "dump", "badging", made)
    assert "package: name='org.example' versionCode='1'" in badging
    assert "sdkVersion:'27'" in badging
    assert "native-code: 'arm64-v8a'" in badging
    with zipfile.ZipFile(made) as archive:
        dex = archive.read("classes.dex")
        services = [name for name in archive.namelist() if name.startswith("META-INF/services/")]
    assert dex.startswith(b"dex\n038\0")
    assert len(dex) < 1_000_000
    assert services == [] or all("kotlinx" in name for name in services)
    names = apk.class_names(made)
    assert "ai.onnxruntime.OnnxTensor" in names  # by its name, as the native library asks for it
    sizes = apk.sizes(made)
    assert sizes["all of it"] == made.stat().st_size
    assert sizes["native libraries, arm64-v8a"] == len(elf())


def test_what_is_wrong_with_an_apk_is_said(made: Path, tmp_path: Path) -> None:
    with pytest.raises(PocketVlmError, match=r"has no class org\.example\.Other"):
        apk.verify(made, "org.example.Other")
    changed = tmp_path / "changed.apk"
    content = bytearray(made.read_bytes())
    content[content.index(b"dex\n038") if b"dex\n038" in content else 200] ^= 1
    changed.write_bytes(content)
    with pytest.raises(PocketVlmError, match="apksigner failed"):
        apk.verify(changed, "org.example.Main")


@pytest.mark.parametrize(
    ("library", "wrong"),
    [
        (elf(4096), "has a segment for pages of 4096 bytes"),
        (elf(65536), ""),
        (elf(offset=4096, address=8192), "has a segment for pages of 16384 bytes"),
        (elf(offset=16384, address=49152), ""),
    ],
)
def test_libraries_for_smaller_pages_are_seen(library: bytes, wrong: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "packed.apk", "w") as archive:
        archive.writestr(LIBRARY, library)
    programs.run("zipalign", "-f", "16384", tmp_path / "packed.apk", tmp_path / "aligned.apk")
    found = alignment.unaligned(tmp_path / "aligned.apk")
    assert [wrong in line for line in found] == [True] * bool(wrong)


def test_libraries_that_start_anywhere_are_seen(tmp_path: Path) -> None:
    for stored, wrong in ((True, "which is no multiple of 16384"), (False, "is compressed")):
        with zipfile.ZipFile(tmp_path / "packed.apk", "w") as archive:
            archive.writestr("a", b"a" * 100)
            archive.writestr(LIBRARY, elf(), zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)
        (said,) = alignment.unaligned(tmp_path / "packed.apk")
        assert wrong in said


@pytest.mark.parametrize("library", [b"", b"\x7fELF\1\1", elf()[:100]])
def test_what_is_no_library_is_refused(library: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "packed.apk", "w") as archive:
        archive.writestr(LIBRARY, library)
    with pytest.raises(PocketVlmError, match=r"no little-endian ELF|is damaged"):
        alignment.unaligned(tmp_path / "packed.apk")


def test_a_missing_tool_is_said_with_its_cure(app: apk.App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PocketVlmError, match=r"no aapt2 here: bash setup\.sh apk"):
        apk.link(app.manifest, app.resources, tmp_path)


def test_another_engine_than_expected_is_refused(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.aar").write_bytes(b"PK")
    subprocess.run(["tar", "-czf", tmp_path / "x.tgz", "-C", tmp_path, "onnxruntime.aar"], check=True)
    for member, wrong in (("onnxruntime.aar", "does not have the digest"), ("other.aar", "has no other")):
        with pytest.raises(PocketVlmError, match=wrong):
            engine.member_of(tmp_path / "x.tgz", member, "0" * 64)
    (tmp_path / "y.tgz").write_bytes(b"no tar")
    with pytest.raises(PocketVlmError, match=r"has no onnxruntime\.aar"):
        engine.member_of(tmp_path / "y.tgz", "onnxruntime.aar", "0" * 64)
