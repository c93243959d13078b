"""LoRA adapters merged while a checkpoint is read: PEFT's formulas, names and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from pocketvlm.bundle.open import open_bundle
from pocketvlm.cli import main
from pocketvlm.errors import CheckpointError
from pocketvlm.export import export_bundle
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.directory import LowRank
from pocketvlm.models.families.family import Pieces
from tests.support.adapters import factors, merged, write_adapter
from tests.support.checkpoints import tiny_config, write_checkpoint
from tests.support.packed import pack_checkpoint

QUERY, GATE, DOWN = (f"model.layers.{place}_proj" for place in ("0.self_attn.q", "0.mlp.gate", "1.mlp.down"))
SHAPES = {QUERY: (128, 96), GATE: (160, 96), DOWN: (96, 160)}
TABLE = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    write_checkpoint(directory, tiny_config("qwen2", vision=False))
    return directory


def tensors() -> dict[str, torch.Tensor]:
    return {
        key: value
        for at, (module, shape) in enumerate(SHAPES.items())
        for key, value in factors(module, shape, seed=at).items()
    }


SETTINGS: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    "alpha by rank": ({}, {}),
    "alpha by the root of the rank": ({"use_rslora": True}, {}),
    "an alpha for some": ({"alpha_pattern": {"mlp.gate_proj": 32}}, {GATE: 32}),
    "patterns as PEFT matches them": (
        {"alpha_pattern": {r"^model\.layers\.0.self_attn.q_proj": 5, "down_proj|up_proj": 6, "gate": 7}},
        {QUERY: 5, DOWN: 6},
    ),
    "fan_in_fan_out, which a Linear has not": ({"fan_in_fan_out": True}, {}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_weight_is_what_peft_makes_of_it(base: Path, tmp_path: Path, name: str) -> None:
    config, alphas = SETTINGS[name]
    written = tensors()
    write_adapter(tmp_path, written, **config)
    plain, found = open_checkpoint(base), open_checkpoint(base, lora=tmp_path)
    for weight in plain.tensors:
        expected, module = plain.tensor(weight), weight.removesuffix(".weight")
        if module in SHAPES:
            expected = merged(expected, written, module, alphas.get(module, 8), rslora="use_rslora" in config)
            assert not torch.allclose(plain.tensor(weight).double(), expected, atol=1e-3)
        assert torch.allclose(found.tensor(weight).double(), expected.double(), atol=1e-6)
        assert torch.allclose(found.tensor(weight, slice(2, 7)).double(), expected[2:7].double(), atol=1e-6)
    assert found.adapter is not None
    assert found.revision != plain.revision


def test_a_rank_for_some(base: Path, tmp_path: Path) -> None:
    written = {**factors(QUERY, SHAPES[QUERY], 4), **factors(DOWN, SHAPES[DOWN], 2)}
    write_adapter(tmp_path, written, rank_pattern={"down_proj": 2})
    plain, found = open_checkpoint(base), open_checkpoint(base, lora=tmp_path)
    expected = merged(plain.tensor(f"{DOWN}.weight"), written, DOWN, 8)
    assert torch.allclose(found.tensor(f"{DOWN}.weight").double(), expected, atol=1e-6)
    write_adapter(tmp_path, written)
    with pytest.raises(CheckpointError, match=r"down_proj: its factors have shapes .* those of a matrix have rank 4"):
        open_checkpoint(base, lora=tmp_path)


def test_whole_weights_take_the_place_of_the_bases(base: Path, tmp_path: Path) -> None:
    """As modules_to_save and biases are written, by older versions as well."""
    head, norm, bias = torch.randn(320, 96), torch.rand(96), torch.randn(128)
    write_adapter(
        tmp_path,
        {
            "lm_head.modules_to_save.weight": head,
            "model.norm.weight": norm,
            f"{QUERY}.base_layer.bias": bias,
            **factors(QUERY, SHAPES[QUERY]),
        },
    )
    found = open_checkpoint(base, lora=tmp_path)
    for name, expected in (("lm_head.weight", head), ("model.norm.weight", norm), (f"{QUERY}.bias", bias)):
        assert torch.equal(found.tensor(name), expected)


def test_an_embedding_has_its_factors_transposed(base: Path, tmp_path: Path) -> None:
    down, up = torch.randn(4, 320) * 0.1, torch.randn(96, 4) * 0.1
    both = {"model.embed_tokens.lora_embedding_A": down, "model.embed_tokens.lora_embedding_B": up}
    write_adapter(tmp_path / "lora", both)
    plain, found = open_checkpoint(base), open_checkpoint(base, lora=tmp_path / "lora")
    expected = plain.tensor(TABLE) + 2 * (up @ down).T
    some = torch.tensor([7, 300, 7])
    assert torch.allclose(found.tensor(TABLE, some), expected[some], atol=1e-6)
    tied = tmp_path / "tied"
    write_checkpoint(tied, tiny_config("qwen2", vision=False, tie_word_embeddings=True))
    with pytest.raises(CheckpointError, match=r"tie_word_embeddings.: merge it by PEFT"):
        open_checkpoint(tied, lora=tmp_path / "lora")


def test_a_fused_matrix_gives_each_weight_its_rows_of_both(base: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    written = factors(QUERY, SHAPES[QUERY])
    write_adapter(tmp_path, written)
    found, name = open_checkpoint(base, lora=tmp_path), f"{QUERY}.weight"
    whole, pieces = found.tensor(name), Pieces(blocks=2, size=64, start=16, stop=48)
    update = found.tensors[name].update
    assert isinstance(update, LowRank)
    info = replace(found.tensors[name], pieces=pieces, shape=(64, 96), update=replace(update, pieces=pieces))
    part = replace(found, tensors={name: info}).tensor(name)
    assert torch.equal(part, whole.unflatten(0, (2, 64))[:, 16:48].flatten(0, 1))


def test_a_matrix_in_four_bits_is_one_in_floats_again(tmp_path: Path) -> None:
    """QLoRA: its sum with an adapter has no codes of its own; the recipe stores it."""
    write_checkpoint(tmp_path / "base", tiny_config("qwen2", vision=False))
    packed = pack_checkpoint(tmp_path / "base", "gptq", 32, symmetric=True)
    written = factors(QUERY, SHAPES[QUERY])
    write_adapter(tmp_path / "lora", written)
    found = open_checkpoint(tmp_path / "base", lora=tmp_path / "lora")
    assert f"{QUERY}.weight" not in found.packed
    assert f"{GATE}.weight" in found.packed
    expected = merged(packed[f"{QUERY}.weight"].weights(), written, QUERY, 8)
    assert torch.allclose(found.tensor(f"{QUERY}.weight").double(), expected, atol=1e-6)


def test_the_bundle_is_that_of_the_merged_model_and_says_what_was_merged(base: Path, tmp_path: Path) -> None:
    """By --lora, and by the adapter's own directory, which names its base."""
    written = tensors()
    write_adapter(tmp_path / "poet", written, base_model_name_or_path=str(base))
    wanted = [str(base), "--lora", str(tmp_path / "poet"), "-o", str(tmp_path / "bundle"), "--recipe", "fp32"]
    done = CliRunner().invoke(main, ["export", *wanted])
    assert done.exit_code == 0, done.output
    manifest = open_bundle(tmp_path / "bundle").manifest
    record = manifest.model.adapter
    assert record is not None
    assert (record.name, record.sha256, manifest.format_version) == (
        "poet",
        open_checkpoint(tmp_path / "poet").adapter.sha256,  # type: ignore[union-attr]
        3,
    )
    assert "poet (SHA-256" in CliRunner().invoke(main, ["inspect", str(tmp_path / "bundle")]).output
    again = export_bundle(tmp_path / "poet", tmp_path / "again", recipe="fp32")
    assert again.manifest == manifest
    judged = ["eval", str(tmp_path / "bundle"), "generated:test", "--questions", "1", "--against", str(base)]
    data = tmp_path / "text.txt"
    data.write_text("A text of some words, long enough. " * 20)
    judged[2] = str(data)
    refused = CliRunner().invoke(main, judged)
    assert "is not the checkpoint" in refused.output
    done = CliRunner().invoke(main, [*judged, "--lora", str(tmp_path / "poet")])
    assert done.exit_code == 0, done.output


