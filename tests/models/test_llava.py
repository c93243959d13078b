"""LLaVA's configs and processors: what is read as transformers reads it, and what is refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketvlm.errors import PocketVlmError
from pocketvlm.export import export_bundle
from pocketvlm.export.neuropilot.options import NpuOptions, with_options
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.images.prepare import cut_tiles, normalize, preprocessing_of
from pocketvlm.models.blocks.vision import VisionTower
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.families import llava
from pocketvlm.recipe import load_recipe
from pocketvlm.runtime import load
from tests.images.test_tiles import noise
from tests.support.checkpoints import edited
from tests.support.vision_contract import (
    DIALOGUES,
    KV_LENGTH,
    TOLERANCE,
    distance,
    pictures_of,
    processed,
)
from tests.support.vision_families import WRITERS, granite_vision
from tests.support.written_family import Written

CONFIG, PROCESSOR = "config.json", "processor_config.json"
SIZES_OF_A_TOWER = ("hidden_size", "intermediate_size", "image_size", "patch_size", "layer_norm_eps")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS["llava_onevision"](tmp_path_factory.mktemp("llava") / "checkpoint").directory


@pytest.fixture(scope="module")
def granite(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return granite_vision(tmp_path_factory.mktemp("granite") / "checkpoint")


@pytest.fixture
def checkpoint(written: Path, tmp_path: Path) -> Path:
    shutil.copytree(written, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_what_onevisions_config_leaves_out_is_transformers_default() -> None:
    from transformers import LlavaOnevisionConfig

    tower = {"model_type": "siglip_vision_model", "image_size": 384}
    given: tuple[dict[str, Any], ...] = ({}, {"vision_config": tower})
    for raw in given:
        wanted = LlavaOnevisionConfig(**raw)
        found = VlmConfig.from_dict({"model_type": "llava_onevision", **raw})
        assert found.vision is not None
        assert found.packing is not None
        for key in (*SIZES_OF_A_TOWER, "num_hidden_layers"):
            assert getattr(found.vision, key) == getattr(wanted.vision_config, key), key
        assert (found.text.model_type, found.text.vocab_size) == ("qwen2", wanted.text_config.vocab_size)
        assert found.image_token_id == wanted.image_token_index
        tile = found.vision.image_size
        if not raw:
            assert [
                [down * tile, across * tile] for across, down in found.tiling.candidates
            ] == wanted.image_grid_pinpoints
        assert f"anyres_max_{found.packing.most_tiles}" == wanted.vision_aspect_ratio


@pytest.mark.parametrize(("layer", "run"), [(-1, 2), (-2, 1), (1, 1), (2, 2)])
def test_an_earlier_layer_may_be_taken(checkpoint: Path, layer: int, run: int) -> None:
    edited(checkpoint / CONFIG, lambda raw: raw.update(vision_feature_layer=layer))
    opened = open_checkpoint(checkpoint)
    assert opened.config.vision is not None
    assert opened.config.vision.num_hidden_layers == run
    assert sum("encoder.layers" in name and name.endswith("fc1.weight") for name in opened.tensors) == run


def images(**changes: Any) -> Callable[[dict[str, Any]], object]:
    """A change of the image processor's keys."""
    return lambda raw: raw["image_processor"].update(changes)


