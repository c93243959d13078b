"""Opening bundles that are damaged, too new or hostile: one clear line each, and nothing outside is read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pocketvlm.bundle.manifest import FORMAT_VERSION, ImageLayout
from pocketvlm.bundle.open import (
    HOLLOW_FROM,
    MAX_MANIFEST_BYTES,
    MAX_MANIFEST_VALUES,
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
from tests.support.written_bundle import CONTENT, save, write_bundle


def _part(raw: dict[str, Any]) -> dict[str, Any]:
    part: dict[str, Any] = raw["engines"]["onnx"]["text_decoder"]
    return part


def _literal(raw: dict[str, Any], size: int) -> object:
    return raw["chat"]["roles"]["user"].update(prefix="\U0001f600" * size)


#: One more than a reader takes.
TOO_MUCH: dict[str, tuple[Callable[[Any], object], str]] = {
    "dimensions": (lambda raw: _part(raw)["inputs"][0].update(shape=[1] * 17), "inputs.0.shape"),
    "a dimension's name": (lambda raw: _part(raw)["inputs"][0].update(shape=["n" * 513]), "inputs.0.shape.0"),
    "a name": (lambda raw: raw["model"].update(name="\U0001f600" * 513), "model.name"),
    "a part's name": (lambda raw: raw["engines"]["onnx"].update({"p" * 513: _part(raw)}), "engines.onnx"),
    "a tensor's name": (lambda raw: raw["recipe"].update(tensors={"t" * 513: {}}), "recipe.tensors"),
    "a literal": (lambda raw: _literal(raw, 65537), "chat.roles.user.prefix"),
    "tokens of a tile": (lambda raw: raw["vision"].update(tokens_per_tile=65537), "vision.tokens_per_tile"),
    "rows": (lambda raw: raw["image_layout"].update(tile=[[]] * 65), "image_layout.tile"),
    "columns": (lambda raw: raw["image_layout"].update(tile=[[[]] * 65]), "image_layout.tile.0"),
    "values": (lambda raw: raw["tokens"].update(stop=[0] * (MAX_MANIFEST_VALUES + 1)), "more than 65536 values"),
    "values in a text": (lambda raw: raw["chat"].update(start="," * (MAX_MANIFEST_VALUES + 1)), "than 65536 values"),
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "tiny")
    return tmp_path / "tiny"


def own(raw: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A manifest's entry of ``by_engine``, saying what its top says."""
    return {"prefill_chunk": 32, "tensors": raw["recipe"]["tensors"], "fidelity": raw["fidelity"], **changes}


def refused(path: Path, *, verify: bool = False) -> str:
    """The line with which a bundle is refused."""
    with pytest.raises(BundleError) as caught:
        open_bundle(path, verify=verify)
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 1000
    return line


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


def drops_reasoning(raw: dict[str, Any], version: int, **changes: Any) -> None:
    """A chat layout as format 3 has it."""
    raw["format_version"] = version
    raw["chat"]["reasoning"] = {"end": "</think>", "trim": "\n", **changes}


def shows(raw: dict[str, Any], version: int, section: str, **changes: Any) -> None:
    """A section with keys that format 3 has."""
    raw["format_version"] = version
    raw[section].update(changes)


#: A bundle whose pictures' rows end with the token in this file.
PACKING = {"kind": "anyres", "newline": "newline.bin"}


def image_first(raw: dict[str, Any], version: int, prefix: Any = "<user with image>") -> None:
    """A user's prefix that is another one before an image."""
    raw["format_version"] = version
    raw["chat"]["roles"]["user"]["prefix_with_image"] = prefix


