"""FastVLM beside timm's and transformers' own classes: norms that convolutions take in, and what is refused."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pocketvlm.errors import BundleError, CheckpointError, ExportError
from pocketvlm.export import export_bundle
from pocketvlm.export.backends import BACKENDS
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.read.tokenizer import read_tokenizer, tokenizer_file
from pocketvlm.models.blocks.convolutions import Stem, tower_layer
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.families import fast_vlm as family
from pocketvlm.models.families import llava_qwen2 as first_family
from pocketvlm.models.presets import find_preset
from pocketvlm.models.shapes import expected_shapes
from pocketvlm.models.stages import stages_of
from pocketvlm.plan.convolutions import shape_of
from pocketvlm.plan.model import model_of_config
from pocketvlm.recipe import load_recipe
from tests.support.fast_vlm import TOWER, fast_vlm, llava_qwen2
from tests.support.written_family import Written

#: Where timm puts the positions of a stage.
PLACED = re.compile(r"stages\.([34])\.blocks\.(?=reparam_conv)")
NORM = "stages.0.blocks.0.mlp.conv.bn."


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return fast_vlm(tmp_path_factory.mktemp("fast_vlm") / "checkpoint")


def changed(
    written: Written,
    directory: Path,
    weights: Callable[[dict[str, torch.Tensor]], object] = lambda stored: None,
    config: Callable[[dict[str, Any]], object] = lambda raw: None,
) -> Path:
    """A copy with other weights, or another config.json."""
    shutil.copytree(written.directory, directory)
    stored = load_file(directory / "model.safetensors")
    weights(stored)
    save_file(stored, directory / "model.safetensors")
    raw = json.loads((directory / "config.json").read_text())
    config(raw)
    (directory / "config.json").write_text(json.dumps(raw))
    return directory


def key_of(stored: dict[str, torch.Tensor], end: str) -> str:
    (found,) = (name for name in stored if name.endswith(end))
    return found


@torch.no_grad()
def features(directory: Path, pixels: torch.Tensor) -> torch.Tensor:
    checkpoint = open_checkpoint(directory)
    stages = stages_of(checkpoint.config)
    assert stages.patch_embedding is not None
    stream = stages.patch_embedding.run(checkpoint.tensor, pixels)
    for stage in stages.encoder:
        stream = stage.run(checkpoint.tensor, stream)
    return stream


@torch.no_grad()
def distance(written: Written, directory: Path) -> float:
    """Of our features to transformers', relative."""
    pixels = torch.rand(1, 3, written.tile, written.tile, generator=torch.Generator().manual_seed(0))
    wanted = written.model.model.get_image_features(pixels).pooler_output
    return float((features(directory, pixels) - wanted).norm() / wanted.norm())


def test_features_are_transformers(written: Written) -> None:
    assert distance(written, written.directory) < 1e-5


def test_a_convolution_takes_in_the_norm_behind_it(written: Written) -> None:
    """As PyTorch's own modules compute."""
    tower = written.model.model.vision_tower.timm_model
    both = tower.stages[0].blocks[0].mlp.conv
    checkpoint, name = open_checkpoint(written.directory), "vision_tower.stages.0.blocks.0.mlp.depthwise"
    alone = nn.Conv2d(8, 8, 7, padding=3, groups=8)
    points = torch.randn(1, 8, 9, 9)
    with torch.no_grad():
        alone.weight.copy_(checkpoint.tensor(f"{name}.weight"))
        assert alone.bias is not None
        alone.bias.copy_(checkpoint.tensor(f"{name}.bias"))
        assert torch.allclose(alone(points), both(points), atol=1e-5)


def test_the_same_bundle_needs_no_norms_once_they_are_taken_in(written: Written, tmp_path: Path) -> None:
    """What other tools write: a convolution with its bias. Both are the same weights."""
    checkpoint = open_checkpoint(written.directory)

    def folded(stored: dict[str, torch.Tensor]) -> None:
        for name in [name for name in stored if ".mlp.conv." in name]:
            del stored[name]
        prefix = "model.vision_tower.timm_model."
        for name in checkpoint.tensors:
            if ".mlp.depthwise." in name:
                stage = name.removeprefix("vision_tower.").replace(".mlp.depthwise.", ".mlp.conv.conv.")
                stored[prefix + stage] = checkpoint.tensor(name).contiguous()

    again = open_checkpoint(changed(written, tmp_path / "folded", folded))
    assert all(torch.equal(checkpoint.tensor(name), again.tensor(name)) for name in checkpoint.tensors)


