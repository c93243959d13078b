"""Reading checkpoints: shards, types, and everything that can be wrong with one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pocketvlm.errors import CheckpointError
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.names import HEAD
from pocketvlm.models.stages import stages_of
from pocketvlm.plan.source import read_model
from tests.support.checkpoints import FAMILIES, edit_weights, tiny_config, write_checkpoint


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
    raw = json.loads(json.dumps(config.to_dict()))
    assert VlmConfig.from_dict(raw) == config


def test_a_directory_called_checkpoint_takes_the_name_above(tmp_path: Path) -> None:
    """A snapshot in Hugging Face's cache that of its model."""
    snapshot = "hub/models--acme--tiny-llm/snapshots/" + "0123456789" * 4
    for directory, name in (("reader/checkpoint", "reader"), ("qwen", "qwen"), (snapshot, "tiny-llm")):
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


def edit_config(**changes: object) -> Callable[[Path], object]:
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


def index(content: str) -> Callable[[Path], object]:
    """An index in place of the one file of weights."""

    def damage(directory: Path) -> None:
        (directory / "model.safetensors").unlink()
        (directory / "model.safetensors.index.json").write_text(content)

    return damage


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    def damage(directory: Path) -> None:
        (directory / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


NORM, TABLE = "model.norm.weight", "model.embed_tokens.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
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
    "unknown RoPE": (edit_config(text_config__rope_scaling={"rope_type": "proportional"}), "rope_type"),
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
        index(json.dumps({"weight_map": {NORM: "../model.safetensors"}})),
        "outside",
    ),
    "an index with a missing shard": (
        index(json.dumps({"weight_map": {NORM: "no.safetensors"}})),
        "no.safetensors is missing",
    ),
    "an index with a name that no file can have": (
        index(json.dumps({"weight_map": {NORM: "x\n" * 5000}})),
        "is missing",
    ),
    "an index with a name of none": (
        index(json.dumps({"weight_map": {NORM: "\0"}})),
        "is missing",
    ),
    "a family of many lines": (edit_config(model_type="gpt\n" * 5000), "known families"),
    "a part is no dictionary": (edit_config(text_config=7), "text_config is 7"),
    "an index without a map": (index("{}"), "weight_map"),
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
    write_checkpoint(tmp_path, tiny_config(), shards=2)
    save_file({NORM: torch.ones(96)}, tmp_path / "model-00003-of-00003.safetensors")
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match="both"):
        open_checkpoint(tmp_path)


# --- A head beside a table ------------------------------------------------------------------------------------------


def head_of(directory: Path) -> torch.Tensor:
    """What the reference multiplies by."""
    checkpoint = open_checkpoint(directory)
    stage = stages_of(checkpoint.config).head
    return checkpoint.tensor(stage.shared.get(HEAD, HEAD))


@pytest.mark.parametrize("vision", [True, False])
def test_a_head_of_its_own_is_used_whatever_the_config_says(tmp_path: Path, vision: bool) -> None:
    """As transformers 5 does: "both are present with different values, so we will NOT tie them"."""
    write_checkpoint(tmp_path, tiny_config("llama", vision=vision))
    assert open_checkpoint(tmp_path).config.text.tie_word_embeddings
    head = load_file(tmp_path / "model.safetensors")[TABLE].flip(0)
    planned = read_model(str(tmp_path), "fp32")
    edit_weights(lambda weights: weights.update({HEAD: head.contiguous()}))(tmp_path)
    assert torch.equal(head_of(tmp_path), head)
    assert not open_checkpoint(tmp_path).config.text.tie_word_embeddings
    assert HEAD in open_checkpoint(tmp_path).tensors
    assert read_model(str(tmp_path), "fp32") != planned


def test_a_head_that_equals_the_table_is_tied(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tiny_config("llama"))
    edit_weights(lambda weights: weights.update({HEAD: weights[TABLE].clone()}))(tmp_path)
    assert open_checkpoint(tmp_path).config.text.tie_word_embeddings
    assert HEAD not in open_checkpoint(tmp_path).tensors


def test_a_head_alone_is_the_table_too(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tiny_config("llama"))
    table = load_file(tmp_path / "model.safetensors")[TABLE]
    edit_weights(lambda weights: weights.update({HEAD: weights.pop(TABLE)}))(tmp_path)
    assert torch.equal(open_checkpoint(tmp_path).tensor(TABLE), table)
    assert torch.equal(head_of(tmp_path), table)


# --- Files as people have them ----------------------------------------------------------------------------------------


def beside(name: str, tensors: dict[str, torch.Tensor]) -> Callable[[Path], object]:
    return lambda directory: save_file(tensors, directory / name)


