"""Opening bundles that are damaged, too new or hostile: one clear line each, and nothing outside is read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pocketvlm.bundle.open import (
    HOLLOW_FROM,
    MAX_MANIFEST_BYTES,
    SAMPLE_BYTES,
    SAMPLES,
    Bundle,
    describe_files,
    file_sample_sha256,
    is_hollow,
    open_bundle,
    read_manifest,
    write_manifest,
)
from pocketvlm.errors import BundleError
from tests.support.written_bundle import CONTENT, own, refused, save, write_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_whole_bundle_opens_and_is_verified(bundle: Path) -> None:
    for verify in (False, True):
        opened = open_bundle(str(bundle), verify=verify)
        assert isinstance(opened, Bundle)
        assert opened.path("weights/text.data").read_bytes() == CONTENT["weights/text.data"]
        assert opened.manifest.kv_cache.dtype == "int8"


def test_what_holds_for_an_engine_is_told_by_its_name(bundle: Path) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    fidelity = {**raw["fidelity"], "lowering_relative_error": 0.5}
    several = {"onnx": own(raw, tensors={}, fidelity=fidelity)}
    save(bundle, {**raw, "format_version": 2, "by_engine": several})
    opened = open_bundle(bundle)
    found = opened.for_engine("onnx").manifest
    assert (found.prefill_chunk, found.recipe.tensors, found.fidelity.lowering_relative_error) == (32, {}, 0.5)
    assert found.recipe.name == raw["recipe"]["name"]
    assert opened.for_engine("executorch").manifest.prefill_chunk == raw["prefill_chunk"]
    write_manifest(bundle, opened.manifest)
    assert read_manifest(bundle) == opened.manifest


def test_a_manifest_that_is_written_is_read_back(bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    write_manifest(bundle, manifest)
    assert read_manifest(bundle) == manifest
    assert json.loads((bundle / "manifest.json").read_text())["chat"]["default_system"] is None


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda path: (path / "graph.onnx").unlink(), "graph.onnx is missing"),
        (
            lambda path: (path / "graph.onnx").write_bytes(b""),
            "graph.onnx has 0 bytes, the manifest says 600: it was cut",
        ),
        (lambda path: (path / "graph.onnx").write_bytes(CONTENT["graph.onnx"][:-1]), "has 599 bytes"),
        (lambda path: (path / "graph.onnx").write_bytes(CONTENT["graph.onnx"] + b"x"), "has 601 bytes"),
        (lambda path: (path / "graph.onnx").write_bytes(b"another! " * 66 + b"123456"), "damaged or was swapped"),
        (lambda path: (path / "weights/text.data").write_bytes(bytes(256000)), "damaged or was swapped"),
    ],
)
def test_a_missing_cut_or_swapped_file_is_named(bundle: Path, damage: Callable[[Path], object], line: str) -> None:
    damage(bundle)
    assert line in refused(bundle)


def test_two_files_of_one_size_cannot_change_places(tmp_path: Path) -> None:
    raw = write_bundle(tmp_path)
    (tmp_path / "second.onnx").write_bytes(CONTENT["graph.onnx"][::-1])
    raw["files"] |= {
        name: entry.model_dump(mode="json") for name, entry in describe_files(tmp_path, ["second.onnx"]).items()
    }
    save(tmp_path, raw)
    open_bundle(tmp_path)
    (tmp_path / "graph.onnx").rename(tmp_path / "third")
    (tmp_path / "second.onnx").rename(tmp_path / "graph.onnx")
    (tmp_path / "third").rename(tmp_path / "second.onnx")
    assert "swapped" in refused(tmp_path)


def test_one_flipped_bit_is_found_by_the_full_check(bundle: Path) -> None:
    path = bundle / "weights/text.data"
    size = len(CONTENT["weights/text.data"])
    second_sample = (size - SAMPLE_BYTES) // (SAMPLES - 1)
    for position, noticed_at_load in ((0, True), (size - 1, True), (second_sample, True), (SAMPLE_BYTES + 1, False)):
        content = bytearray(CONTENT["weights/text.data"])
        content[position] ^= 1
        path.write_bytes(content)
        assert "weights/text.data does not have the content" in refused(bundle, verify=True)
        if noticed_at_load:
            refused(bundle)
        else:
            open_bundle(bundle)


def test_the_sample_hash_knows_the_size(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(bytes(100_000))
    second.write_bytes(bytes(100_001))
    assert file_sample_sha256(first) != file_sample_sha256(second)


@pytest.mark.parametrize("target", ["outside", "inside", "directory", "nowhere"])
def test_a_link_is_no_file_of_a_bundle(bundle: Path, target: str) -> None:
    (bundle.parent / "outside").write_bytes(CONTENT["graph.onnx"])
    (bundle / "inside").write_bytes(CONTENT["graph.onnx"])
    (bundle / "graph.onnx").unlink()
    paths = {"outside": "../outside", "inside": "inside", "directory": "weights", "nowhere": "nowhere"}
    (bundle / "graph.onnx").symlink_to(paths[target])
    assert "graph.onnx" in refused(bundle)


def test_a_link_that_leads_to_itself_is_refused(bundle: Path) -> None:
    (bundle / "graph.onnx").unlink()
    (bundle / "graph.onnx").symlink_to("graph.onnx")
    assert "graph.onnx" in refused(bundle)


def test_a_manifest_that_is_a_link_is_refused(bundle: Path) -> None:
    (bundle / "manifest.json").rename(bundle.parent / "outside.json")
    (bundle / "manifest.json").symlink_to("../outside.json")
    assert "manifest.json is a link" in refused(bundle)


def test_a_linked_folder_leads_outside(bundle: Path) -> None:
    (bundle / "weights").rename(bundle.parent / "weights")
    (bundle / "weights").symlink_to(bundle.parent / "weights")
    assert "weights/text.data points outside the bundle" in refused(bundle)


def test_a_folder_or_a_pipe_is_no_file_of_a_bundle(bundle: Path) -> None:
    (bundle / "graph.onnx").unlink()
    (bundle / "graph.onnx").mkdir()
    assert "not a regular file" in refused(bundle)
    (bundle / "graph.onnx").rmdir()
    os.mkfifo(bundle / "graph.onnx")
    assert "not a regular file" in refused(bundle)
    (bundle / "manifest.json").unlink()
    os.mkfifo(bundle / "manifest.json")
    assert "has no manifest.json" in refused(bundle)


def hollow(path: Path, size: int, held: int = 0) -> None:
    """A file of ``size`` bytes of which only the first ``held`` are on the disk."""
    path.write_bytes(bytes(held))
    os.truncate(path, size)


def test_a_file_that_is_not_on_the_disk_is_not_hashed(bundle: Path) -> None:
    """A terabyte of nothing with right digests: hashing it would take an hour."""
    raw = json.loads((bundle / "manifest.json").read_text())
    path = bundle / "weights/text.data"
    hollow(path, 1 << 40)
    wanted = "weights/text.data has 1099511627776 bytes, the manifest says 256000"
    assert wanted in refused(bundle)
    raw["files"]["weights/text.data"].update(bytes=1 << 40, sample_sha256=file_sample_sha256(path))
    save(bundle, raw)
    for verify in (False, True):
        assert "weights/text.data is a sparse file: most of its 1099511627776 bytes" in refused(bundle, verify=verify)
    (bundle.parent / "bundle.zip").touch()
    hollow(bundle.parent / "bundle.zip", 1 << 40)
    assert "is a sparse file" in refused(bundle.parent / "bundle.zip")


@pytest.mark.parametrize(("size", "held", "hollow_"), [
    (HOLLOW_FROM - 1, 0, False), (HOLLOW_FROM, 0, True), (HOLLOW_FROM, HOLLOW_FROM // 2, False),
    (HOLLOW_FROM, HOLLOW_FROM // 2 - 8192, True),
])  # fmt: skip
def test_half_of_a_large_file_is_on_the_disk(tmp_path: Path, size: int, held: int, hollow_: bool) -> None:
    hollow(tmp_path / "file", size, held)
    assert is_hollow(tmp_path / "file") == hollow_


def test_all_sizes_are_looked_at_before_any_content(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise AssertionError(path)

    monkeypatch.setattr("pocketvlm.bundle.open.file_sample_sha256", fail)
    (bundle / "weights/text.data").write_bytes(b"x")  # the last of the files
    assert "weights/text.data has 1 bytes" in refused(bundle)


def test_a_huge_manifest_is_not_read(bundle: Path) -> None:
    with (bundle / "manifest.json").open("r+b") as stream:
        stream.truncate(MAX_MANIFEST_BYTES + 1)  # sparse: costs no disk
    assert f"more than the {MAX_MANIFEST_BYTES} bytes that are read" in refused(bundle)


def test_what_is_no_bundle_is_refused(tmp_path: Path, bundle: Path) -> None:
    assert "no such directory" in refused(tmp_path / "none")
    assert "is not a bundle: File is not a zip file" in refused(bundle / "graph.onnx")
    with pytest.raises(BundleError, match="no such directory"):
        open_bundle(Path("a\0b"))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "has no manifest.json" in refused(empty)
    (bundle / "manifest.json").unlink()
    (bundle / "manifest.json").symlink_to("nowhere")
    assert "has no manifest.json" in refused(bundle)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(bundle: Path) -> None:
    (bundle / "graph.onnx").chmod(0)
    assert "cannot be read" in refused(bundle)


def test_a_disk_that_fails_is_one_line(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("pocketvlm.bundle.open.file_sample_sha256", fail)
    assert "cannot be read: [Errno 5] Input/output error" in refused(bundle)
