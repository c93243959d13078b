"""A model as a plan sees it: its parts and bytes, from a config and from the bundle that is made of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from pocketvlm.bundle.open import open_bundle
from pocketvlm.errors import ExportError
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.presets import PRESETS
from pocketvlm.models.shapes import expected_shapes
from pocketvlm.plan.model import (
    TEXT_PARTS,
    VISION_PARTS,
    PlannedModel,
    model_of_config,
    model_of_manifest,
)
from pocketvlm.plan.source import read_model
from pocketvlm.recipe import load_recipe
from tests.support.checkpoints import tiny_config
from tests.support.transformers_models import write_decoder


def planned(config: VlmConfig, recipe: str) -> PlannedModel:
    return model_of_config("model", config, load_recipe(recipe), None)


@pytest.mark.parametrize("recipe", ["fp32", "int4-g32", "bluelm-v-3b"])
def test_a_config_and_its_bundle_are_one_model(tiny_bundles: dict[str, Path], recipe: str) -> None:
    """The tiny bundles are of the config below; nothing but names, and a digit of bits by weight, differs."""
    bundle = model_of_manifest(open_bundle(tiny_bundles[recipe]).manifest)
    config = planned(tiny_config("qwen2"), recipe)
    assert bundle.vision is not None and config.vision is not None
    parts = {name: replace(part, bytes=0) for name, part in bundle.parts.items()}
    assert parts == {name: replace(part, bytes=0) for name, part in config.parts.items()}
    for name, part in config.parts.items():
        assert bundle.parts[name].bytes == pytest.approx(part.bytes, rel=2e-5), name
    preprocessing = config.vision.preprocessing
    found, wanted = (
        replace(
            model,
            name="",
            parts={},
            positions=None,
            kv_length=1,
            vision=None if model.vision is None else replace(model.vision, preprocessing=preprocessing),
        )
        for model in (bundle, config)
    )
    assert found == wanted
    assert set(bundle.vision.preprocessing.candidates) == set(preprocessing.candidates)


@pytest.mark.parametrize("recipe", ["fp32", "int4-g32", "bluelm-v-3b"])
def test_parts_are_the_bundles_files(tiny_bundles: dict[str, Path], recipe: str) -> None:
    """Data files hold the parts and the padding between tensors: less than 64 bytes before each array."""
    manifest = open_bundle(tiny_bundles[recipe]).manifest
    model = model_of_manifest(manifest)
    for file, names, prefixes in (
        ("vision.data", VISION_PARTS, ("vision_tower.", "downsampler.", "projector.")),
        ("text.data", TEXT_PARTS, ("model.", "lm_head.")),
    ):
        arrays = sum(
            2 if one.bits < 32 else 1 for name, one in manifest.recipe.tensors.items() if name.startswith(prefixes)
        )
        size = manifest.files[file].bytes
        found = sum(model.parts[name].bytes for name in names)
        assert size - 64 * arrays <= found <= size * (1 + 1e-4)
    graphs = sum(entry.bytes for name, entry in manifest.files.items() if not name.endswith(".data"))
    everything = sum(entry.bytes for entry in manifest.files.values())
    assert everything - graphs >= model.weight_bytes * (1 - 1e-4)


def test_the_papers_size() -> None:
    """By hand: 40 layers of 4 h^2 + 3 h f at 4 bits with a float32 scale for 128, and so on."""
    model = planned(PRESETS["bluelm-v-3b"].config, "bluelm-v-3b")
    int4, int8 = 4 / 8 + 4 / 128, 1 + 4 / 128
    hidden, inner, vocabulary = 2304, 5760, 122753
    matrices, norms = 40 * (4 * hidden**2 + 3 * hidden * inner), 40 * 2 * hidden + hidden
    sizes = {name: part.bytes for name, part in model.parts.items()}
    assert sizes["decoder"] == round(matrices * int4) + 4 * norms
    assert sizes["head"] == vocabulary * hidden * int4
    assert sizes["embedding table"] == vocabulary * hidden * int8
    assert sizes["decoder"] + sizes["head"] == pytest.approx(1.45e9, rel=2e-3)
    assert sizes["embedding table"] == pytest.approx(0.29e9, rel=1e-2)
    assert 2048 * model.kv_row_bytes == 2 * 40 * 36 * 64 * 2048 == pytest.approx(0.38e9, rel=1e-2)
    assert model.parts["decoder"].multiplied == matrices
    assert not model.tied


def test_a_tied_head_is_the_table() -> None:
    model = planned(PRESETS["bluelm-v-0.5b"].config, "bluelm-v-3b")
    assert model.tied
    assert model.parts["head"].bytes == 0
    assert model.head == model.parts["embedding table"]
    assert sum(part.weights for part in model.parts.values()) == sum(
        map(math.prod, expected_shapes(PRESETS["bluelm-v-0.5b"].config).values())
    )


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_planned(name: str) -> None:
    """Each weight belongs to a part. Of a packed picture a token ends each row."""
    model = planned(PRESETS[name].config, "int4-g128")
    assert sum(part.weights for part in model.parts.values()) == sum(
        map(math.prod, expected_shapes(PRESETS[name].config).values())
    )
    if name == "llava-next-7b":
        assert model.vision is not None
        assert model.vision.image_tokens((2, 1)) == 576 + 24 * (48 + 1)


def test_a_window_is_the_longest_cache() -> None:
    config = tiny_config("mistral", vision=False, sliding_window=192)
    assert (planned(config, "fp32").kv_length, planned(config, "fp32").positions) == (192, 192)
    with pytest.raises(ExportError, match="a KV length of 193 is not possible: its sliding_window is 192"):
        model_of_config("model", config, load_recipe("fp32"), 193)


def test_pieces_are_planned_as_the_weights_that_they_are(tmp_path: Path) -> None:
    write_decoder(tmp_path, "internlm2", tie_word_embeddings=True)
    model = read_model(str(tmp_path), "fp32")
    assert model.tied
    assert sum(part.weights for part in model.parts.values()) == open_checkpoint(tmp_path).parameters