FAULTS: dict[str, dict[str, str]] = {
    "scales of attention and MLP swapped": {
        ".layer_scale_1.gamma": ".mlp_scale.weight",
        ".layer_scale_2.gamma": ".attention_scale.weight",
    },
}


@pytest.mark.parametrize("fault", FAULTS)
def test_names_that_are_swapped_are_seen(written: Written, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "PARTS", {**family.PARTS, **FAULTS[fault]})
    assert distance(written, written.directory) > 1e-2


@pytest.mark.parametrize("part", ["weight", "bias", "running_mean", "running_var"])
def test_each_number_of_a_norm_counts(written: Written, part: str, tmp_path: Path) -> None:
    def other(stored: dict[str, torch.Tensor]) -> None:
        stored[key_of(stored, NORM + part)].add_(0.5)

    assert distance(written, changed(written, tmp_path / "other", other)) > 1e-3


@pytest.mark.parametrize("part", ["weight", "bias", "running_mean"])
def test_a_norm_that_is_not_whole_is_refused(written: Written, part: str, tmp_path: Path) -> None:
    def dropped(stored: dict[str, torch.Tensor]) -> None:
        del stored[key_of(stored, NORM + part)]

    with pytest.raises(CheckpointError, match=f"batch_norm.{part} missing from the weights"):
        open_checkpoint(changed(written, tmp_path / "dropped", dropped))


def test_a_norm_of_other_channels_is_refused(written: Written, tmp_path: Path) -> None:
    def longer(stored: dict[str, torch.Tensor]) -> None:
        stored[key_of(stored, NORM + "running_mean")] = torch.zeros(9)

    with pytest.raises(
        CheckpointError, match=r"running_mean has shape \[9\], the convolution before it \[8\] channels"
    ):
        open_checkpoint(changed(written, tmp_path / "longer", longer))


def said(section: str, key: str, value: object) -> Callable[[dict[str, Any]], object]:
    def change(raw: dict[str, Any]) -> None:
        (raw[section] if section else raw)[key] = value

    return change


ARGUMENTS = {"inference_mode": True, "layers": [1, 1, 1, 1, 1], "embed_dims": [8, 16, 32, 64, 192]}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (said("", "image_seq_length", 8), "image_seq_length is 8, no square"),
        (said("", "vision_feature_layer", -2), "vision_feature_layer is -2"),
        (said("vision_config", "architecture", "fastvit_t8"), "vision_config.architecture is 'fastvit_t8'"),
        (said("vision_config", "model_args", {}), "model_args.inference_mode: convolutions are supported as"),
        (said("vision_config", "model_args", {**ARGUMENTS, "inference_mode": False}), "model_args.inference_mode is"),
        (said("vision_config", "model_args", {**ARGUMENTS, "lkc_use_act": False}), "model_args.lkc_use_act"),
        (said("vision_config", "model_args", {**ARGUMENTS, "layers": [1, 2]}), "depths are .*, expected 5 numbers"),
        (said("vision_config", "model_args", {**ARGUMENTS, "layers": [1, 1, 1, 1, 0]}), "depths"),
        (said("vision_config", "model_args", {**ARGUMENTS, "embed_dims": [8, 12, 32, 64, 192]}), "no multiple"),
        (
            said("vision_config", "model_args", {**ARGUMENTS, "embed_dims": [8, 16, 16, 16, 192]}),
            "16 channels are no heads of 32",
        ),
        (said("vision_config", "model_args", {**ARGUMENTS, "embed_dims": [0, 16, 32, 64, 192]}), "widths"),
        (said("vision_config", "model_args", {**ARGUMENTS, "layers": [9**9] * 5}), "num_hidden_layers|depths"),
    ],
)
def test_what_is_computed_otherwise_is_refused(
    written: Written, change: Callable[[dict[str, Any]], object], line: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=line):
        open_checkpoint(changed(written, tmp_path / "other", config=change))


def test_a_plan_counts_what_the_tower_computes(written: Written) -> None:
    """As PyTorch counts it, which knows nothing of pointwise layers that are points of a map."""
    config = open_checkpoint(written.directory).config
    planned = model_of_config("tiny", config, load_recipe("fp32"), None).vision
    assert config.vision is not None and planned is not None and planned.work is not None
    shape, side = config.vision.convolutions, config.vision.image_size
    assert shape is not None
    parts = [
        Stem(config.vision),
        *(tower_layer(config.vision, index=layer) for layer in range(len(shape.layers(side)))),
    ]
    # (the fused kernel of attention is not counted)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        nn.Sequential(*parts)(torch.zeros(1, 3, side, side))
    assert 2 * (planned.work.embedding + planned.work.encoder) == counter.get_total_flops()


