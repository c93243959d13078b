"""LFM2-VL beyond the contract: a projector without its norm, and a plan of pictures in parts."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketvlm.errors import CheckpointError
from pocketvlm.export import export_bundle
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.presets import PRESETS
from pocketvlm.plan.device import load_device
from pocketvlm.plan.memory import Use, fit, peak_bytes, picture_at, picture_of
from pocketvlm.plan.model import PlannedVision, model_of_config, model_of_manifest
from pocketvlm.plan.times import encoder_step, picture_phases
from pocketvlm.recipe import load_recipe
from pocketvlm.runtime import load
from tests.images.test_tiles import noise
from tests.runner.test_conversation import talk
from tests.support.lfm2_vl import lfm2_vl
from tests.support.vision_contract import (
    DIALOGUES,
    KV_LENGTH,
    TOLERANCE,
    Exported,
    conversation,
    distance,
    exported,
    features_of,
    pictures_of,
    processed,
    twenty,
)

#: Wholes and parts, wide and high ones.
SIZES = ((12, 140), (150, 13), (48, 24), (64, 64), (61, 83), (300, 90), (200, 200), (3, 2))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Exported:
    return exported("lfm2_vl", tmp_path_factory.mktemp("lfm2_vl"), shared)


# --- A projector without its norm -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """As LFM2.5-VL has it."""
    folder = tmp_path_factory.mktemp("plain")
    written = lfm2_vl(folder / "checkpoint", projector_use_layernorm=False)
    bundle = export_bundle(
        written.directory, folder / "bundle", recipe="fp32", backends=written.engines, max_length=KV_LENGTH
    )
    return Exported(written, bundle)


@torch.no_grad()
def test_a_projector_without_its_norm_is_transformers(plain: Exported, tmp_path: Path) -> None:
    assert not any("norm" in name for name in plain.bundle.manifest.recipe.tensors if name.startswith("downsampler."))
    inputs, images = processed(plain.written, DIALOGUES["two apart"]), pictures_of(DIALOGUES["two apart"])
    features, logits = features_of(plain.written, inputs), plain.written.model(**inputs).logits[0].numpy()
    for engine in plain.written.engines:
        with load(plain.bundle.location, threads=1, engine=engine) as vlm:
            assert distance(vlm.encode_images(images), features) < TOLERANCE, engine
            assert distance(vlm.logits(inputs["input_ids"][0].numpy(), images), logits) < TOLERANCE, engine
    with load(plain.bundle.location, threads=1, engine="onnx") as vlm:
        said = talk(plain.bundle.location, [*conversation(vlm, DIALOGUES["two apart"], tmp_path), "ask 20"])[-1]
        assert [int(word) for word in said.split()[1:-2]] == twenty(vlm, DIALOGUES["two apart"])


@pytest.mark.parametrize(
    ("said", "line"),
    [(True, r"downsampler\.norm\.(weight|bias)"), (1, "projector_use_layernorm is 1, expected true or false")],
)
def test_a_norm_that_is_not_stored_is_missing(plain: Exported, tmp_path: Path, said: Any, line: str) -> None:
    for path in plain.written.directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, "projector_use_layernorm": said}))
    with pytest.raises(CheckpointError, match=line):
        open_checkpoint(tmp_path)


def test_a_norm_that_the_config_does_not_know_is_left_over(one: Exported, tmp_path: Path) -> None:
    """Weights that a model would have to use and does not: another model."""
    for path in one.written.directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, "projector_use_layernorm": False}))
    with pytest.raises(CheckpointError, match="layer_norm"):
        open_checkpoint(tmp_path)


# --- A plan -----------------------------------------------------------------------------------------------------------


def vision_of(config: VlmConfig) -> PlannedVision:
    vision = model_of_config("model", config, load_recipe("fp32"), KV_LENGTH).vision
    assert vision is not None
    return vision


def test_a_plan_of_a_checkpoint_and_of_its_bundle_see_parts_as_the_runtime_does(one: Exported) -> None:
    config = open_checkpoint(one.written.directory).config
    planned, found = vision_of(config), model_of_manifest(one.bundle.manifest).vision
    assert found is not None
    # a bundle has the processor's own bounds
    assert planned == replace(found, preprocessing=planned.preprocessing, batch=planned.batch)
    assert (found.batch, planned.batch) == (4**2, 64**2), "tiles of the processor's parts, and of the config's own"
    in_parts = set()
    with load(one.bundle.location, threads=1) as vlm:
        for size in SIZES:
            tiled = vlm.prepare(noise(*size, seed=size[0])).tiled
            picture = picture_at(found, size)
            assert tiled.parts is not None
            assert picture.tiles == picture.tokens == len(tiled.pixels) == sum(map(math.prod, tiled.parts)), size
            in_parts.add(len(tiled.parts) > 1)
    assert in_parts == {True, False}


def test_a_plan_knows_the_largest_picture_that_fits(one: Exported) -> None:
    model = model_of_manifest(one.bundle.manifest)
    assert model.vision is not None
    grids = model.vision.grids((5, 7))
    assert {(8, 4), (8, 12)} < grids and max(map(math.prod, grids)) == 6 * 16
    assert min(map(math.prod, grids)) < 12
    device = load_device("dimensity-9300")
    large, small = (Use(picture_of(model.vision, grid), KV_LENGTH) for grid in ((8, 8), (2, 3)))
    budget = peak_bytes(model, device, large, "vision kept")
    fits = fit(model, device, small, "vision kept", budget)
    assert fits.largest_picture is not None
    assert fits.largest_picture.tokens >= 64
    less = fit(model, device, small, "vision kept", peak_bytes(model, device, small, "vision kept"))
    assert less.largest_picture is not None and less.largest_picture.tokens < 64


def test_a_parts_patches_see_those_of_the_part_alone(one: Exported) -> None:
    """The time of two parts is twice that of one, whose attention grows with its tiles; nothing is hidden."""
    model, device = model_of_manifest(one.bundle.manifest), load_device("dimensity-9300")
    times = [picture_phases(model, device, tiles) for tiles in (16, 32)]
    assert np.isclose(2 * times[0][-1].operations, times[1][-1].operations)
    assert 2 * encoder_step(model, 16).operations < encoder_step(model, 32).operations
    assert [phase.seconds for phase in (times[0][1], times[1][1])] == [0, 0]


def test_lfm2_5_vls_largest_picture_has_ten_parts_and_a_whole() -> None:
    vision = vision_of(PRESETS["lfm2.5-vl-450m"].config)
    assert (vision.batch, vision.patches, vision.tokens) == (256, 4, 1)
    sizes = ((512, 512), (1024, 768), (5120, 512))
    assert [picture_at(vision, size).tokens for size in sizes] == [16 * 16, 6 * 256 + 18 * 13, 10 * 256 + 50 * 5]
