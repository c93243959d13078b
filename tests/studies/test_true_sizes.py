"""The study of published sizes: what it computes without a model of such a size, and without llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.presets import PRESETS, Preset
from pocketvlm.models.shapes import expected_shapes
from studies import family_tiling
from studies.true_sizes import mmproj, study
from tests.support.checkpoints import tiny_config, write_checkpoint
from tests.support.vision_families import WRITERS

#: Those whose pictures are cut into tiles, as the studies have them.
PUBLISHED = [
    one
    for one in PRESETS.values()
    if one.published is not None and one.config.vision is not None and not one.config.is_native
]


#: Those whose vision part is written for llama.cpp.
WRITTEN = [one for one in PRESETS.values() if one.published and one.config.model_type in mmproj.PROJECTORS]


@pytest.mark.parametrize("preset", WRITTEN, ids=lambda preset: preset.name)
def test_llama_cpp_has_a_name_for_each_weight_of_a_vision_part(preset: Preset) -> None:
    config = preset.config
    seeing = [name for name in expected_shapes(config) if not name.startswith(("model.", "lm_head."))]
    assert config.vision is not None
    names = [mmproj.gguf_name(name, mmproj.PROJECTORS[config.model_type], config.vision.deep) for name in seeing]
    assert len(set(names)) == len(names)
    assert all(name.startswith(("v.", "mm.")) for name in names)


def test_what_llama_cpp_has_no_name_for_is_an_error() -> None:
    with pytest.raises(KeyError):
        mmproj.gguf_name("vision_tower.encoder.layers.3.mlp.gate.weight", mmproj.IDEFICS3)
    assert mmproj.gguf_name("vision_tower.encoder.layers.3.mlp.fc1.bias", mmproj.IDEFICS3) == "v.blk.3.ffn_up.bias"
    assert mmproj.gguf_name("projector.linear.weight", mmproj.IDEFICS3) == "mm.model.fc.weight"


def test_a_merger_of_deepstack_is_named_by_its_layer() -> None:
    name = mmproj.gguf_name("projector.mlps.1.linear_2.bias", mmproj.QWEN3, (6, 12, 18))
    assert name == "v.deepstack.11.fc2.bias", "what the twelfth layer gives"


def test_queries_keys_and_values_are_one_matrix_where_llama_cpp_has_one(tmp_path: Path) -> None:
    source = open_checkpoint(WRITERS["qwen3_vl"](tmp_path).directory)
    found = dict(mmproj.tensors(source, mmproj.QWEN3))
    third = source.tensor("vision_tower.encoder.layers.0.self_attn.k_proj.weight").float().numpy()
    width = len(third)
    assert np.array_equal(found["v.blk.0.attn_qkv.weight"][width : 2 * width], third)
    assert not [name for name in found if "attn_k" in name]
    assert not found["v.patch_embd.weight.1"].any(), "both frames are in the first"
    assert found["v.patch_embd.weight"].any()


def test_matrices_alone_are_quantized() -> None:
    def form(name: str, shape: tuple[int, ...]) -> str:
        return mmproj.form_of(name, np.zeros(shape, np.float32), "Q8_0")

    assert form("v.blk.0.ffn_up.weight", (8, 64)) == "Q8_0"
    assert form("v.blk.0.ffn_up.weight", (8, 40)) == "F16", "no whole blocks"
    assert form("v.position_embd.weight", (8, 64)) == "F32"
    assert form("v.blk.0.ffn_up.bias", (64,)) == "F32"


def test_an_export_is_held_to_its_layers_and_its_bundle(tmp_path: Path) -> None:
    config = tiny_config("qwen2")
    write_checkpoint(tmp_path / "checkpoint", config)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "a").write_bytes(bytes(1000))
    found = study.export_row(tmp_path / "checkpoint", tmp_path / "bundle", 3.0, 5)
    assert config.vision is not None
    layers = config.text.num_hidden_layers + config.vision.num_hidden_layers
    assert (found["layers"], found["export_goal_seconds"]) == (layers, pytest.approx(1.2 * layers))
    source = open_checkpoint(tmp_path / "checkpoint")
    one = {name: shape for name, shape in expected_shapes(config).items() if name.startswith("model.layers.0.")}
    assert study.largest_layer_bytes(source) >= 4 * sum(int(np.prod(shape)) for shape in one.values())
    assert found["export_goal_peak_bytes"] == 1500 + study.largest_layer_bytes(source)


def test_the_same_features_have_a_cosine_of_one() -> None:
    values = np.random.default_rng(0).standard_normal((5, 8))
    assert study.cosine(values, 3 * values) == pytest.approx(1)
    assert study.cosine(values, values[::-1]) < 0.9


@pytest.mark.parametrize("preset", PUBLISHED, ids=lambda preset: preset.name)
def test_the_papers_rule_never_cuts_more_tiles_than_a_family_has(preset: Preset) -> None:
    found = family_tiling.row(preset, {"photos": family_tiling.PHOTOS}, 2.0)
    own, relaxed = (family_tiling.Cost(**found["pictures"]["photos"][rule]) for rule in ("own", "relaxed"))
    assert 0 < relaxed.tiles <= own.tiles + 1
    assert relaxed.seconds == pytest.approx(2 * relaxed.tiles)


def test_seconds_a_tile_are_those_of_the_picture_that_was_measured(tmp_path: Path) -> None:
    """1024x768 is 4x3 tiles of SmolVLM's, and a thumbnail."""
    measured = {"preset": "smolvlm-256m", "bench": {"img 1024x768": {"seconds": 26.0, "tokens": 832}}}
    (tmp_path / "sizes.json").write_text(json.dumps({"rows": [measured]}))
    assert family_tiling.seconds_by_preset(tmp_path / "sizes.json") == {"smolvlm-256m": 2.0}
    assert family_tiling.seconds_by_preset(tmp_path / "none.json") == {}


def test_a_table_and_a_picture_have_every_model() -> None:
    pictures = {"photos": family_tiling.PHOTOS, "screenshots": family_tiling.SCREENS}
    rows = [family_tiling.row(preset, pictures, None) for preset in PUBLISHED]
    assert sum("not measured" in line for line in family_tiling.lines(rows)) == 2 * len(rows)
    assert family_tiling.draw(rows).startswith(b"\x89PNG")