def test_a_manifests_weights_say_the_towers_shape() -> None:
    config = find_preset("fastvlm-0.5b").config
    assert config.vision is not None and config.vision.convolutions is not None
    counts = {name: math.prod(shape) for name, shape in expected_shapes(config).items()}
    assert shape_of(counts) == replace(config.vision.convolutions, head_dim=1)
    for name in ("vision_tower.stages.0.blocks.0.mlp.fc1.weight", "vision_tower.stages.1.blocks.0.mlp_scale.weight"):
        with pytest.raises(BundleError, match="no whole vision tower of convolutions"):
            shape_of({key: count for key, count in counts.items() if key != name})


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name not in ("onnx", "executorch")])
def test_back_ends_without_convolutions_say_so(written: Written, backend: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"a vision tower of convolutions is not yet lowered to .*: export with"):
        export_bundle(written.directory, tmp_path / "bundle", recipe="fp32", backends=[backend])


# --- As its makers published it ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return llava_qwen2(tmp_path_factory.mktemp("llava_qwen2") / "checkpoint")


def test_names_of_the_first_checkpoints_are_those_that_timm_renames(published: Written) -> None:
    """timm reads its makers' weights under the same names; what is one convolution already it calls otherwise."""
    from timm.models.fastvit import checkpoint_filter_fn

    stored = load_file(published.directory / "model.safetensors")
    tower = {name.removeprefix(TOWER): weight for name, weight in stored.items() if name.startswith(TOWER)}
    model = published.model.model.vision_tower.timm_model
    renamed = checkpoint_filter_fn(dict(tower), model)
    wanted = model.state_dict()
    found = {name.replace(".lkb_reparam.", ".reparam_conv."): weight for name, weight in renamed.items()}
    # (what stands before a stage it takes for one of its blocks, where it is not in training form)
    found = {PLACED.sub(r"stages.\1.pos_emb.", name): weight for name, weight in found.items() if "head" not in name}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            said("", "mm_vision_tower", "openai/clip-vit"),
            "mm_vision_tower is 'openai/clip-vit'.*mobileclip_l_",
        ),
        (said("", "mm_vision_tower", "mobileclip_l_100"), "mm_vision_tower is .* a multiple of 64 pixels"),
        (said("", "mm_vision_tower", None), "mm_vision_tower is None"),
        (said("", "image_aspect_ratio", "anyres"), "image_aspect_ratio is 'anyres'"),
        (said("", "mm_projector_type", "linear"), "mm_projector_type is 'linear'"),
        (said("", "mm_use_im_start_end", True), "mm_use_im_start_end is True"),
        (said("", "mm_hidden_size", 100), "mm_hidden_size is 100"),
        (said("", "vision_config", {"layers": [1]}), "depths are"),
    ],
)
def test_what_the_first_code_computes_otherwise_is_refused(
    published: Written, change: Callable[[dict[str, Any]], object], line: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=line):
        open_checkpoint(changed(published, tmp_path / "other", config=change))


def test_the_image_token_is_the_one_behind_the_tokenizers_own(published: Written, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(published.directory)
    tokenizer = read_tokenizer(checkpoint)
    assert tokenizer.token_to_id("<image>") == checkpoint.config.image_token_id == tokenizer.get_vocab_size() - 1
    assert "<image>" not in (published.directory / "tokenizer.json").read_text()
    assert "<image>" in tokenizer_file(checkpoint).decode()
    other = changed(published, tmp_path / "other", config=said("", "image_token_index", 300))
    with pytest.raises(CheckpointError, match="image_token_id is 300, the tokenizer's <image> is"):
        read_frontend(open_checkpoint(other))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("network.6.reparam_conv.weight", "stages.3.down.depthwise_positions.weight"),
        ("network.11.reparam_conv.weight", "network.11.reparam_conv.weight"),
        ("conv_exp.se.reduce.bias", "end.squeeze.bias"),
    ],
)
def test_a_part_is_found_by_its_number(theirs: str, ours: str) -> None:
    assert first_family.rename(f"{TOWER}{theirs}") == f"vision_tower.{ours}"
