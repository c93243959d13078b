"""Files of a largest size: the same bundle, spread over more of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.external_data_helper import load_external_data_for_model

from pocketvlm.bundle.open import open_bundle
from pocketvlm.errors import BundleError, ExportError
from pocketvlm.export import export_bundle
from pocketvlm.export.store.weights import DataFile
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.recipe import load_recipe
from pocketvlm.runtime import GenerationConfig, load
from pocketvlm.scenes import draw
from tests.support.bundles import KV_LENGTH, SPLIT_BYTES


def test_a_split_bundle_has_the_same_tensors_in_smaller_files(
    tiny_bundles: dict[str, Path], split_bundle: Path, tmp_path: Path
) -> None:
    """By onnx's own reader of external data, which refuses files with a second name: other tests give theirs some."""
    copies = [shutil.copytree(bundle, tmp_path / bundle.name) for bundle in (tiny_bundles["bluelm-v-3b"], split_bundle)]
    whole, split = (open_bundle(copy, verify=True) for copy in copies)
    files = split.manifest.files
    assert all(entry.bytes <= SPLIT_BYTES for entry in files.values())
    assert {"text.data", "text-2.data", "vision-2.data"} < files.keys()
    assert files.keys() - whole.manifest.files.keys() == {name for name in files if "-" in name}
    for name, part in split.manifest.engines["onnx"].items():
        graphs = []
        for bundle in (whole, split):
            model = onnx.load(str(bundle.path(part.file)), load_external_data=False)
            load_external_data_for_model(model, str(bundle.location))
            graphs.append(model)
            for tensor in model.graph.initializer:
                del tensor.external_data[:]
        assert graphs[0] == graphs[1]
        assert whole.manifest.engines["onnx"][name].data == (part.data[0],)
    assert len(split.manifest.engines["onnx"]["text_decoder"].data) == 2
    assert whole.manifest.recipe == split.manifest.recipe
    assert whole.manifest.fidelity == split.manifest.fidelity


def test_stock_onnx_runtime_opens_its_parts(split_bundle: Path) -> None:
    bundle = open_bundle(split_bundle)
    for part in bundle.manifest.engines["onnx"].values():
        session = onnxruntime.InferenceSession(str(bundle.path(part.file)), providers=["CPUExecutionProvider"])
        assert session.get_outputs()
    moved = bundle.manifest.engines["onnx"]["text_decoder"].data[-1]
    (split_bundle / moved).rename(split_bundle / "aside")
    try:
        with pytest.raises(Exception, match=moved):
            onnxruntime.InferenceSession(str(bundle.path("text_decoder.onnx")), providers=["CPUExecutionProvider"])
        with pytest.raises(BundleError, match=f"{moved} is missing"):
            open_bundle(split_bundle)
    finally:
        (split_bundle / "aside").rename(split_bundle / moved)


@pytest.mark.parametrize("archive", [False, True])
def test_answers_are_those_of_the_whole_bundle(
    tiny_bundles: dict[str, Path], split_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, *, archive: bool
) -> None:
    split = split_bundle
    if archive:
        split = tmp_path / "split.zip"
        export_bundle(tiny_checkpoint, split, recipe="bluelm-v-3b", split_bytes=SPLIT_BYTES)
    answers = []
    for bundle in (tiny_bundles["bluelm-v-3b"], split):
        with load(bundle, threads=1) as vlm:
            pieces = vlm.stream("What is the total?", [draw(3).image], GenerationConfig(24))
            answers.append([piece.token_id for piece in pieces])
    assert answers[0] == answers[1]
    assert answers[0]


def test_a_part_that_lists_too_few_of_its_files_is_refused(split_bundle: Path, tmp_path: Path) -> None:
    raw = json.loads((split_bundle / "manifest.json").read_text())
    raw["engines"]["onnx"]["text_decoder"]["data"].pop()
    for path in split_bundle.iterdir():
        (tmp_path / path.name).symlink_to(path) if path.suffix != ".json" else None
    for name in raw["files"]:
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).write_bytes((split_bundle / name).read_bytes())
    (tmp_path / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(BundleError, match=r"text_decoder.onnx is not a graph that a bundle may have"):
        open_bundle(tmp_path)


@pytest.mark.parametrize(("backend", "file"), [("neuropilot", "npu_text"), ("qnn", "qnn_weights")])
def test_a_program_for_an_npu_is_split_as_well(tiny_checkpoint: Path, tmp_path: Path, backend: str, file: str) -> None:
    recipe = load_recipe("int4-channel")
    uncompiled = replace(recipe, backends={backend: {"compiled": False}})
    bundle = export_bundle(
        tiny_checkpoint,
        tmp_path / "npu",
        recipe=uncompiled,
        backends=[backend],
        max_length=KV_LENGTH,
        split_bytes=SPLIT_BYTES,
    )
    assert not list((tmp_path / "npu").glob(".*"))
    assert {f"{file}.data", f"{file}-2.data"} < bundle.manifest.files.keys()
    assert all(entry.bytes <= SPLIT_BYTES for entry in bundle.manifest.files.values())


def test_what_cannot_be_split_is_said_before_work_begins(tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = open_checkpoint(tiny_checkpoint)
    for recipe, backends, words in (
        ("fp32", ["onnx"], r"\w+\.weight: it is one tensor of .* MB, .*: --split-mb 1 or more"),
        ("int8", ["onnx"], r"\w+\.weight: it is one tensor of .* MB"),
        ("bluelm-v-3b", ["onnx", "executorch"], "an ExecuTorch program has all weights in one file, which is of"),
    ):
        with pytest.raises(ExportError, match=words):
            export_bundle(source, tmp_path / "bundle", recipe=recipe, backends=backends, split_bytes=1000)
    assert not list(tmp_path.iterdir())


def test_a_file_that_came_out_larger_ends_the_export(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A graph here, of whose size nothing is known beforehand."""
    with pytest.raises(
        ExportError, match=r"text_decoder.onnx cannot be split: it is a file of 0.1 MB.* --split-mb 1 or"
    ):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", recipe="bluelm-v-3b", split_bytes=64_000)
    assert not list(tmp_path.iterdir())


def test_data_files_of_a_largest_size(tmp_path: Path) -> None:
    """Offsets are aligned in each; what fits to the byte goes in, one more byte begins another."""
    file = DataFile(tmp_path / "x.data", most=256)
    regions = [file.append(np.full(size, size % 251, np.uint8)) for size in (100, 128, 1, 64, 192, 65, 256)]
    with pytest.raises(ExportError, match="it is one tensor of"):
        file.append(np.zeros(257, np.uint8))
    file.close()
    places = [(region.file, region.offset) for region in regions]
    assert places == [
        ("x.data", 0), ("x.data", 128), ("x-2.data", 0), ("x-2.data", 64),
        ("x-3.data", 0), ("x-4.data", 0), ("x-5.data", 0),
    ]  # fmt: skip
    for region in regions:
        assert set((tmp_path / region.file).read_bytes()[region.offset :][: region.length]) == {region.length % 251}
    assert max(path.stat().st_size for path in tmp_path.iterdir()) == 256
