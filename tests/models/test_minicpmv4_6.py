"""MiniCPM-V 4.6 beside what the contract holds: where patches are merged, its plan, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pocketvlm.errors import CheckpointError, ExportError
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.read.image_processor import vision_of
from pocketvlm.export.reference.stages import encode_tiles
from pocketvlm.images.prepare import cut_tiles, normalize, preprocessing_of
from pocketvlm.images.tiling import Grid
from pocketvlm.models.checkpoint import Checkpoint, open_checkpoint
from pocketvlm.models.config import VlmConfig
from tests.support.minicpmv4_6 import minicpmv4_6
from tests.support.planned_slices import check_largest, check_pictures, check_products
from tests.support.vision_contract import DIALOGUES, distance, exported, features_of, pictures_of, processed
from tests.support.written_family import Written

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return minicpmv4_6(tmp_path_factory.mktemp("minicpmv4_6") / "checkpoint")


@pytest.fixture(scope="module")
def wanted(written: Written) -> Any:
    """transformers' tokens of the first dialogue's picture."""
    return features_of(written, processed(written, DIALOGUES["first"]))


def cut(checkpoint: Checkpoint) -> tuple[torch.Tensor, list[Grid]]:
    """Pixels of that picture's tiles, and the grids of its parts."""
    vision = read_frontend(checkpoint).vision
    assert vision is not None
    (image,) = pictures_of(DIALOGUES["first"])
    tiled = cut_tiles(image, preprocessing_of(vision))
    return torch.from_numpy(normalize(tiled.pixels, preprocessing_of(vision))), list(tiled.seen)


# --- Where patches are merged -----------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(("index", "equal"), [(1, True), (0, False), (2, False)])
def test_patches_are_merged_behind_the_layer_that_the_config_says(
    written: Written, wanted: Any, tmp_path: Path, index: int, *, equal: bool
) -> None:
    directory = tmp_path / "checkpoint"
    shutil.copytree(written.directory, directory)
    raw = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**raw, "insert_layer_id": index}))
    checkpoint = open_checkpoint(directory)
    assert f"vision_tower.encoder.layers.{index}.merger.linear_1.weight" in checkpoint.tensors
    pixels, grids = cut(checkpoint)
    (found,) = encode_tiles(checkpoint.config, checkpoint.tensor, [pixels], grids=[grids])
    assert found is not None
    error = distance(found[:, 0].numpy(), wanted)
    assert error < TOLERANCE if equal else error > 1e-2


# --- A plan -----------------------------------------------------------------------------------------------------------


def test_a_plan_sees_slices_as_the_runtime_does(
    written: Written, tmp_path_factory: pytest.TempPathFactory, shared: Path
) -> None:
    bundle = exported("minicpmv4_6", tmp_path_factory.mktemp("again"), shared).bundle
    check_pictures(open_checkpoint(written.directory), bundle)
    check_largest(bundle)


def test_a_plan_counts_the_products_of_a_slice_as_pytorch_does(written: Written) -> None:
    """Of patches that are merged on their way."""
    check_products(open_checkpoint(written.directory))


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"downsample_mode": "4x"}, "downsample_mode is '4x'; what is supported is '16x'"),
        ({"merger_times": 2}, "merger_times is 2"),
        ({"merge_kernel_size": [3, 3]}, r"merge_kernel_size is \[3, 3\]"),
        ({"drop_vision_last_layer": True}, "drop_vision_last_layer is True"),
        ({"insert_layer_id": -1}, "insert_layer_id is -1, expected the index of a layer"),
        ({"insert_layer_id": 3}, "merge_after: 4 is none of 3 layers"),
        ({"vision_config": {"window_kernel_size": [4, 4]}}, r"vision_config.window_kernel_size is \[4, 4\]"),
        ({"vision_config": {"patch_size": "14"}}, "vision_config.patch_size is '14', expected a number"),
        ({"text_config": {"model_type": "qwen3_5_moe_text"}}, "text_config.model_type is 'qwen3_5_moe_text'"),
        ({"text_config": []}, r"text_config is \[\], expected an object"),
    ],
)
def test_what_a_config_asks_for_and_nothing_computes_is_refused(
    written: Written, changes: dict[str, Any], message: str
) -> None:
    raw = json.loads((written.directory / "config.json").read_text())
    VlmConfig.from_dict(raw)
    inner = {key: {**raw[key], **value} if isinstance(value, dict) else value for key, value in changes.items()}
    with pytest.raises(CheckpointError, match=message):
        VlmConfig.from_dict({**raw, **inner})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"downsample_mode": "4x"}, CheckpointError, "downsample_mode"),
        ({"slice_mode": False}, CheckpointError, "slice_mode"),
        ({"use_image_id": False}, CheckpointError, "use_image_id"),
        ({"max_slice_nums": 41}, CheckpointError, "max_slice_nums is 41"),
        ({"patch_size": 14}, ExportError, "patch_size is 14; config.json makes it 3"),
        ({"scale_resolution": 11}, ExportError, "scale_resolution is 11, less than a token's pixels"),
        ({"image_processor_type": "SiglipImageProcessor"}, ExportError, "minicpmv4_6 has MiniCPMV4_6ImageProcessor"),
    ],
)
def test_a_processor_that_is_another_is_refused(
    written: Written, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    config = open_checkpoint(written.directory).config
    raw = json.loads((written.directory / "processor_config.json").read_text())["image_processor"]
    assert vision_of(config, raw, "processor").max_pixels == 36**2
    with pytest.raises(error, match=message):
        vision_of(config, {**raw, **changes}, "processor")


def test_its_successor_is_refused_by_name(written: Written, tmp_path: Path) -> None:
    raw = json.loads((written.directory / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, "model_type": "minicpmv4_7"}))
    with pytest.raises(CheckpointError, match=r"'minicpmv4_7' is not supported \(nearest: minicpmv4_6, minicpmv"):
        open_checkpoint(tmp_path)


def test_the_defaults_are_those_of_its_config_classes() -> None:
    """Of a config.json without what MiniCPMV4_6Config has by itself."""
    from transformers import AutoConfig

    wanted = AutoConfig.for_model("minicpmv4_6")
    config = VlmConfig.from_dict({"model_type": "minicpmv4_6"})
    vision, text = config.vision, config.text
    assert vision is not None
    assert (vision.hidden_size, vision.num_hidden_layers) == (768, wanted.vision_config.num_hidden_layers)
    assert vision.patch_size == wanted.vision_config.patch_size
    assert vision.table_side == wanted.vision_config.image_size // wanted.vision_config.patch_size
    assert vision.merge_after == wanted.insert_layer_id + 1
    assert (vision.stream(6), vision.stream(7), vision.stream(12)) == ((16, 768), (4, 768), (4, 768))
    assert (text.hidden_size, text.num_hidden_layers) == (
        wanted.text_config.hidden_size, wanted.text_config.num_hidden_layers,
    )  # fmt: skip
    assert not config.has_axes
    assert not text.tie_word_embeddings
