"""Layers with a short convolution: their rows, wherever a conversation is set back to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketvlm.bundle.kv import bundle_kv_bytes
from pocketvlm.bundle.open import Bundle
from pocketvlm.errors import CheckpointError, RecipeError
from pocketvlm.export import export_bundle
from pocketvlm.models.config import VlmConfig
from pocketvlm.plan.model import model_of_config, model_of_manifest
from pocketvlm.recipe import Rule, load_recipe
from pocketvlm.runtime import load
from pocketvlm.runtime.engines import open_engine
from pocketvlm.runtime.engines.executorch import ExecutorchCache
from studies.reader.parity import ids_of as joined
from tests.models.test_families import TOKENS, relative
from tests.runner.test_conversation import talk
from tests.support.transformers_models import write_decoder

ENGINES = ("onnx", "executorch")
LENGTH = 128


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    directory = tmp_path_factory.mktemp("lfm2")
    return directory, write_decoder(directory, "lfm2")


@pytest.fixture(scope="module")
def bundle(written: tuple[Path, torch.nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    target = tmp_path_factory.mktemp("bundles") / "fp32"
    return export_bundle(written[0], target, recipe="fp32", backends=ENGINES, max_length=LENGTH)


@pytest.mark.parametrize("name", ENGINES)
def test_a_conversation_goes_on_from_any_token(
    name: str, written: tuple[Path, torch.nn.Module], bundle: Bundle
) -> None:
    """Also in front of the kernel's end, and with other tokens than those that were there."""
    engine = open_engine(name, bundle, threads=1)
    cache, rng = engine.new_cache(), np.random.default_rng(1)
    ids = np.array(TOKENS[:LENGTH], np.int64)
    engine.step(engine.embed(ids), cache, keep=1)
    for kept in (LENGTH - 1, 60, 4, 3, 2, 1, 0):
        cache.position = kept
        ids[kept:] = rng.integers(0, 320, LENGTH - kept)
        parts = [ids[kept : kept + 1], ids[kept + 1 : kept + 20]]
        found = [engine.step(engine.embed(part), cache, keep=0) for part in parts if len(part)]
        with torch.no_grad():
            wanted = written[1](input_ids=torch.from_numpy(ids[None, : cache.position])).logits[0, kept:].numpy()
        assert relative(np.concatenate(found), wanted) < 1e-4, kept


def test_the_memory_that_a_stock_runner_gives_need_not_be_zero(bundle: Bundle) -> None:
    """A program's rows in front of the first token are zeros whatever they were."""
    engine, ids = open_engine("executorch", bundle, threads=1), np.array(TOKENS[:9], np.int64)
    found = []
    for fill in (0, 0xFF):  # float32 of such bytes is NaN
        cache = engine.new_cache()
        assert isinstance(cache, ExecutorchCache)
        for array in cache._arrays.values():
            array.fill(fill)
        found.append(engine.step(engine.embed(ids), cache, keep=0))
    assert np.isfinite(found[1]).all()
    np.testing.assert_array_equal(found[1], found[0])


@pytest.fixture(scope="module")
def of_int8(written: tuple[Path, torch.nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(written[0], tmp_path_factory.mktemp("bundles") / "int8", recipe="gptq-g32", max_length=LENGTH)


@pytest.mark.parametrize("kept", [70, 42, 3, 0])
def test_the_native_runner_goes_on_from_any_token_too(bundle: Bundle, of_int8: Bundle, kept: int) -> None:
    """Turn after turn in the kept cache, and after going back into an answer or in front of the kernel's end."""
    first, second, third = TOKENS[:30], TOKENS[30:50], TOKENS[50:61]
    for one in (bundle, of_int8):
        asked = [f"tokens {joined(first)}", "ask 12", f"tokens {joined(second)}", "ask 12", f"rewind {kept}",
                 f"tokens {joined(third)}", "ask 12", "history"]  # fmt: skip
        said = talk(one.location, asked)
        answers = [[int(word) for word in line.split()[1:-2]] for line in said if line.startswith("answer")]
        with load(one.location, threads=1, engine="onnx") as vlm:
            history = list[int]()
            for index, (given, answer) in enumerate(zip((first, second, third), answers, strict=True)):
                history = [*(history[:kept] if index == 2 else history), *given]
                for token in answer:
                    assert token == int(vlm.logits(history)[-1].argmax()), (index, len(history))
                    history.append(token)
        assert said[-1] == f"history {joined(history)}"


def test_a_cache_of_int8_has_rows_in_float32(of_int8: Bundle) -> None:
    manifest = of_int8.manifest
    kinds = {one.name: one.dtype for one in manifest.engines["onnx"]["text_decoder"].inputs if "past" in one.name}
    wanted = {"past_conv.0": "float32", "past_key_values.1.key": "int8", "past_key_values.1.value": "int8"}
    assert kinds == {**wanted, "past_conv.2": "float32"}
    rows = 4 * 128 * (3 + LENGTH)  # of a kernel of 4
    assert bundle_kv_bytes(manifest) == 2 * rows + 2 * 2 * 32 * LENGTH
    stored = {name.rpartition(".layers.")[2]: one.bits for name, one in manifest.recipe.tensors.items()}
    assert (stored["0.conv.kernel.weight"], stored["0.conv.in_proj.weight"], stored["0.conv.out_proj.weight"]) == (
        32, 8, 4,
    )  # fmt: skip


def test_a_plan_counts_rows_beside_keys_and_values(written: tuple[Path, torch.nn.Module], bundle: Bundle) -> None:
    from pocketvlm.models.checkpoint import open_checkpoint

    config, recipe = open_checkpoint(written[0]).config, load_recipe("fp32")
    planned = model_of_config("m", config, recipe, LENGTH), model_of_manifest(bundle.manifest)
    assert [one.attended_bytes for one in planned] == [4 * 2 * 2 * 32] * 2  # whatever the convolutions keep
    assert [(one.kv_row_bytes, one.heads, one.attending // one.head_size) for one in planned] == [
        (4 * (2 * 128 + 2 * 2 * 32), 4, 1)
    ] * 2


def test_a_kernel_is_never_quantized(written: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    recipe = load_recipe("int4-g32")
    careless = [rule for rule in recipe.rules if "*norm*" not in rule.match]
    keeps = Rule(("vision_tower.embeddings.*", "*norm*", "*.bias"), "keep")
    with pytest.raises(RecipeError, match=r"conv.kernel.weight"):
        export_bundle(written[0], tmp_path / "b", recipe=replace(recipe, rules=(keeps, *careless)), max_length=LENGTH)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"full_attn_idxs": "all"}, "full_attn_idxs is 'all', expected layers"),
        ({"block_multiple_of": 0}, "block_multiple_of is 0"),
        ({"block_ffn_dim_multiplier": "2"}, "block_ffn_dim_multiplier is '2'"),
        ({"layer_types": ["conv", "mamba"]}, "layer_types"),
        ({"layer_types": ["conv"]}, "not each layer's type"),
        ({"conv_L_cache": 0}, "no kernel's size"),
    ],
)
def test_another_shape_is_refused_by_its_key(changes: dict[str, object], line: str) -> None:
    raw = {"model_type": "lfm2", "num_hidden_layers": 2, "full_attn_idxs": [1], **changes}
    with pytest.raises(CheckpointError, match=line):
        VlmConfig.from_dict(raw)