#: What a section can say from format 3 on, each with a value.
OF_FORMAT_3: tuple[Callable[[dict[str, Any], int], None], ...] = (
    lambda raw, version: shows(raw, version, "vision", strategy="idefics3"),
    lambda raw, version: shows(raw, version, "vision", resize_filter="lanczos"),
    lambda raw, version: shows(raw, version, "vision", longest_edge=32),
    lambda raw, version: shows(raw, version, "vision", replaces="internvl, at most 12 tiles"),
    lambda raw, version: shows(raw, version, "vision", packing=dict(PACKING)),
    lambda raw, version: shows(raw, version, "vision", packing={**PACKING, "most_tiles": 9}),
    lambda raw, version: shows(raw, version, "image_layout", lone=[1, 2]),
    lambda raw, version: shows(raw, version, "image_layout", last_row_end=[]),
    lambda raw, version: shows(raw, version, "chat", image={"prefix": "", "suffix": "\n"}),
    lambda raw, version: shows(raw, version, "chat", text={"prefix": "\n", "suffix": ""}),
    lambda raw, version: shows(raw, version, "chat", images_first=True),
    lambda raw, version: drops_reasoning(raw, version, end=None),
    lambda raw, version: shows(raw, version, "model", limits="Knows drawn pictures alone."),
    lambda raw, version: shows(raw, version, "model", adapter={"name": "poet", "sha256": "0" * 64}),
    lambda raw, version: shows(raw, version, "model", source="acme/tiny-vlm@0123456789abcdef0123456789abcdef01234567"),
    image_first,
)


@pytest.mark.parametrize("more", OF_FORMAT_3)
def test_what_format_3_says_is_read_and_written_back(bundle: Path, more: Callable[[dict[str, Any], int], None]) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    more(raw, 3)
    save(bundle, raw)
    manifest = open_bundle(bundle).manifest
    again = json.loads(manifest.model_dump_json())
    for section in ("model", "vision", "image_layout", "chat"):
        assert again[section] == raw[section]
    sections = (manifest.model, manifest.vision, manifest.image_layout, manifest.chat)
    assert max(section.format_version for section in sections if section is not None) == 3


