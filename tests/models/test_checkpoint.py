"""Reading checkpoints: shards, types, and everything that can be wrong with one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pocketvlm.errors import CheckpointError
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.config import VlmConfig
from tests.support.checkpoints import FAMILIES, tiny_config, write_checkpoint


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shards", [1, 3])
def test_every_weight_is_read_as_it_was_written(tmp_path: Path, family: str, dtype: torch.dtype, shards: int) -> None:
    model = write_checkpoint(tmp_path, tiny_config(family), dtype=dtype, shards=shards)
    checkpoint = open_checkpoint(tmp_path)
    parameters = dict(model.named_parameters())
    assert checkpoint.tensors.keys() == parameters.keys()
    assert checkpoint.parameters == sum(value.numel() for value in parameters.values())
    for name, value in parameters.items():
        stored = checkpoint.tensor(name)
        assert stored.dtype == dtype
        assert torch.equal(stored.float(), value)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("vision", [True, False])
def test_config_survives_its_json(family: str, vision: bool) -> None:
    config = tiny_config(family, vision=vision)
    raw = json.loads(json.dumps(config.to_dict() if vision else config.to_dict()["text_config"]))
    assert VlmConfig.from_dict(raw) == config


def test_a_directory_called_checkpoint_takes_the_name_above(tmp_path: Path) -> None:
    for directory, name in (("reader/checkpoint", "reader"), ("qwen", "qwen")):
        write_checkpoint(tmp_path / directory, tiny_config())
        assert open_checkpoint(tmp_path / directory).name == name


def test_revision_tells_checkpoints_apart(tmp_path: Path) -> None:
    """By their configuration, and by weights of the same shapes in files of the same size."""
    for name, family in (("a", "llama"), ("b", "llama"), ("c", "qwen2"), ("d", "llama")):
        write_checkpoint(tmp_path / name, tiny_config(family))
    edit_weights(lambda weights: [weight.mul_(1.5) for weight in weights.values()])(tmp_path / "d")
    first, second, third, trained = (open_checkpoint(tmp_path / name).revision for name in "abcd")
    assert first == second
    assert len({first, third, trained}) == 3


def edit_config(**changes: object) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        raw = json.loads((directory / "config.json").read_text())
        for path, value in changes.items():
            *parents, key = path.split("__")
            place = raw
            for parent in parents:
                place = place[parent]
            place[key] = value
        (directory / "config.json").write_text(json.dumps(raw))

    return damage


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        weights = load_file(directory / "model.safetensors")
        change(weights)
        (directory / "model.safetensors").unlink()
        save_file(weights, directory / "model.safetensors")

    return damage


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        (directory / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


NORM = "model.norm.weight"
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), "config.json is missing"),
    "config is not JSON": (write("config.json", "{"), "not JSON"),
    "config is deeply nested": (write("config.json", "[" * 100_000), "not JSON"),
    "config is a list": (write("config.json", "[]"), "JSON object"),
    "unknown family": (edit_config(model_type="gpt9"), "known families"),
    "a size is text": (edit_config(text_config__hidden_size="96"), "hidden_size"),
    "a size is negative": (edit_config(text_config__hidden_size=-96), "hidden_size"),
    "a number is not finite": (edit_config(text_config__rms_norm_eps=float("inf")), "rms_norm_eps"),
    "heads do not divide": (edit_config(text_config__num_key_value_heads=3), "num_key_value_heads"),
    "unknown activation": (edit_config(text_config__hidden_act="relu"), "hidden_act"),
    "unknown RoPE": (edit_config(text_config__rope_scaling={"rope_type": "longrope"}), "rope_type"),
    "candidates are no pairs": (edit_config(tiling__candidates=[[1], [2]]), "tiling"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "safetensors"),
    "weights are cut": (
        lambda d: write("model.safetensors", (d / "model.safetensors").read_bytes()[:5000])(d),
        "damaged",
    ),
    "weights are text": (write("model.safetensors", "hello" * 100), "damaged"),
    "a weight is missing": (edit_weights(lambda w: w.pop(NORM)), NORM),
    "a weight has another shape": (edit_weights(lambda w: w.update({NORM: torch.ones(95)})), "shape"),
    "a weight too many": (edit_weights(lambda w: w.update({"extra.weight": torch.ones(3)})), "extra.weight"),
    "an index that leaves the directory": (
        write("model.safetensors.index.json", json.dumps({"weight_map": {NORM: "../model.safetensors"}})),
        "outside",
    ),
    "an index with a missing shard": (
        write("model.safetensors.index.json", json.dumps({"weight_map": {NORM: "no.safetensors"}})),
        "no.safetensors is missing",
    ),
    "an index with a name that no file can have": (
        write("model.safetensors.index.json", json.dumps({"weight_map": {NORM: "x\n" * 5000}})),
        "is missing",
    ),
    "an index with a name of none": (
        write("model.safetensors.index.json", json.dumps({"weight_map": {NORM: "\0"}})),
        "is missing",
    ),
    "a family of many lines": (edit_config(model_type="gpt\n" * 5000), "known families"),
    "a part is no dictionary": (edit_config(text_config=7), "text_config is 7"),
    "an index without a map": (write("model.safetensors.index.json", "{}"), "weight_map"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    write_checkpoint(tmp_path, tiny_config("qwen2"))
    apply, words = DAMAGES[damage]
    apply(tmp_path)
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused_when_read(tmp_path: Path, value: float) -> None:
    write_checkpoint(tmp_path, tiny_config())
    edit_weights(lambda weights: weights[NORM].index_fill_(0, torch.tensor([7]), value))(tmp_path)
    with pytest.raises(CheckpointError, match=NORM):
        open_checkpoint(tmp_path).tensor(NORM)


def test_the_same_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tiny_config())
    save_file({NORM: torch.ones(96)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="both"):
        open_checkpoint(tmp_path)