LEFT_ALONE: dict[str, Callable[[Path], object]] = {
    "the maker's own layout": beside("consolidated.safetensors", {"layers.0.attention.wq.weight": torch.zeros(4, 4)}),
    "a variant": beside("model.fp16.safetensors", {NORM: torch.zeros(96)}),
    "shards of before": beside("model-00001-of-00002.safetensors", {NORM: torch.zeros(96)}),
    "pickled weights": write("pytorch_model.bin", b"\x80\x02"),
    "a GGUF": write("model-q4.gguf", b"GGUF"),
    "an index whose shards are gone": write(
        "model.safetensors.index.json", json.dumps({"weight_map": {NORM: "model-00001-of-00002.safetensors"}})
    ),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_transformers_does_not_read_is_left_alone(tmp_path: Path, name: str) -> None:
    model = write_checkpoint(tmp_path, tiny_config("qwen2"))
    LEFT_ALONE[name](tmp_path)
    norm = dict(model.named_parameters())[NORM]
    assert torch.equal(open_checkpoint(tmp_path).tensor(NORM), norm)


def moved(name: str) -> Callable[[Path], object]:
    return lambda directory: (directory / "model.safetensors").rename(directory / name)


def typed(dtype: torch.dtype) -> Callable[[Path], object]:
    return edit_weights(lambda weights: weights.update({QUERY: weights[QUERY].to(dtype)}))


def only(name: str, content: str = "{}") -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        for path in directory.iterdir():
            path.unlink()
        write(name, content)(directory)

    return change


def instead(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        (directory / "model.safetensors").unlink()
        make(directory / "model.safetensors")

    return change


QUERY = "model.layers.0.self_attn.q_proj.weight"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123456\n"
SAID: dict[str, tuple[Callable[[Path], object], str]] = {
    "AWQ by its config": (
        edit_config(quantization_config={"quant_method": "awq", "bits": 8}),
        r"already \(awq\) with 8 bits, which no back end holds as it is; export the original",
    ),
    "GPTQ by its weights": (
        edit_weights(lambda w: w.update({QUERY.replace("weight", "qweight"): w.pop(QUERY).to(torch.int32)})),
        r"q_proj.qweight is quantized already \(I32\); export the original",
    ),
    "compressed tensors": (edit_weights(lambda w: w.update({f"{QUERY}_packed": w.pop(QUERY)})), "is quantized already"),
    "bitsandbytes": (edit_weights(lambda w: w.update({f"{QUERY}.absmax": torch.ones(3)})), "is quantized already"),
    "fp8": (typed(torch.float8_e4m3fn), r"q_proj.weight is quantized already \(F8_E4M3\)"),
    "int8": (typed(torch.int8), r"q_proj.weight is quantized already \(I8\)"),
    "an adapter beside weights": (write("adapter_config.json", "{}"), r"LoRA adapter belongs .* name its directory"),
    "an adapter of no kind": (only("adapter_config.json"), "peft_type is ''; only LORA is read"),
    "an adapter without its config": (
        only("adapter_model.safetensors"),
        "is a LoRA adapter without its adapter_config",
    ),
    "a pipeline": (only("model_index.json"), "is a pipeline of several models: name the directory of one"),
    "a GGUF alone": (only("x.Q4_K_M.gguf"), "x.Q4_K_M.gguf is a GGUF, quantized for llama.cpp: export the original"),
    "a GGUF beside a config": (moved("x.gguf"), "x.gguf is a GGUF"),
    "pickled weights alone": (moved("pytorch_model.bin"), "pytorch_model.bin is pickled weights, which are never read"),
    "a variant alone": (moved("model.fp16.safetensors"), "rename it to model.safetensors"),
    "another name": (moved("weights.safetensors"), "rename them to model.safetensors"),
    "the maker's layout alone": (moved("consolidated.00.pth"), "weights in their maker's own layout"),
    "a pointer in place of weights": (write("model.safetensors", POINTER), "is a Git LFS pointer .* git lfs pull"),
    "a pointer in place of a config": (write("config.json", POINTER), "is a Git LFS pointer"),
    "weights that are a pipe": (instead(os.mkfifo), "is not a regular file"),
    "weights that are the kernel's": (
        instead(lambda path: path.symlink_to("/proc/kmsg")),
        "is a link that leaves the checkpoint",
    ),
    "a link to nothing": (instead(lambda path: path.symlink_to("gone")), r"cannot be read \(No such file"),
}


@pytest.mark.parametrize("name", SAID)
def test_a_checkpoint_of_another_kind_is_called_what_it_is(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path, tiny_config("qwen2"))
    change, words = SAID[name]
    change(tmp_path)
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint(tmp_path)
    assert str(caught.value).isprintable()


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="is a file: name its directory"):
        open_checkpoint(tmp_path / "model.safetensors")


def test_shards_without_their_index_are_read(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path, tiny_config("qwen2"), shards=3)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert open_checkpoint(tmp_path).tensors.keys() == dict(model.named_parameters()).keys()
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="missing from the weights"):
        open_checkpoint(tmp_path)


def test_a_path_that_is_no_utf_8_is_called_so(tmp_path: Path) -> None:
    directory = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    write_checkpoint(tmp_path / "x", tiny_config("qwen2"))
    (tmp_path / "x").rename(directory)
    with pytest.raises(CheckpointError, match="the path is not UTF-8, which safetensors needs") as caught:
        open_checkpoint(directory)
    assert str(caught.value).isprintable()
    (tmp_path / "link").symlink_to(directory)
    assert open_checkpoint(tmp_path / "link").tensor(NORM).shape == (96,)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_may_not_be_read_is_said(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read all: the system's refusal is made here."""
    write_checkpoint(tmp_path, tiny_config("qwen2"))
    opened = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == name:
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match=rf"{name}: cannot be read \(Permission denied\)"):
        open_checkpoint(tmp_path)
