"""A bundle as one archive: pages, mapped parts, the same answers, and hostile files."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketvlm.bundle.archive import PAGE, open_archive, write_archive
from pocketvlm.bundle.open import open_bundle
from pocketvlm.errors import BundleError, ExportError
from pocketvlm.export import export_bundle
from pocketvlm.runtime import load

CONTENT = {"manifest.json": b"{}", "a/graph.onnx": bytes(range(256)) * 100, "weights.data": b"w" * 70_000, "empty": b""}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for name, content in CONTENT.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(content)
    write_archive(tmp_path / "tree", list(CONTENT), tmp_path / "bundle.zip")
    return tmp_path / "bundle.zip"


def test_members_lie_on_pages_and_any_unzip_reads_them(archive: Path) -> None:
    opened = open_archive(archive)
    assert {name: bytes(opened.view(name)) for name in opened.members} == CONTENT
    assert all(offset % PAGE == 0 for offset, _ in opened.members.values())
    with zipfile.ZipFile(archive) as theirs:
        assert theirs.testzip() is None
        assert {info.filename: theirs.read(info) for info in theirs.infolist()} == CONTENT
        assert {info.compress_type for info in theirs.infolist()} == {zipfile.ZIP_STORED}


def test_the_same_files_give_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    write_archive(tmp_path / "tree", list(reversed(CONTENT)), tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()


def test_an_archive_that_cannot_be_written_leaves_the_old_one(archive: Path, tmp_path: Path) -> None:
    before = archive.read_bytes()
    with pytest.raises(OSError, match="missing"):
        write_archive(tmp_path / "tree", ["missing"], archive)
    assert archive.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"tree", "bundle.zip"}


def compressed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for name, content in CONTENT.items():
            archive.writestr(name, content)


def test_archives_that_no_bundle_is_are_refused(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.zip"
    compressed(path)
    with pytest.raises(BundleError, match="compressed"):
        open_archive(path)
    with zipfile.ZipFile(path, "w") as twice:
        twice.writestr("weights.data", b"a")
        with pytest.warns(UserWarning, match="Duplicate"):
            twice.writestr("weights.data", b"b")
    with pytest.raises(BundleError, match="two members"):
        open_archive(path)
    path.write_bytes(b"PK" + bytes(100))
    with pytest.raises(BundleError, match="not a bundle"):
        open_archive(path)
    path.write_bytes(b"")
    with pytest.raises(BundleError, match="not a bundle"):
        open_archive(path)
    with pytest.raises(BundleError, match="missing"):
        open_archive(archive).view("../weights.data")


def test_members_that_overlap_are_refused(archive: Path, tmp_path: Path) -> None:
    """A directory that sends two names to one local header, as ZIP bombs do."""
    content = bytearray(archive.read_bytes())
    offsets = [at for at in range(len(content)) if content[at : at + 4] == b"PK\x01\x02"]
    first = struct.unpack_from("<I", content, offsets[0] + 42)
    for at in offsets:
        struct.pack_into("<I", content, at + 42, *first)
    (tmp_path / "bomb.zip").write_bytes(content)
    with pytest.raises(BundleError, match="overlap"):
        open_archive(tmp_path / "bomb.zip")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4), cut=st.integers(0, 300))
def test_random_damage_is_read_or_refused(archive: Path, edits: list[tuple[int, int]], cut: int) -> None:
    """In the directory at the end, where the offsets are, and by cutting it."""
    content = bytearray(archive.read_bytes())
    for at, value in edits:
        content[-1 - at] = value
    damaged = archive.with_name("damaged.zip")
    damaged.write_bytes(content[: len(content) - cut])
    with contextlib.suppress(BundleError):
        opened = open_archive(damaged)
        assert sum(len(opened.view(name)) for name in opened.members) <= len(content)


@pytest.mark.parametrize("recipe", ["fp32", "bluelm-v-3b"])
def test_an_exported_archive_answers_as_its_directory_does(
    tmp_path: Path, tiny_checkpoint: Path, tiny_bundles: dict[str, Path], recipe: str
) -> None:
    target = tmp_path / "tiny.zip"
    bundle = export_bundle(tiny_checkpoint, target, recipe=recipe)
    assert bundle.archive is not None
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.zip"]
    assert open_bundle(target, verify=True).manifest == open_bundle(tiny_bundles[recipe]).manifest
    image = np.full((60, 60, 3), 90, np.uint8)
    with load(target, threads=1) as archived, load(tiny_bundles[recipe], threads=1) as unpacked:
        assert np.array_equal(archived.encode_images([image]), unpacked.encode_images([image]))
        assert np.array_equal(archived.logits([1, 2, 3]), unpacked.logits([1, 2, 3]))


def test_a_damaged_member_is_found(tmp_path: Path, tiny_checkpoint: Path) -> None:
    target = tmp_path / "tiny.zip"
    bundle = export_bundle(tiny_checkpoint, target, recipe="int8")
    assert bundle.archive is not None
    offset, size = bundle.archive.members["text.data"]
    content = bytearray(target.read_bytes())
    content[offset + size // 2 - 3000] ^= 1
    target.write_bytes(content)
    with pytest.raises(BundleError, match=r"text\.data does not have the content"):
        open_bundle(target, verify=True)


def test_only_an_archive_of_a_bundle_is_replaced(tmp_path: Path, tiny_checkpoint: Path) -> None:
    photos = io.BytesIO()
    with zipfile.ZipFile(photos, "w") as archive:
        archive.writestr("holiday.jpg", b"irreplaceable")
    (tmp_path / "photos.zip").write_bytes(photos.getvalue())
    with pytest.raises(ExportError, match="left alone"):
        export_bundle(tiny_checkpoint, tmp_path / "photos.zip")
    assert (tmp_path / "photos.zip").read_bytes() == photos.getvalue()
    for recipe in ("int8", "int4-g32"):
        assert export_bundle(tiny_checkpoint, tmp_path / "a.zip", recipe=recipe).manifest.recipe.name == recipe
