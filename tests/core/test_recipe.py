"""Recipes: order, completeness, and clear errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pocketvlm.errors import ExportError, PocketVlmError, RecipeError
from pocketvlm.export.neuropilot.options import NpuOptions, options_of
from pocketvlm.export.tune.recipe import recipe_text
from pocketvlm.recipe import Recipe, Rule, built_in_recipes, load_recipe, parse_recipe
from pocketvlm.strict import parse_toml
from tests.support.checkpoints import tiny_config

KEEP = {"match": ["*"], "quantizer": "keep"}


def test_the_built_in_recipes() -> None:
    data_free = ("int4-channel", "int4-g128", "int4-g32", "int8")
    assert built_in_recipes() == ("bluelm-v-3b", "fp32", "gptq-channel", "gptq-g128", "gptq-g32", *data_free)
    paper = load_recipe("bluelm-v-3b")
    assert paper.kv_cache.dtype == "int8"
    assert load_recipe("int4-g128").kv_cache.dtype == "float32"


@pytest.mark.parametrize("name", built_in_recipes())
def test_built_in_recipes_claim_every_weight(name: str) -> None:
    from pocketvlm.models.shapes import expected_shapes

    for family in ("llama", "qwen2", "lfm2", "qwen3_5_text"):
        shapes = expected_shapes(tiny_config(family))
        assigned = load_recipe(name).assign(shapes)
        quantized = {weight for weight, rule in assigned.items() if rule.quantizer != "keep"}
        assert all(len(shapes[weight]) == 2 for weight in quantized)
        assert "model.layers.0.conv.kernel.weight" not in quantized
        bits = {weight: assigned[weight].options.get("bits", 32) for weight in shapes}
        wanted = {"fp32": 32, "int8": 8}.get(name, 4)
        assert bits["model.layers.0.mlp.up_proj.weight"] == wanted
        state = "model.layers.0.linear_attn"
        assert not {f"{state}.{one}" for one in ("kernel.weight", "decay.weight", "decay.bias")} & quantized
        # whose errors multiply one another
        for gates in ("model.layers.0.conv.in_proj.weight", f"{state}.in_proj_a.weight", f"{state}.in_proj_b.weight"):
            assert gates not in bits or bits[gates] == (32 if name == "fp32" else 8)
        assert bits["vision_tower.encoder.layers.1.mlp.fc1.weight"] == (32 if name == "fp32" else 8)


def test_the_first_rule_that_matches_wins() -> None:
    recipe = Recipe("r", (Rule(("a.*",), "keep"), Rule(("*",), "round-to-nearest")))
    assert recipe.assign(["a.b", "b"])["a.b"].quantizer == "keep"
    assert recipe.assign(["a.b", "b"])["b"].quantizer == "round-to-nearest"


def test_options_of_a_back_end_are_a_table_that_is_written_and_read(tmp_path: Path) -> None:
    recipe = parse_recipe({"tensors": [KEEP], "backend": {"neuropilot": {"chunks": 2, "compiled": False}}}, "npu")
    (tmp_path / "npu.toml").write_text(recipe_text(recipe))
    assert load_recipe(tmp_path / "npu.toml") == recipe
    assert options_of(recipe) == NpuOptions(chunks=2, compiled=False)
    assert options_of(Recipe("r", recipe.rules)) == NpuOptions()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"chunk": 2}, "recipe r: backend.neuropilot: chunk: unknown key"),
        ({"chunks": "two"}, "backend.neuropilot: chunks is 'two', expected a valid integer"),
        ({"chunks": 2.0}, "chunks is 2.0, expected a valid integer"),
        ({"platform": "mt1"}, "platform is 'mt1', expected 'mt6989'"),
        ({"prefill_tokens": 1}, "a prefill step of 1 tokens is not possible"),
    ],
)
def test_a_wrong_option_of_a_back_end_is_named(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ExportError) as caught:
        options_of(Recipe("r", (Rule(("*",), "keep"),), backends={"neuropilot": table}))
    assert words in str(caught.value)


def test_an_unmatched_weight_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"b\.weight"):
        Recipe("r", (Rule(("a.*",), "keep"),)).assign(["a.weight", "b.weight"])


def test_a_pattern_in_two_rules_is_an_error() -> None:
    with pytest.raises(RecipeError, match="claimed by two rules"):
        parse_recipe({"tensors": [KEEP, {**KEEP, "quantizer": "round-to-nearest"}]})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not toml [", "recipe.toml"),
        ("colour = 1\n[[tensors]]\nmatch = '*'\nquantizer = 'keep'", "colour: unknown key"),
        ("name = 'x'", "tensors: Field required"),
        ("[[tensors]]\nquantizer = 'keep'", "match"),
        ("[[tensors]]\nmatch = [1]\nquantizer = 'keep'", "match"),
        ("[[tensors]]\nmatch = '*'", "quantizer"),
        ("[kv_cache]\ndtype = 'int3'\n[[tensors]]\nmatch = '*'\nquantizer = 'keep'", "int3"),
        ("[kv_cache]\nsize = 3\n[[tensors]]\nmatch = '*'\nquantizer = 'keep'", "size"),
        ("[kv_cache]\nheadroom = 0.5\n[[tensors]]\nmatch = '*'\nquantizer = 'keep'", "headroom"),
        ("[bounds]\nkl_mean = 'low'\n[[tensors]]\nmatch = '*'\nquantizer = 'keep'", "kl_mean"),
        ("bounds = 3\n[[tensors]]\nmatch = '*'\nquantizer = 'keep'", "bounds"),
    ],
)
def test_a_wrong_recipe_is_refused_by_its_key(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(RecipeError, match=words):
        load_recipe(tmp_path / "recipe.toml")


def test_an_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(RecipeError, match="int4-g128"):
        load_recipe("int5")


@pytest.mark.parametrize(
    "text", ["a" + ".a" * 500_000 + " = 1", "[" + "a . " * 500_000 + "a]", '"a"' + ".'b'" * 99 + "=1"]
)
def test_a_key_of_parts_without_end_is_not_parsed(text: str) -> None:
    """tomllib's time grows with their square: 64 KB took 18 seconds."""
    with pytest.raises(PocketVlmError, match="x: a key of more than 64 parts"):
        parse_toml(text.encode(), "x")


def test_points_that_join_no_key_are_taken() -> None:
    text = (
        "a.b.c = 1\nlist = ["
        + "0.5, " * 500
        + "]\n# "
        + "." * 500
        + '\ntext = "'
        + "..." * 100
        + '"\n'
        + "".join(f'"model.layers.{n}.self_attn.q_proj.weight" = 4\n' for n in range(500))
    )
    assert parse_toml(text.encode(), "x")["a"]["b"]["c"] == 1