@pytest.mark.parametrize(
    ("file", "change", "line"),
    [
        (CONFIG, lambda raw: raw.update(vision_feature_layer=-3), "vision_feature_layer is -3; what is supported"),
        (CONFIG, lambda raw: raw.update(vision_feature_layer="last"), "vision_feature_layer is 'last'; what is"),
        (CONFIG, lambda raw: raw.update(vision_feature_select_strategy="default"), "select_strategy is 'default'"),
        (CONFIG, lambda raw: raw.update(projector_hidden_act="relu"), "projector_hidden_act is 'relu'"),
        (CONFIG, lambda raw: raw.update(multimodal_projector_bias=False), "multimodal_projector_bias is False"),
        (CONFIG, lambda raw: raw.update(vision_aspect_ratio="anyres"), "vision_aspect_ratio is 'anyres'"),
        (CONFIG, lambda raw: raw.update(vision_aspect_ratio=9), "vision_aspect_ratio is 9"),
        (CONFIG, lambda raw: raw.update(vision_aspect_ratio="anyres_max_9999"), "vision_aspect_ratio is"),
        (CONFIG, lambda raw: raw.update(image_grid_pinpoints=[[15, 16]]), "image_grid_pinpoints: [[15, 16]] are not"),
        (CONFIG, lambda raw: raw.update(image_grid_pinpoints=[]), "image_grid_pinpoints: [] are not sizes"),
        (CONFIG, lambda raw: raw.update(image_grid_pinpoints=7), "image_grid_pinpoints: 7 are not sizes"),
        (CONFIG, lambda raw: raw.update(image_grid_pinpoints=[[15, 15 * 65]]), "tiling.candidates"),
        (CONFIG, lambda raw: raw["vision_config"].update(image_size="15"), "of whole tiles of 15 px"),
        (CONFIG, lambda raw: raw["vision_config"].update(model_type="dinov2"), "vision_config.model_type is 'dinov2'"),
        (CONFIG, lambda raw: raw.update(vision_config=[1]), "vision_config is [1], expected an object"),
        (CONFIG, lambda raw: raw.update(image_token_index=5), "image_token_id is 5, the tokenizer's <image> is"),
        (CONFIG, lambda raw: raw["text_config"].update(model_type="mamba"), "text_config.model_type"),
        (PROCESSOR, lambda raw: raw.update(num_image_tokens=8), "num_image_tokens is 8; config.json makes 9 tokens"),
        (PROCESSOR, lambda raw: raw.update(vision_aspect_ratio="anyres_max_9"), "vision_aspect_ratio is anyres_max_9"),
        (PROCESSOR, images(size={"height": 16, "width": 15}), "tiles have the vision_config's image_size, 15"),
        (PROCESSOR, images(image_grid_pinpoints=[[15, 30]]), "image_grid_pinpoints are [[15, 30]], config.json has"),
        (PROCESSOR, images(image_processor_type="CLIPImageProcessor"), "image_processor_type is CLIPImageProcessor"),
        (PROCESSOR, images(do_resize=False), "do_resize"),
        (PROCESSOR, images(resample=0), "resample is 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_one_line(
    checkpoint: Path, file: str, change: Callable[[dict[str, Any]], object], line: str
) -> None:
    read_frontend(open_checkpoint(checkpoint))
    edited(checkpoint / file, change)
    with pytest.raises(PocketVlmError) as caught:
        read_frontend(open_checkpoint(checkpoint))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hub_checkpoints_of_transformers_4_have_their_tower_under_another_name(checkpoint: Path) -> None:
    """``vision_tower.vision_model``, with SigLIP's head, which nothing runs."""
    from safetensors.torch import load_file, save_file

    weights = load_file(checkpoint / "model.safetensors")
    before = open_checkpoint(checkpoint)
    moved = {name.replace("vision_tower.", "vision_tower.vision_model."): value for name, value in weights.items()}
    moved["vision_tower.vision_model.head.probe"] = weights["image_newline"].clone()
    save_file(moved, checkpoint / "model.safetensors")
    assert open_checkpoint(checkpoint).tensors.keys() == before.tensors.keys()


# --- LLaVA 1.5 and LLaVA-NeXT ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS["llava"](tmp_path_factory.mktemp("clip") / "checkpoint").directory


@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_what_a_config_leaves_out_is_transformers_default(name: str) -> None:
    from transformers import LlavaConfig, LlavaNextConfig

    wanted = {"llava": LlavaConfig, "llava_next": LlavaNextConfig}[name]()
    found = VlmConfig.from_dict({"model_type": name})
    assert found.vision is not None
    layers = wanted.vision_config.num_hidden_layers
    assert (found.vision.num_hidden_layers, found.vision.unused_layers) == (layers - 1, 1)
    for key in (*SIZES_OF_A_TOWER, "hidden_act"):
        assert getattr(found.vision, key) == getattr(wanted.vision_config, key), key
    assert (found.text.model_type, found.text.vocab_size) == ("llama", wanted.text_config.vocab_size)
    assert found.image_token_id == wanted.image_token_index
    if name == "llava_next":
        tile = found.vision.image_size
        pinpoints = [[down * tile, across * tile] for across, down in found.tiling.candidates]
        assert pinpoints == wanted.image_grid_pinpoints


def test_what_a_clip_config_leaves_out_is_transformers_default() -> None:
    from transformers import CLIPVisionConfig

    assert {key: getattr(CLIPVisionConfig(), key) for key in llava.CLIP_DEFAULTS} == llava.CLIP_DEFAULTS


@pytest.mark.parametrize(
    ("file", "change", "line"),
    [
        (CONFIG, lambda raw: raw.update(vision_feature_select_strategy="full"), "vision_feature_select_strategy is"),
        (CONFIG, lambda raw: raw.update(vision_feature_layer=[-2, 9]), "vision_feature_layer is 9"),
        (CONFIG, lambda raw: raw.update(vision_feature_layer=[]), "vision_feature_layer is []"),
        (CONFIG, lambda raw: raw.update(vision_feature_layer=[-2] * 17), "vision_config.taken"),
        (CONFIG, lambda raw: raw["vision_config"].update(num_hidden_layers="3"), "vision_config.num_hidden_layers"),
        (PROCESSOR, lambda raw: raw.update(num_additional_image_tokens=0), "are 5, 0, 'default', not what makes 9"),
        (PROCESSOR, lambda raw: raw.update(patch_size="5"), "are '5', 1, 'default', not what makes 9 tokens"),
        (PROCESSOR, images(size={"height": 15, "width": 15}), "what is supported is shortest_edge alone"),
        (PROCESSOR, images(size={"shortest_edge": 16}), "tiles have the vision_config's image_size, 15"),
        (PROCESSOR, images(crop_size={"height": 14, "width": 15}), "crop_size is"),
        (PROCESSOR, images(do_center_crop=False), "do_center_crop"),
        (PROCESSOR, images(do_pad=True), "do_pad"),
        (PROCESSOR, images(image_processor_type="ViTImageProcessor"), "llava has LlavaImageProcessor or CLIPImage"),
    ],
)  # fmt: skip
def test_what_llava_cannot_have_is_one_line(
    clip: Path, tmp_path: Path, file: str, change: Callable[[dict[str, Any]], object], line: str
) -> None:
    shutil.copytree(clip, tmp_path / "checkpoint")
    edited(tmp_path / "checkpoint" / file, change)
    with pytest.raises(PocketVlmError) as caught:
        read_frontend(open_checkpoint(tmp_path / "checkpoint"))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_siglips_processor_squashes_a_picture(clip: Path, tmp_path: Path) -> None:
    """As models have it whose tower is SigLIP: its pixels are those of its class."""
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    shutil.copytree(clip, tmp_path / "checkpoint")
    theirs = SiglipImageProcessorPil(size={"height": 15, "width": 15})
    edited(tmp_path / "checkpoint" / PROCESSOR, lambda raw: raw.update(image_processor=theirs.to_dict()))
    vision = read_frontend(open_checkpoint(tmp_path / "checkpoint")).vision
    assert vision is not None
    settings = preprocessing_of(vision)
    for size in ((40, 20), (7, 90), (15, 15)):
        image = noise(*size, seed=0)
        found = normalize(cut_tiles(image, settings).pixels, settings)
        assert np.abs(found - theirs(image, return_tensors="np")["pixel_values"]).max() < 1e-6


# --- Granite Vision ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_granite_vision_is_transformers(granite: Written, tmp_path: Path) -> None:
    """Four layers' outputs side by side, and a decoder that multiplies all embeddings."""
    written = granite
    engines = ("onnx", "executorch")
    bundle = export_bundle(
        written.directory, tmp_path / "bundle", recipe="fp32", backends=engines, max_length=KV_LENGTH
    )
    inputs, images = processed(written, DIALOGUES["three"]), pictures_of(DIALOGUES["three"])
    ids = inputs["input_ids"][0].tolist()
    pictures = {key: value for key, value in inputs.items() if key != "input_ids"}
    # transformers' decoder multiplies them where they enter it
    features = 3 * torch.cat(list(written.model.get_image_features(**pictures).pooler_output)).numpy()
    logits = written.model(**inputs).logits[0].numpy()
    for engine in engines:
        with load(bundle.location, threads=1, engine=engine) as vlm:
            assert vlm.tokenize(DIALOGUES["three"]).tolist() == ids
            assert distance(vlm.encode_images(images), features) < TOLERANCE, engine
            assert distance(vlm.logits(ids, images), logits) < TOLERANCE, engine
    recipe = with_options(load_recipe("int4-channel"), NpuOptions(compiled=False))
    npu = export_bundle(
        written.directory, tmp_path / "npu", recipe=recipe, backends=["neuropilot"], max_length=KV_LENGTH
    )
    with load(npu.location, threads=1, engine="npu-emulation") as vlm:
        assert distance(vlm.encode_images(images), features) < 0.05


@torch.no_grad()
@pytest.mark.parametrize("taken", [(1, 2, 3, 4), (4,), (2, 1, 3, 4), (1, 2, 3, 3, 4)])
def test_other_layers_taken_are_seen(granite: Written, taken: tuple[int, ...]) -> None:
    opened = open_checkpoint(granite.directory)
    config = opened.config
    assert config.vision is not None
    assert config.vision.taken == (1, 2, 3, 4)
    pixels = torch.randn(2, 3, 12, 12)
    found = VisionTower(replace(config.vision, taken=taken))
    found.load_state_dict({name.removeprefix("vision_tower."): opened.tensor(name) for name in opened.tensors
                           if name.startswith("vision_tower.")})  # fmt: skip
    states = granite.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    wanted = torch.cat([states[number] for number in taken], dim=-1)
    assert torch.allclose(found(pixels), wanted, atol=1e-5)
