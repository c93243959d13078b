"""Which files a graph takes weights from: found wherever ONNX lets a tensor stand, and never passed over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pocketvlm.bundle.archive import write_archive
from pocketvlm.bundle.graph_files import external_files
from pocketvlm.bundle.open import describe_files, open_bundle
from pocketvlm.errors import BundleError


def tensor(location: str, name: str = "w") -> TensorProto:
    made = TensorProto(name=name, dims=[2], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("offset", "0"), ("location", location), ("length", "8")):
        made.external_data.add(key=key, value=value)
    return made


def graph(*nodes: onnx.NodeProto, **fields: Any) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [], **fields)


def constant(location: str) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=tensor(location))


def model_of(inner: onnx.GraphProto, **fields: Any) -> bytes:
    content: bytes = helper.make_model(inner, **fields).SerializeToString()
    return content


def sparse(location: str) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=tensor("v" + location), indices=tensor("i" + location), dims=[2])


PLACES: dict[str, tuple[Callable[[], bytes], set[str]]] = {
    "initializers": (lambda: model_of(graph(initializer=[tensor("a"), tensor("b/c")])), {"a", "b/c"}),
    "an attribute": (lambda: model_of(graph(constant("a"))), {"a"}),
    "tensors": (lambda: model_of(graph(helper.make_node("X", [], [], x=[tensor("a"), tensor("b")]))), {"a", "b"}),
    "a branch": (lambda: model_of(graph(helper.make_node("If", [], [], then_branch=graph(constant("a"))))), {"a"}),
    "branches": (lambda: model_of(graph(helper.make_node("X", [], [], x=[graph(constant("a"))]))), {"a"}),
    "sparse weights": (lambda: model_of(graph(sparse_initializer=[sparse("a")])), {"va", "ia"}),
    "a sparse attribute": (lambda: model_of(graph(helper.make_node("X", [], [], x=sparse("a")))), {"va", "ia"}),
    "a function": (
        lambda: model_of(graph(), functions=[helper.make_function("d", "f", [], [], [constant("a")], [])]), {"a"}
    ),
    "nothing": (lambda: model_of(graph(helper.make_node("location", [], [], location="location"))), set()),
    "no name": (lambda: model_of(graph(initializer=[tensor("")])), {""}),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_files_are_found_in(place: str) -> None:
    make, wanted = PLACES[place]
    assert external_files(make()) == wanted


def test_files_of_training_are_found() -> None:
    model = helper.make_model(graph())
    model.training_info.add(initialization=graph(constant("a")), algorithm=graph(constant("b")))
    assert external_files(model.SerializeToString()) == {"a", "b"}


def field(number: int, content: bytes, *, longer: bool = False) -> bytes:
    """A field of bytes; with ``longer`` its tag and length take more bytes than they need, as protobuf allows."""

    def varint(value: int) -> bytes:
        low, rest = value & 0x7F, value >> 7
        return bytes([low | 0x80]) + varint(rest) if rest else bytes([low | 0x80, 0x80, 0] if longer else [low])

    return varint(number << 3 | 2) + varint(len(content)) + content


def test_what_an_entry_says_last_counts_and_odd_encodings_are_read() -> None:
    entry = field(2, b"innocent") + field(1, b"location") + b"\x18\x07" + field(2, b"guilty", longer=True)
    inner = field(5, field(13, entry, longer=True), longer=True)
    content = field(7, inner)
    theirs = onnx.load_model_from_string(content).graph.initializer[0].external_data[0]
    assert (theirs.key, theirs.value) == ("location", "guilty")
    assert external_files(content) == {"guilty"}


def test_what_is_no_graph_is_refused_where_it_names_a_file() -> None:
    whole = model_of(graph(initializer=[tensor("a")]))
    deep = field(13, field(1, b"location") + field(2, b"a"))
    for _ in range(200):
        deep = field(5, field(6, field(1, deep)))
    for content in (whole[:-5], b"\0" + whole, b"\x3b" + whole, b"\xff" * 12 + whole, field(7, field(1, deep))):
        with pytest.raises(ValueError, match=r"damaged|deeply"):
            external_files(content)
    with pytest.raises(ValueError, match="own format"):
        external_files(b"\x18\0\0\0ORTM" + whole)
    assert external_files(b"") == set()
    assert external_files(b"\xff" * 100) == set()


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3))
def test_damaged_graphs_are_read_as_protobuf_reads_them_or_refused(edits: list[tuple[int, int]]) -> None:
    content = bytearray(model_of(graph(constant("aaa"), initializer=[tensor("bbb"), tensor("ccc")])))
    for at, value in edits:
        content[at % len(content)] = value
    try:
        theirs = onnx.load_model_from_string(bytes(content))
    except DecodeError:
        return
    tensors = [*theirs.graph.initializer, *(attribute.t for node in theirs.graph.node for attribute in node.attribute)]
    entries = [entry for one in tensors for entry in one.external_data if entry.key == "location"]
    # What is no UTF-8 their reader gives as bytes.
    values = [entry.value for entry in entries]
    wanted = {value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values}
    try:
        assert external_files(bytes(content)) >= wanted
    except ValueError as error:
        assert "damaged" in str(error)  # noqa: PT017 - a group, say, that protobuf skips


# --- In a bundle ------------------------------------------------------------------------------------------------------


def relocated(bundle: Path, target: Path, location: str, *, data: list[str]) -> None:
    """A copy of a bundle whose text takes its weights from ``location``; the manifest lists ``data`` for it."""
    shutil.copytree(bundle, target)
    raw = json.loads((target / "manifest.json").read_text())
    for part in raw["engines"]["onnx"].values():
        if part["data"] == ["text.data"]:
            model = onnx.load(target / part["file"], load_external_data=False)
            for weights in model.graph.initializer:
                for entry in weights.external_data:
                    entry.value = location if entry.key == "location" else entry.value
            (target / part["file"]).write_bytes(model.SerializeToString())
            part["data"] = data
    if "text.data" not in data:
        del raw["files"]["text.data"]
    raw["files"] = {name: entry.model_dump(mode="json") for name, entry in describe_files(target, raw["files"]).items()}
    (target / "manifest.json").write_text(json.dumps(raw))


def archive_of(bundle: Path) -> Path:
    archive = bundle.with_suffix(".zip")
    write_archive(bundle, [path.name for path in bundle.iterdir()], archive)
    return archive


@pytest.mark.parametrize(
    ("location", "data"),
    [
        ("text.data", []),  # there, but nobody checks its digest
        ("other.data", ["text.data"]),
        ("../text.data", ["text.data"]),
        ("/text.data", ["text.data"]),
        ("a/../text.data", ["text.data"]),
        ("", ["text.data"]),
    ],
)
@pytest.mark.parametrize("archived", [False, True])
def test_a_graph_takes_weights_only_from_files_that_are_listed_for_it(
    tiny_bundles: dict[str, Path], tmp_path: Path, location: str, data: list[str], archived: bool
) -> None:
    path = tmp_path / "bundle"
    relocated(tiny_bundles["fp32"], path, location, data=data)
    if archived:
        path = archive_of(path)
    with pytest.raises(BundleError, match=rf"onnx takes weights from '{location}', which the manifest does not list"):
        open_bundle(path)


def test_an_archive_reads_nothing_of_the_working_directory(
    tiny_bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime would: a graph from memory has no directory of its own."""
    from pocketvlm.runtime import load

    relocated(tiny_bundles["fp32"], tmp_path / "bundle", "here.data", data=[])
    archive = archive_of(tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    shutil.copy(tmp_path / "bundle" / "text.data", "here.data")
    with pytest.raises(BundleError, match=r"takes weights from 'here\.data'"):
        load(archive, threads=1)


def test_a_huge_graph_is_not_read(tiny_bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketvlm.bundle.open.MAX_GRAPH_BYTES", 1000)
    with pytest.raises(BundleError, match="larger than 1000 bytes; it is not a graph"):
        open_bundle(tiny_bundles["fp32"])


def test_weights_under_another_name_that_is_listed_are_taken(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    from pocketvlm.runtime import load

    bundle = tmp_path / "bundle"
    relocated(tiny_bundles["fp32"], bundle, "./text.data", data=["text.data"])
    with load(bundle, threads=1) as vlm, load(tiny_bundles["fp32"], threads=1) as original:
        assert np.array_equal(vlm.logits([1, 2, 3]), original.logits([1, 2, 3]))