Change = Callable[[dict[str, torch.Tensor]], Any]
REFUSED: dict[str, tuple[dict[str, Any], Change, str]] = {
    "another kind": ({"peft_type": "IA3"}, dict, "peft_type is 'IA3'; only LORA is read"),
    "DoRA": ({"use_dora": True}, dict, r"use_dora is not read: merge the adapter by PEFT"),
    "DoRA by its tensors": (
        {},
        lambda w: w.update({f"{QUERY}.lora_magnitude_vector": torch.ones(128)}),
        "lora_magnitude_vector is nothing that plain LoRA has",
    ),
    "PiSSA": ({"init_lora_weights": "pissa"}, dict, "init_lora_weights is 'pissa', which changes the base"),
    "layers that repeat": ({"layer_replication": [[0, 1]]}, dict, "layer_replication is not read"),
    "half a pair": ({}, lambda w: w.pop(f"{QUERY}.lora_A.weight"), "q_proj has lora_B alone"),
    "a module of none": (
        {},
        lambda w: w.update(factors("model.layers.0.mlp.router", (4, 96))),
        "router.weight belongs to",
    ),
    "a layer too many": (
        {},
        lambda w: w.update(factors("model.layers.9.mlp.up_proj", (160, 96))),
        "layers.9.* belongs to",
    ),
    "another shape": (
        {},
        lambda w: w.update(factors(QUERY, (128, 64))),
        r"changes a matrix of shape \[128, 64\]; the model's has \[128, 96\]",
    ),
    "whole weights of none": (
        {},
        lambda w: w.update({"score.weight": torch.ones(2, 96)}),
        "score.weight belongs to no",
    ),
    "whole weights of another shape": (
        {},
        lambda w: w.update({"lm_head.weight": torch.ones(321, 96)}),
        r"lm_head.weight has shape \[321, 96\], config.json asks for",
    ),
    "a convolution": ({}, lambda w: w.update({f"{QUERY}.lora_A.weight": torch.ones(4, 96, 1, 1)}), "those of a matrix"),
    "whole numbers": ({}, lambda w: w.update({f"{QUERY}.lora_A.weight": torch.ones(4, 96).int()}), "not of floats"),
    "nothing": ({}, lambda w: w.clear(), "has no weights"),
    "a pattern for ever": ({"alpha_pattern": {"(a+)+b": 2}}, dict, r"the pattern '\(a\+\)\+b' is not read"),
    "a pattern that is none": ({"alpha_pattern": {"*a": 2}}, dict, "is no pattern"),
    "no number": ({"r": "8"}, dict, r"adapter_config.json: r is '8'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_plain_lora_is_refused_in_one_line(base: Path, tmp_path: Path, name: str) -> None:
    config, change, words = REFUSED[name]
    written = tensors()
    change(written)
    write_adapter(tmp_path, written, **config)
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint(base, lora=tmp_path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_an_adapter_without_its_base_says_what_it_lacks(base: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "lora", tensors())
    with pytest.raises(CheckpointError, match="names no base_model_name_or_path: give the model, and --lora"):
        open_checkpoint(tmp_path / "lora")
    write_adapter(tmp_path / "lora", tensors(), base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(CheckpointError, match=r"gone is not a checkpoint: no such directory"):
        open_checkpoint(tmp_path / "lora")
    (tmp_path / "lora" / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no adapter_model.safetensors"):
        open_checkpoint(base, lora=tmp_path / "lora")
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: adapter_config.json is missing"):
        open_checkpoint(base, lora=base)
    raw = json.loads((base / "config.json").read_text())
    assert raw["model_type"] == "qwen2"
    assert len(load_file(base / "model.safetensors")) == len(open_checkpoint(base).tensors)
