"""Towers that differ from SigLIP's by options: CLIP's and InternViT's, beside transformers' classes and in each back
end's graphs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, InternVLVisionConfig, InternVLVisionModel

from pocketvlm.errors import CheckpointError
from pocketvlm.export import export_bundle
from pocketvlm.export.neuropilot.options import NpuOptions, with_options
from pocketvlm.models.blocks.vision import VisionTower
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.shapes import expected_shapes
from pocketvlm.models.tower import VisionConfig
from pocketvlm.recipe import built_in_recipes, load_recipe
from pocketvlm.runtime import load
from tests.models.test_parity import TOLERANCE, randomized, relative
from tests.support.checkpoints import tiny_config, write_checkpoint

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "image_size": 48,
    "patch_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 136,
}
#: CLIP's up to the second last layer, as LLaVA takes it, and InternViT's of 6 B parameters; the rest is SigLIP's.
CLIP: dict[str, Any] = {
    "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "class_token": True, "patch_bias": False, "pre_norm": True,
    "post_norm": False,
}  # fmt: skip
INTERN_VIT: dict[str, Any] = {
    "hidden_act": "gelu", "class_token": True, "post_norm": False, "qkv_bias": False, "qk_norm": True,
    "layer_norm": "rms", "layer_scale": True,
}  # fmt: skip
TOWERS = {"clip": CLIP, "intern_vit": INTERN_VIT}
#: transformers' names of what is called otherwise here.
CLIP_NAMES = {
    "vision_model.": "",
    "pre_layrnorm": "embeddings.pre_layernorm",
    "embeddings.class_embedding": "embeddings.class_token.weight",
}
INTERN_VIT_NAMES = {
    "embeddings.cls_token": "embeddings.class_token.weight",
    "embeddings.position_embeddings": "embeddings.position_embedding.weight",
    "embeddings.patch_embeddings.projection": "embeddings.patch_embedding",
    "encoder.layer.": "encoder.layers.",
    "attention.projection_layer": "self_attn.out_proj",
    "attention.": "self_attn.",
    "layernorm_before": "layer_norm1",
    "layernorm_after": "layer_norm2",
    "lambda_1": "attention_scale.weight",
    "lambda_2": "mlp_scale.weight",
}


def filled(options: dict[str, Any], theirs: torch.nn.Module, names: dict[str, str]) -> VisionTower:
    """Our tower with the weights of theirs; those of layers and norms that ours has not are left out."""
    ours = VisionTower(VisionConfig(**options))
    wanted = ours.state_dict()
    for key, value in theirs.state_dict().items():
        for name, own in names.items():
            key = key.replace(name, own)
        if key in wanted:
            wanted[key] = value.reshape(wanted[key].shape)
    ours.load_state_dict(wanted)
    return ours.eval()


@torch.no_grad()
def test_clip_up_to_an_earlier_layer_equals_transformers() -> None:
    theirs = randomized(CLIPVisionModel(CLIPVisionConfig(**SHAPE)))
    pixels = torch.randn(3, 3, 48, 48)
    wanted = theirs(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    two = {**SHAPE, **CLIP, "num_hidden_layers": 2, "unused_layers": 1}
    assert relative(filled(two, theirs, CLIP_NAMES)(pixels), wanted) < TOLERANCE
    for fault in ({"class_token": True, "pre_norm": False}, {"hidden_act": "gelu"}, {"num_hidden_layers": 3}):
        assert relative(filled({**two, **fault}, theirs, CLIP_NAMES)(pixels), wanted) > 10 * TOLERANCE, fault


@torch.no_grad()
@pytest.mark.parametrize("large", [False, True])
def test_intern_vit_equals_transformers(large: bool) -> None:
    """Of 300 M parameters, with biases and a LayerNorm, and of 6 B, with two RMS norms."""
    options = {**INTERN_VIT} if large else {**INTERN_VIT, "qkv_bias": True, "qk_norm": False, "layer_norm": "mean"}
    config = InternVLVisionConfig(
        **SHAPE, attention_bias=not large, use_qk_norm=large, norm_type="rms_norm" if large else "layer_norm"
    )
    theirs = randomized(InternVLVisionModel(config))
    pixels = torch.randn(3, 3, 48, 48)
    wanted = theirs(pixel_values=pixels).last_hidden_state[:, 1:]
    assert relative(filled({**SHAPE, **options}, theirs, INTERN_VIT_NAMES)(pixels), wanted) < TOLERANCE
    for fault in ({"layer_scale": False}, {"qk_norm": False} if large else {"qkv_bias": False}):
        found = filled({**SHAPE, **options, **fault}, theirs, INTERN_VIT_NAMES)(pixels)
        assert relative(found, wanted) > 10 * TOLERANCE, fault


# --- Checkpoints and exports ------------------------------------------------------------------------------------------


def config_of(tower: str) -> VlmConfig:
    config = tiny_config("llama")
    assert config.vision is not None
    return replace(config, vision=replace(config.vision, **TOWERS[tower], unused_layers=1))


@pytest.mark.parametrize("tower", TOWERS)
def test_the_shapes_are_the_modules_and_the_config_comes_back(tower: str, tmp_path: Path) -> None:
    config = config_of(tower)
    model = write_checkpoint(tmp_path, config)
    stored = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    assert expected_shapes(config) == stored
    assert open_checkpoint(tmp_path).config == config


@pytest.mark.parametrize("name", built_in_recipes())
def test_built_in_recipes_keep_what_is_no_matrix(name: str) -> None:
    for tower in TOWERS:
        shapes = expected_shapes(config_of(tower))
        rules = load_recipe(name).assign(shapes)
        assert all(len(shapes[weight]) == 2 for weight, rule in rules.items() if rule.quantizer != "keep")


def test_layers_behind_the_taken_one_are_left_where_they_are(tmp_path: Path) -> None:
    """With the norm behind them; what no config speaks of is still refused, and so is another shape."""
    write_checkpoint(tmp_path, config_of("clip"))
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    layer = "vision_tower.encoder.layers"
    weights |= {name.replace("layers.1.", "layers.2."): value.clone() for name, value in weights.items()}
    weights["vision_tower.post_layernorm.weight"] = torch.ones(64)
    # as InternVL's and CLIP's are stored, with and without an axis of a batch
    token = "vision_tower.embeddings.class_token.weight"
    weights[token] = weights[token][None, None].contiguous()
    del weights["model.layers.2.mlp.down_proj.weight"]
    weights = {name: value for name, value in weights.items() if not name.startswith("model.layers.2.")}
    save_file(weights, file)
    opened = open_checkpoint(tmp_path)
    assert not any(name.startswith(f"{layer}.2.") for name in opened.tensors)
    assert opened.tensor(token).shape == (64,)
    for change, line in (
        ({f"{layer}.3.mlp.fc1.bias": torch.ones(136)}, "belongs to no part"),
        ({token: torch.ones(2, 1, 64)}, "has shape"),
    ):
        save_file({**weights, **change}, file)
        with pytest.raises(CheckpointError, match=line):
            open_checkpoint(tmp_path)


@torch.no_grad()
def test_each_back_end_has_clips_tower(tmp_path: Path) -> None:
    """ONNX, ExecuTorch and LiteRT beside the model in PyTorch; the NPU's program by its export's checks and beside it.

    (InternViT's has ``internvl_chat`` in the contract of families that see.)
    """
    config, engines = config_of("clip"), ("onnx", "executorch", "litert")
    model = write_checkpoint(tmp_path / "checkpoint", config)
    bundle = export_bundle(
        tmp_path / "checkpoint", tmp_path / "bundle", recipe="fp32", backends=engines, max_length=128
    )
    vision = bundle.manifest.vision
    assert vision is not None
    assert vision.patches_per_tile == 82
    pixels = torch.randn(2, 3, 72, 72)
    wanted = model.encode_tiles(pixels).numpy()
    for engine in engines:
        with load(bundle.location, threads=1, engine=engine) as vlm:
            found = vlm._engine.encode(vlm._engine.patch_embed(pixels.numpy()))
        assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < TOLERANCE, engine
    recipe = with_options(load_recipe("int4-channel"), NpuOptions(chunks=2, prefill_tokens=32, compiled=False))
    npu = export_bundle(
        tmp_path / "checkpoint", tmp_path / "npu", recipe=recipe, backends=["neuropilot"], max_length=128
    )
    assert npu.manifest.fidelity.lowering_relative_error < 5e-3
    with load(npu.location, threads=1, engine="npu-emulation") as vlm:
        found = vlm._engine.encode(vlm._engine.patch_embed(pixels.numpy()))
    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 0.1