def test_format_3_drops_reasoning_of_earlier_answers(bundle: Path) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    assert "reasoning" not in open_bundle(bundle).manifest.model_dump_json(), "nor is it written where there is none"
    drops_reasoning(raw, 3)
    raw["chat"]["system_joins"] = True
    save(bundle, raw)
    chat = open_bundle(bundle).manifest.chat
    assert chat is not None
    assert chat.reasoning is not None
    texts = ("plain", "<think>a</think>\n\nb\n", "a</think>b</think> c", "</think>")
    assert [chat.reasoning.dropped_from(text) for text in texts] == ["plain", "b\n", " c", ""]
    drops_reasoning(raw, 3, end=None)
    save(bundle, raw)
    chat = open_bundle(bundle).manifest.chat
    assert chat is not None and chat.reasoning is not None
    answers = ("plain\n", "\n\nb\n", " \nc")
    assert [chat.reasoning.dropped_from(text) for text in answers] == ["plain\n", "b\n", " \nc"]


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/etc/passwd",
        "a/../../b",
        "./a",
        "a//b",
        "a/",
        "",
        ".hidden",
        "a\\b",
        "a b",
        "a\n",
        "é",
        "a" * 300,
    ],
)
def test_names_that_could_lead_outside_are_refused(bundle: Path, name: str) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    raw["files"][name] = raw["files"]["graph.onnx"]
    save(bundle, raw)
    assert "not valid: files" in refused(bundle)
    del raw["files"][name]
    raw["tokenizer"] = name
    save(bundle, raw)
    assert "not valid: tokenizer" in refused(bundle)
    if len(name) < 256:
        write_bundle(bundle)
        with pytest.raises(BundleError, match="not a file name a bundle may use"):
            open_bundle(bundle).path(name)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda raw: raw.update(format_version=FORMAT_VERSION + 1),
            "has bundle format 4; this pocketvlm reads up to 3",
        ),
        (lambda raw: raw.update(format_version=10**400), "this pocketvlm reads up to 3: update"),
        (lambda raw: raw.update(format_version=0), "not valid: format_version"),
        (lambda raw: raw.update(format_version=True), "not valid: format_version"),
        (lambda raw: raw.update(format_version=1.0), "not valid: format_version"),
        (lambda raw: raw.update(format_version=-(10**400)), "not valid: format_version"),
        (lambda raw: raw.update(format_version="1"), "not valid: format_version"),
        (lambda raw: raw.pop("format_version"), "not JSON with a format_version"),
        (lambda raw: raw.pop("chat"), "not valid: chat: Field required"),
        (lambda raw: raw.update(extra=1), "not valid: extra: unknown key"),
        (lambda raw: raw["kv_cache"].update(extra=1), "not valid: kv_cache.extra"),
        (lambda raw: raw["kv_cache"].update(length=0), "not valid: kv_cache.length"),
        (lambda raw: raw["kv_cache"].update(length=1 << 21), "not valid: kv_cache.length"),
        (lambda raw: raw["kv_cache"].update(length="64"), "not valid: kv_cache.length"),
        (lambda raw: raw["kv_cache"].update(dtype="float16"), "not valid: kv_cache.dtype"),
        (lambda raw: raw["model"].update(layers=1 << 30), "not valid: model.layers"),
        (lambda raw: raw["vision"].update(alpha=float("nan")), "not valid: vision.alpha"),
        (lambda raw: raw["vision"].update(mean=[0, float("inf"), 0]), "not valid: vision.mean.1"),
        (lambda raw: raw["vision"].update(candidates=[]), "not valid: vision.candidates"),
        (lambda raw: raw["vision"].update(candidates=[[1]]), "not valid: vision.candidates"),
        (lambda raw: raw["vision"].update(strategy="best"), "not valid: vision.strategy"),
        (lambda raw: raw["tokens"].update(stop=[-1]), "not valid: tokens.stop.0"),
        (lambda raw: raw["tokens"].update(stop=[0] * 300), "not valid: tokens.stop"),
        (lambda raw: raw["tokens"].update(image=None), "belong together"),
        (lambda raw: raw.update(vision=None), "belong together"),
        (lambda raw: raw["engines"].update(cuda={}), "not valid: engines.cuda"),
        (lambda raw: raw["files"].pop("weights/text.data"), "'files' does not list"),
        (lambda raw: raw["files"].pop("tokenizer.json"), "is not in 'files'"),
        (lambda raw: raw["files"]["graph.onnx"].update(bytes=-1), "not valid: files.graph.onnx.bytes"),
        (lambda raw: raw["files"]["graph.onnx"].update(sha256="0" * 63), "not valid: files.graph.onnx.sha256"),
        (lambda raw: raw["chat"]["roles"].update(tool=raw["chat"]["roles"]["user"]), "not valid: chat.roles.tool"),
        (lambda raw: drops_reasoning(raw, 1), "format 1 cannot say what chat says"),
        (lambda raw: drops_reasoning(raw, 2), "format 2 cannot say what chat says"),
        *((lambda raw, more=more: more(raw, 2), "format 2 cannot say what") for more in OF_FORMAT_3),
        (lambda raw: shows(raw, 3, "model", limits=7), "not valid: model.limits"),
        (lambda raw: shows(raw, 3, "model", limits="x" * 513), "not valid: model.limits"),
        (lambda raw: shows(raw, 3, "model", adapter={"name": "poet", "sha256": "0"}), "not valid: model.adapter"),
        (lambda raw: shows(raw, 3, "vision", longest_edge=4097), "not valid: vision.longest_edge"),
        (lambda raw: shows(raw, 3, "vision", longest_edge="8"), "not valid: vision.longest_edge"),
        (lambda raw: shows(raw, 3, "vision", resize_filter="bilinear"), "not valid: vision.resize_filter"),
        (lambda raw: shows(raw, 3, "image_layout", lone=[-1]), "not valid: image_layout.lone.0"),
        (lambda raw: shows(raw, 3, "image_layout", last_row_end=7), "not valid: image_layout.last_row_end"),
        (lambda raw: shows(raw, 3, "chat", image={"prefix": ""}), "not valid: chat.image.suffix"),
        (lambda raw: shows(raw, 3, "chat", text=["", ""]), "not valid: chat.text"),
        (lambda raw: shows(raw, 3, "chat", images_first=1), "not valid: chat.images_first"),
        (lambda raw: shows(raw, 3, "vision", packing={**PACKING, "kind": "spiral"}), "not valid: vision.packing.kind"),
        (lambda raw: shows(raw, 3, "vision", packing={**PACKING, "most_tiles": 0}), "vision.packing.most_tiles"),
        (lambda raw: shows(raw, 3, "vision", packing={**PACKING, "newline": "../x"}), "vision.packing.newline"),
        (lambda raw: shows(raw, 3, "vision", packing={**PACKING, "more": 1}), "vision.packing.more"),
        (lambda raw: shows(raw, 3, "vision", packing={**PACKING, "newline": "other"}), "newline is no file of as many"),
        (lambda raw: shows(raw, 3, "vision", packing={**PACKING, "newline": "graph.onnx"}), "newline is no file of as"),
        (lambda raw: shows(raw, 3, "vision", packing=PACKING, thumbnail="last"), "packing begins with a thumbnail"),
        (lambda raw: shows(raw, 3, "vision", packing=PACKING, strategy="internvl"), "and internvl stretches images"),
        (lambda raw: shows(raw, 3, "vision", packing=PACKING, tokens_per_tile=24), "packing needs a square"),
        (lambda raw: image_first(raw, 3, 7), "not valid: chat.roles.user.prefix_with_image"),
        (lambda raw: drops_reasoning(raw, 3, end=""), "not valid: chat.reasoning.end"),
        (lambda raw: drops_reasoning(raw, 3, trim=None), "not valid: chat.reasoning.trim"),
        (lambda raw: drops_reasoning(raw, 3, more=1), "not valid: chat.reasoning.more"),
        (
            lambda raw: raw["chat"].update(system_joins=True),
            "format 1 cannot say what chat says",
        ),
        (lambda raw: raw.update(format_version=3, chat={**raw["chat"], "system_joins": None}), "chat.system_joins"),
        (lambda raw: raw["recipe"]["tensors"]["w"].update(bits=5), "not valid: recipe.tensors.w.bits"),
        (lambda raw: raw["recipe"]["tensors"]["w"].update(bits=4.0), "not valid: recipe.tensors.w.bits"),
        (lambda raw: raw.update(by_engine=None), "not valid: by_engine"),
        (lambda raw: raw.update(by_engine={"onnx": own(raw)}), "format 1 has no by_engine"),
        (
            lambda raw: raw.update(format_version=2, by_engine={"onnx": own(raw, extra=1)}),
            "not valid: by_engine.onnx",
        ),
        (lambda raw: raw.update(format_version=2, by_engine={"cuda": own(raw)}), "not valid: by_engine.cuda"),
        (
            lambda raw: raw.update(format_version=2, by_engine={"executorch": own(raw)}),
            "by_engine has other engines than engines",
        ),
        (
            lambda raw: raw.update(format_version=2, by_engine={"onnx": own(raw), "executorch": own(raw)}),
            "by_engine has other engines than engines",
        ),
        (
            lambda raw: raw.update(format_version=2, by_engine={"onnx": own(raw, prefill_chunk=0)}),
            "not valid: by_engine.onnx.prefill_chunk",
        ),
        (lambda raw: raw.update({"\x1b[2J\n" + "x" * 5000: 1}), "unknown key"),
        *((change, line) for change, line in TOO_MUCH.values()),
    ],
)
def test_a_wrong_manifest_is_refused_at_its_key(bundle: Path, change: Callable[[Any], None], line: str) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    change(raw)
    save(bundle, raw)
    assert line in refused(bundle)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"7",
        b'"format_version"',
        b'{"format_version": 1',
        b"\xff\xfe\x00",
        b'{"format_version": \xff}',
        b"[" * 200_000,
        b'{"format_version": 1, "a": ' + b"[" * 200_000,
        b'{"format_version": 1e999}',
        b'{"format_version": ' + b"9" * 5000 + b"}",
        b"\x00" * 100,
    ],
    ids=lambda text: repr(text[:24]),
)
def test_a_manifest_that_is_no_json_object_is_one_line(bundle: Path, text: bytes) -> None:
    (bundle / "manifest.json").write_bytes(text)
    assert "manifest.json" in refused(bundle)


def test_as_much_as_a_reader_takes_opens(bundle: Path) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    _literal(raw, 65536)
    raw["model"]["name"] = "\U0001f600" * 512
    raw["vision"]["tokens_per_tile"] = 65536
    raw["image_layout"]["tile"] = [[[1]] * 64] * 64
    _part(raw)["inputs"][0].update(shape=["n" * 512] * 16)
    save(bundle, raw)
    opened = open_bundle(bundle)
    assert len(opened.manifest.model.name) == 512
    write_manifest(bundle, opened.manifest)
    image_layout = ImageLayout(image_start=(), thumbnail=(), tile=(((1,) * 256,) * 64,) * 64, row_end=(), image_end=())
    with pytest.raises(BundleError, match="more than 65536 values"):
        write_manifest(bundle, opened.manifest.model_copy(update={"image_layout": image_layout}))
    assert open_bundle(bundle).manifest == opened.manifest


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
