"""What is looked at in an APK, and what goes into one: `make apk` builds it."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from android_app.library import aar, alignment, apk, engine, programs
from pocketvlm.errors import PocketVlmError
from tests.android.library import elf

LIBRARY = "lib/arm64-v8a/libexample.so"


def test_a_librarys_manifest_is_merged() -> None:
    spaces = f'xmlns:android="{aar.ANDROID}" xmlns:tools="{aar.TOOLS}"'
    activity = '<activity android:name=".Main"/>'
    app = f'<manifest {spaces} package="org.example"><application>{activity}</application></manifest>'
    service = '<service android:name="a.B" android:label="${applicationId}.b"/>'
    removed = '<provider android:name="c.D" tools:node="remove"/>'
    library = f"<manifest {spaces}><uses-sdk/><application>{service}{removed}</application></manifest>"
    merged = apk.merged(app.encode(), library.encode()).decode()
    assert 'android:name=".Main"' in merged
    assert '<service android:name="a.B" android:label="org.example.b" />' in merged
    assert "c.D" not in merged
    for ours, theirs, wrong in (
        (app, f"<manifest {spaces}><uses-permission/></manifest>", "has uses-permission"),
        ("<manifest/>", library, "no application"),
    ):
        with pytest.raises(PocketVlmError, match=wrong):
            apk.merged(ours.encode(), theirs.encode())


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


def test_another_engine_than_expected_is_refused(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.aar").write_bytes(b"PK")
    subprocess.run(["tar", "-czf", tmp_path / "x.tgz", "-C", tmp_path, "onnxruntime.aar"], check=True)
    for member, wrong in (("onnxruntime.aar", "does not have the digest"), ("other.aar", "has no other")):
        with pytest.raises(PocketVlmError, match=wrong):
            engine.member_of(tmp_path / "x.tgz", member, "0" * 64)
    (tmp_path / "y.tgz").write_bytes(b"no tar")
    with pytest.raises(PocketVlmError, match=r"has no onnxruntime\.aar"):
        engine.member_of(tmp_path / "y.tgz", "onnxruntime.aar", "0" * 64)
