"""Strangers' files of other tools: AWQ's, GPTQ's, PEFT's, vocab.json with merges.txt, tokenizer.model. Read whole, or
one short line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

import torch

from pocketvlm.errors import PocketVlmError
from pocketvlm.export import export_bundle
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.store.as_stored import with_stored
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.recipe import load_recipe
from tests.soak.cases import Case, Cases, Found, Limits, Setup, refusal
from tests.soak.edits import edited
from tests.soak.hostile import hostile_json
from tests.support.adapters import factors, write_adapter
from tests.support.checkpoints import SPECIAL_TOKENS, tiny_config, write_checkpoint
from tests.support.packed import pack_checkpoint
from tests.support.published import sentencepiece_model

LIMITS = Limits(seconds=20.0, peak_bytes=1 << 30, address_bytes=24 << 30)
KV_LENGTH = 128
#: One of so many that are read is exported.
EXPORT_EVERY = 16
#: The refusal of weights has the command that converts them.
MOST_LINE = 700
BUNDLES = ()
KINDS = ("gptq", "awq")
FILES = (
    "config.json", "adapter/adapter_config.json", "tokenizer_config.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "model.safetensors", "adapter/adapter_model.safetensors",
)  # fmt: skip


def cases(setup: Setup) -> Cases:
    """A case: one original with an adapter, and one file of it changed."""
    torch.set_num_threads(1)
    for kind in KINDS:
        _write(setup.sandbox / kind, kind)

    def case(index: int) -> Case:
        random_, folder = setup.random("sources", index), setup.sandbox / "case"
        shutil.rmtree(folder, ignore_errors=True)
        kind = KINDS[index % len(KINDS)]
        shutil.copytree(setup.sandbox / kind, folder / "checkpoint")
        what = _changed(folder / "checkpoint", random_)
        return Case(f"{kind}, {what}", lambda: check(folder, index))

    return case


def _write(directory: Path, kind: str) -> None:
    write_checkpoint(directory, tiny_config("qwen2", vision=False))
    pack_checkpoint(directory, kind, 32, symmetric=kind == "gptq", desc_act=False)
    query = factors("model.layers.0.self_attn.q_proj", (128, 96))
    config = {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {r"^model\.layers\.0.*q_proj": 3.5}, "use_rslora": True}
    write_adapter(directory / "adapter", {**query, "model.norm.weight": torch.ones(96)}, **config)
    vocabulary = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    (directory / "tokenizer.json").unlink()
    if kind == "awq":
        _write_sentencepiece(directory)
        return
    (directory / "vocab.json").write_text(json.dumps({**vocabulary, "ab": 256}))
    (directory / "merges.txt").write_text("#version: 0.2\na b\n")
    (directory / "added_tokens.json").write_text(
        json.dumps({token: 257 + at for at, token in enumerate(SPECIAL_TOKENS)})
    )
    settings: dict[str, object] = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|end|>",
        "pad_token": None,
        "unk_token": None,
    }
    settings |= {"additional_special_tokens": list(SPECIAL_TOKENS), "add_prefix_space": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def _write_sentencepiece(directory: Path) -> None:
    """InternLM2's kind of tokenizer, with the special tokens behind its pieces."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    added = {str(len(pieces) + at): {"content": token, "special": True} for at, token in enumerate(SPECIAL_TOKENS)}
    settings = {"tokenizer_class": "InternLM2Tokenizer", "eos_token": "<|end|>", "added_tokens_decoder": added}
    (directory / "tokenizer.model").write_bytes(sentencepiece_model(pieces))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def _changed(directory: Path, random_: Random) -> str:
    path = directory / random_.choice([name for name in FILES if (directory / name).exists()])
    if path.suffix == ".json" and random_.random() < 0.8:
        raw = json.loads(path.read_text())
        if path.name == "config.json":
            said, how = hostile_json(raw.pop("quantization_config"), random_)
            content = json.dumps(raw)[:-1].encode() + b', "quantization_config": ' + said + b"}"
        else:
            content, how = hostile_json(raw, random_)
    else:
        content, how = edited(path.read_bytes(), random_)
    path.write_bytes(content)
    return f"{path.name}: {how}"


def check(folder: Path, index: int) -> Found:
    """Opened with and without its adapter, each weight and the tokenizer read, and now and then exported."""
    directory = folder / "checkpoint"
    try:
        plain = open_checkpoint(directory)
        with_stored(load_recipe("int8"), plain)
        read_frontend(plain)
        found = open_checkpoint(directory, lora=directory / "adapter")
        for name, info in found.tensors.items():
            if found.tensor(name).shape != info.shape:
                return Found("wrong", f"{name} has another shape than is said")
        if index % EXPORT_EVERY == 1:
            export_bundle(found, folder / "bundle", recipe="fp32", max_length=KV_LENGTH)
    except PocketVlmError as error:
        return refusal(error, directory, folder, most=MOST_LINE)
    return Found("right")
