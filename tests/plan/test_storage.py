"""Names, shapes and bytes of weights, held to what models, quantizers and exports make of them."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.bundle.open import open_bundle
from pocketvlm.errors import RecipeError
from pocketvlm.export.assemble import DEFAULT_KV_LENGTH
from pocketvlm.export.estimate import _fixed_bytes, disk_bytes
from pocketvlm.export.job import PREFILL_CHUNK as EXPORTS_CHUNK
from pocketvlm.export.read.frontend import TILE_BATCH as EXPORTS_BATCH
from pocketvlm.models.checkpoint import Checkpoint, TensorInfo, expected_shapes
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.families import FAMILIES
from pocketvlm.models.presets import PRESETS
from pocketvlm.plan.model import (
    KV_LENGTH,
    PREFILL_CHUNK,
    TEXT_PARTS,
    TILE_BATCH,
    VISION_PARTS,
    Model,
    model_of_config,
    model_of_manifest,
)
from pocketvlm.plan.shapes import weight_shapes
from pocketvlm.plan.storage import BLOCK_SIZES, INTEGER_PARTS, KEEP, MOST_INTEGER_COLUMNS, stored_bytes
from pocketvlm.plan.storage import QUANTIZERS as KNOWN
from pocketvlm.quant import QUANTIZERS, Keep, RoundToNearest, quantizer_of
from pocketvlm.quant.tensors import MOST_COLUMNS, integer_matrix
from pocketvlm.recipe import Recipe, Rule, built_in_recipes, load_recipe
from tests.support.checkpoints import FAMILIES as DECODERS
from tests.support.checkpoints import tiny_config

OTHERS = {
    **{family: tiny_config(family) for family in DECODERS},
    **{f"{family} alone": tiny_config(family, vision=False) for family in DECODERS},
    "untied": tiny_config("llama", tie_word_embeddings=False),
    "biases everywhere": tiny_config("llama", attention_bias=True),
}
CONFIGS = {**{name: preset.config for name, preset in PRESETS.items()}, **OTHERS}


def planned(config: VlmConfig, recipe: str) -> Model:
    return model_of_config("model", config, load_recipe(recipe), None)


# --- Shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_are_those_of_the_modules(name: str) -> None:
    assert weight_shapes(CONFIGS[name]) == expected_shapes(CONFIGS[name])


def test_what_an_export_chooses_is_what_it_chooses() -> None:
    assert (KV_LENGTH, PREFILL_CHUNK, TILE_BATCH) == (DEFAULT_KV_LENGTH, EXPORTS_CHUNK, EXPORTS_BATCH)


# --- Bytes of a weight ------------------------------------------------------------------------------------------------


def test_quantizers_and_their_options_are_those_of_quant() -> None:
    assert set(QUANTIZERS) == {KEEP, *KNOWN}
    for name, options in KNOWN.items():
        assert set(options) == {item.name for item in fields(QUANTIZERS[name])}
    assert MOST_INTEGER_COLUMNS == MOST_COLUMNS


@given(
    quantizer=st.sampled_from(sorted(KNOWN)),
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([*BLOCK_SIZES, "channel"]),
    symmetric=st.sampled_from([None, False, True]),
    shape=st.tuples(st.integers(1, 300), st.integers(1, 5000)),
)
def test_bytes_are_those_that_the_quantizer_says(
    quantizer: str, bits: int, group: Any, symmetric: bool | None, shape: tuple[int, int]
) -> None:
    symmetric = None if quantizer == "hqq" else symmetric
    options = {"bits": bits, "group_size": group, **({} if symmetric is None else {"symmetric": symmetric})}
    rule = Rule(("*",), quantizer, options)
    assert stored_bytes("model.layers.0.mlp.up_proj.weight", shape, rule) == quantizer_of(rule).stored_bytes(shape)


@pytest.mark.parametrize("rows", [1, 24])
@pytest.mark.parametrize("columns", [5, 64, 200])
def test_whole_rows_of_integers_take_what_they_take(rows: int, columns: int) -> None:
    quantizer = RoundToNearest(bits=8, group_size="channel")
    matrix = integer_matrix(quantizer.quantize(torch.linspace(-1, 1, rows * columns).view(rows, columns)))
    rule = Rule(("*",), "round-to-nearest", {"bits": 8, "group_size": "channel"})
    for prefix in INTEGER_PARTS:
        found = stored_bytes(f"{prefix}x.weight", (rows, columns), rule)
        assert found == matrix.codes.nbytes + matrix.scales.nbytes


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule(("*",), "magic", {"bits": 4}), "no quantizer 'magic'"),
        (Rule(("*",), "hqq", {"bits": 4, "group_size": 32, "damping": 1}), "no option 'damping'"),
        (Rule(("*",), "keep", {"bits": 4}), "keep has no option 'bits'"),
        (Rule(("*",), "gptq", {"bits": True, "group_size": 32}), "bits is True"),
        (Rule(("*",), "gptq", {"group_size": 32}), "bits is None"),
        (Rule(("*",), "gptq", {"bits": 4, "group_size": 33}), "group_size is 33"),
        (Rule(("*",), "gptq", {"bits": 4, "group_size": 32, "symmetric": 1}), "symmetric is 1"),
    ],
)
def test_a_rule_that_no_quantizer_takes_names_the_weight(rule: Rule, words: str) -> None:
    with pytest.raises(RecipeError, match=rf"^lm_head\.weight: .*{words}"):
        stored_bytes("lm_head.weight", (8, 64), rule)
    with pytest.raises(RecipeError):
        quantizer_of(rule)


def test_a_vector_is_not_quantized() -> None:
    with pytest.raises(RecipeError, match=r"model\.norm\.weight: only matrices"):
        stored_bytes("model.norm.weight", (8,), Rule(("*",), "gptq", {"bits": 4, "group_size": 32}))


# --- Bytes of a model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", built_in_recipes())
@pytest.mark.parametrize("name", CONFIGS)
def test_bytes_are_those_that_an_export_estimates(tmp_path: Path, name: str, recipe: str) -> None:
    """Whole rows of integers in the vision part are counted as they are written, the estimate counts blocks: more."""
    config, rules = CONFIGS[name], load_recipe(recipe)
    found = planned(config, recipe).weight_bytes
    whole, text = _estimated(tmp_path, config, rules), _estimated(tmp_path, replace(config, vision=None), rules)
    assert planned(replace(config, vision=None), recipe).weight_bytes == text
    assert found <= whole
    assert found == pytest.approx(whole, rel=0.05)
    if isinstance(quantizer_of(rules.assign(["projector.linear_1.weight"])["projector.linear_1.weight"]), Keep):
        assert found == whole


def _estimated(directory: Path, config: VlmConfig, recipe: Recipe) -> int:
    """What an export says before it starts, without tokenizer, tables and graphs."""
    tensors = {name: TensorInfo(name, directory, name, shape) for name, shape in expected_shapes(config).items()}
    checkpoint = Checkpoint(directory, FAMILIES["bluelm_v"], config, tensors)
    return disk_bytes(checkpoint, recipe, 512) - _fixed_bytes(checkpoint, 512)


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
