"""What every family keeps: one contract, over the registry, beside transformers."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketvlm.bundle.open import Bundle
from pocketvlm.errors import CheckpointError
from pocketvlm.export import export_bundle
from pocketvlm.export.neuropilot.options import NpuOptions, with_options
from pocketvlm.models.bluelm_v import BluelmV
from pocketvlm.models.checkpoint import open_checkpoint, shapes_only
from pocketvlm.models.families import DECODERS, FAMILIES
from pocketvlm.models.families.family import Family
from pocketvlm.models.shapes import expected_shapes
from pocketvlm.recipe import load_recipe
from pocketvlm.runtime import load
from tests.runner.native import answer, plan, run
from tests.support.checkpoints import tiny_config
from tests.support.transformers_models import greedy, write_decoder

#: transformers has no MiniCPM: test_parity holds it to a Llama with its scales folded in.
WRITTEN = sorted(DECODERS.keys() - {"minicpm"})
TOKENS = [5, 9, 12, 1, 44, 7, 3, 300, 21, 250, 17, 101]
ENGINES = ("onnx", "executorch")


@dataclass(frozen=True)
class Exported:
    """A checkpoint of transformers', the model it holds, and its bundle for both engines."""

    checkpoint: Path
    model: torch.nn.Module
    bundle: Bundle


@pytest.fixture(scope="module", params=WRITTEN)
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    directory = tmp_path_factory.mktemp(request.param)
    model = write_decoder(directory / "checkpoint", request.param)
    bundle = export_bundle(
        directory / "checkpoint", directory / "bundle", recipe="fp32", backends=ENGINES, max_length=128
    )
    return Exported(directory / "checkpoint", model, bundle)


def breaks(name: str, family: Family) -> list[str]:
    """What is wrong with an entry of the registry."""
    wrong = [] if family.name == name else [f"is called {family.name!r}"]
    if family.rename("model.layers.0.self_attn.rotary_emb.inv_freq") is not None:
        wrong.append("keeps RoPE's frequencies")
    if family.rename("model.norm.weight") != "model.norm.weight":
        wrong.append("has no name for the last norm")
    return wrong


@pytest.mark.parametrize("name", FAMILIES)
def test_the_registry_is_sound(name: str) -> None:
    assert not breaks(name, FAMILIES[name])


def test_an_unsound_entry_is_seen() -> None:
    assert breaks("a", Family("b", rename=lambda key: None)) == ["is called 'b'", "has no name for the last norm"]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("vision", [True, False])
def test_the_weights_that_are_read_are_those_of_the_modules(name: str, vision: bool) -> None:
    config = tiny_config(name, vision=vision)
    modules = shapes_only(lambda: BluelmV(config))
    assert expected_shapes(config) == {key: tuple(weight.shape) for key, weight in modules.named_parameters()}


def test_logits_of_both_engines_are_transformers(one: Exported) -> None:
    with torch.no_grad():
        wanted = one.model(input_ids=torch.tensor([TOKENS])).logits[0].numpy()
    for engine in ENGINES:
        with load(one.bundle.location, threads=1, engine=engine) as vlm:
            found = vlm.logits(TOKENS)
        assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 1e-4, engine


def test_twenty_greedy_tokens_of_both_engines_and_the_native_runner_are_transformers(
    one: Exported, tmp_path: Path
) -> None:
    wanted = greedy(one.model, TOKENS, 20)
    for engine in ENGINES:
        with load(one.bundle.location, threads=1, engine=engine) as vlm:
            ids = list(TOKENS)
            for _ in wanted:
                ids.append(int(vlm.logits(ids)[-1].argmax()))
        assert ids[len(TOKENS) :] == wanted, engine
    path = plan(tmp_path, answer=answer(token_ids=TOKENS, expected=wanted, max_new_tokens=20))
    done = run(one.bundle.location, path)
    assert (done.status, done.one("answer")["token_ids"]) == (0, wanted)


def test_the_npus_program_is_the_model(one: Exported, tmp_path: Path) -> None:
    """By the export's own checks: its graphs beside PyTorch, and that beside the original."""
    recipe = load_recipe("int4-channel")
    recipe = replace(recipe, bounds=replace(recipe.bounds, kl_mean=2.0))
    options = NpuOptions(chunks=2, prefill_tokens=32, compiled=False)
    fidelity = export_bundle(
        one.checkpoint, tmp_path / "npu", recipe=with_options(recipe, options), backends=["neuropilot"], max_length=128
    ).manifest.fidelity
    assert fidelity.lowering_relative_error < 5e-3


def test_a_config_may_leave_out_what_is_its_model_types_default(tmp_path: Path) -> None:
    """Qwen3's head size is 128 whatever its width and heads say."""
    write_decoder(tmp_path, "qwen3", num_hidden_layers=1)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw.pop("head_dim") == 128
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert open_checkpoint(tmp_path).config.text.head_dim == 128


def test_a_head_that_the_config_calls_tied_is_exported_where_it_differs(tmp_path: Path) -> None:
    """transformers uses it, whatever tie_word_embeddings says."""
    from transformers import AutoModelForCausalLM

    write_decoder(tmp_path / "checkpoint", "llama", tie_word_embeddings=False)
    config = tmp_path / "checkpoint/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tie_word_embeddings": True}))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32)
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([TOKENS])).logits[0].numpy()
    bundle = export_bundle(
        tmp_path / "checkpoint", tmp_path / "bundle", recipe="fp32", backends=ENGINES, max_length=128
    )
    for engine in ENGINES:
        with load(bundle.location, threads=1, engine=engine) as vlm:
            found = vlm.logits(TOKENS)
        assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 1e-4, engine


def test_a_decoder_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    write_decoder(tmp_path, "llama", num_hidden_layers=1)
    raw = json.loads((tmp_path / "config.json").read_text())
    text = {"model_type": "bluelm_v", "text_config": {**raw, "model_type": "mamba"}}
    (tmp_path / "config.json").write_text(json.dumps(text))
    with pytest.raises(CheckpointError, match=r"text_config.model_type.*expected one of llama, qwen2"):
        open_checkpoint(tmp_path)
