"""Recipes that quantize a head by itself where it is the embedding table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pocketvlm.bundle.open import open_bundle
from pocketvlm.export import export_bundle
from pocketvlm.export.tune.recipe import recipe_text
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.own_head import untied
from pocketvlm.plan.model import model_of_config, model_of_manifest
from pocketvlm.recipe import RECIPES, load_recipe
from pocketvlm.runtime import GenerationConfig, load
from tests.support.checkpoints import tiny_config, write_checkpoint


def own_head(place: Path, *, own: bool = True) -> Path:
    """An INT8 table, and a head of 4 bits."""
    recipe = place / "own-head.toml"
    text = (RECIPES / "int4-g32.toml").read_text(encoding="utf-8")
    recipe.write_text(
        text.replace("\n[[tensors]]", f"own_head = {str(own).lower()}\n\n[[tensors]]", 1), encoding="utf-8"
    )
    return recipe


def tied(place: Path) -> VlmConfig:
    config = tiny_config("qwen2", vision=False, tie_word_embeddings=True)
    write_checkpoint(place, config)
    return config


def apart(source: Path, place: Path) -> None:
    """The same checkpoint as somebody saves it whose head is apart."""
    from safetensors.torch import load_file, save_file

    place.mkdir()
    for path in source.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    file = next(place.glob("*.safetensors"))
    tensors = load_file(file)
    table = next(tensors[name] for name in tensors if name.endswith("embed_tokens.weight"))
    save_file({**tensors, "lm_head.weight": table.clone()}, file)
    config = json.loads((place / "config.json").read_text())
    text = config.get("text_config", config)
    text["tie_word_embeddings"] = config["tie_word_embeddings"] = False
    (place / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("backends", [("onnx",), ("onnx", "executorch")])
def test_a_bundle_is_that_of_a_head_apart(tmp_path: Path, backends: tuple[str, ...]) -> None:
    tied(tmp_path / "tied")
    apart(tmp_path / "tied", tmp_path / "apart")
    ours, theirs = (
        export_bundle(
            tmp_path / name, tmp_path / f"{name}-bundle", recipe=own_head(tmp_path, own=own), backends=backends
        )
        for name, own in (("tied", True), ("apart", False))
    )
    assert {name for name in ours.manifest.files if name.endswith((".data", ".pte"))}
    for name, file in ours.manifest.files.items():
        if name.endswith((".data", ".pte")):
            assert file.sha256 == theirs.manifest.files[name].sha256, name
    bits = {name: tensor.bits for name, tensor in ours.manifest.recipe.tensors.items()}
    assert (bits["model.embed_tokens.weight"], bits["lm_head.weight"]) == (8, 4)
    config = GenerationConfig(max_new_tokens=8)
    for engine in backends:
        with load(ours.location, engine=engine) as one, load(theirs.location, engine=engine) as other:
            said, wanted = ([piece.token_id for piece in vlm.stream("one two", config=config)] for vlm in (one, other))
        assert said == wanted


def test_without_it_table_and_head_are_the_same_bytes(tmp_path: Path) -> None:
    tied(tmp_path / "tied")
    bundle = export_bundle(tmp_path / "tied", tmp_path / "bundle", recipe=own_head(tmp_path, own=False))
    assert "lm_head.weight" not in bundle.manifest.recipe.tensors


def test_a_head_that_is_apart_already_is_left_alone(tmp_path: Path) -> None:
    config = tiny_config("qwen2", vision=False, tie_word_embeddings=False)
    write_checkpoint(tmp_path / "apart", config)
    digests = [
        open_bundle(export_bundle(tmp_path / "apart", tmp_path / f"{own}", recipe=own_head(tmp_path, own=own)).location)
        .manifest.files["text.data"]
        .sha256
        for own in (True, False)
    ]
    assert digests[0] == digests[1]


def test_a_plan_has_the_bytes_of_the_bundle(tmp_path: Path) -> None:
    config, recipe = tied(tmp_path / "tied"), own_head(tmp_path)
    bundle = export_bundle(tmp_path / "tied", tmp_path / "bundle", recipe=recipe)
    planned = model_of_config("tied", config, load_recipe(recipe), bundle.manifest.kv_cache.length)
    assert planned.parts == model_of_manifest(bundle.manifest).parts
    assert untied(config) == replace(config, text=replace(config.text, tie_word_embeddings=False))


def test_a_recipe_that_is_written_says_so(tmp_path: Path) -> None:
    recipe = load_recipe(own_head(tmp_path))
    (tmp_path / "again.toml").write_text(recipe_text(recipe), encoding="utf-8")
    assert recipe.own_head
    assert load_recipe(tmp_path / "again.toml") == recipe
    assert "own_head" not in recipe_text(load_recipe("int4-g32"))
