"""Hostile manifests: other types, huge numbers, deep nesting, NaN, missing and extra keys, odd text."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from pocketvlm.bundle.open import MANIFEST
from tests.soak.damage import Ground, Kind, Mutation, packed
from tests.soak.edits import edited
from tests.soak.hostile import changed, hostile_json, odd_text

Change = Callable[[dict[str, Any]], object]


def _mutation(what: str, ground: Ground) -> Mutation:
    return packed(Mutation(f"manifest: {what}", ground.bundle, "unhashed"), ground)


def _rewritten(ground: Ground, edit: Callable[[bytes, Random], tuple[bytes, str]]) -> Mutation:
    path = ground.bundle / MANIFEST
    content, how = edit(path.read_bytes(), ground.random)
    path.write_bytes(content)
    return _mutation(how, ground)


def edited_bytes(ground: Ground) -> Mutation:
    return _rewritten(ground, edited)


def changed_values(ground: Ground) -> Mutation:
    content, how = hostile_json(ground.original.manifest, ground.random)
    (ground.bundle / MANIFEST).write_bytes(content)
    return _mutation(how, ground)


def one_value(ground: Ground) -> Mutation:
    """One value of what runs, not of what is only told."""
    raw = ground.original.manifest
    keys = [key for key in ("vision", "image_layout", "tokens", "chat", "kv_cache", "model", "engines") if raw[key]]
    key = ground.random.choice(keys)
    raw[key], how = changed(raw[key], ground.random)
    (ground.bundle / MANIFEST).write_text(json.dumps(raw))
    return _mutation(f"{key}: {how}", ground)


def odd_json(ground: Ground) -> Mutation:
    return _rewritten(ground, odd_text)


def one_of_the_worst(ground: Ground) -> Mutation:
    """The changes below, one after the other."""
    names = list(WORST)
    name = names[ground.turn % len(names)]
    raw = ground.original.manifest
    WORST[name](raw)
    (ground.bundle / MANIFEST).write_text(json.dumps(raw))
    return _mutation(name, ground)


def _files(raw: dict[str, Any], **values: Any) -> None:
    for entry in raw["files"].values():
        entry.update(values)


def _parts(raw: dict[str, Any], change: Change) -> None:
    for part in raw["engines"]["onnx"].values():
        change(part)


def _exchange_parts(raw: dict[str, Any], one: str, other: str) -> None:
    parts = raw["engines"]["onnx"]
    parts[one], parts[other] = parts[other], parts[one]


def _text(raw: dict[str, Any], text: str) -> None:
    for role in raw["chat"]["roles"].values():
        role["prefix"] = text + role["prefix"]


WORST: dict[str, Change] = {
    "a KV length of a million": lambda raw: raw["kv_cache"].update(length=1 << 20),
    "a KV length of one": lambda raw: raw["kv_cache"].update(length=1),
    "KV heads without end": lambda raw: raw["kv_cache"].update(heads=1 << 40, head_dim=1 << 40, length=1 << 20),
    "a KV cache of 4 GB": lambda raw: raw["kv_cache"].update(heads=1 << 10, head_dim=1 << 10, length=1 << 10),
    "layers without end and small ones": lambda raw: (
        raw["model"].update(layers=1 << 30),
        raw["kv_cache"].update(heads=1, head_dim=1, length=1),
    ),
    "100 million small layers": lambda raw: (
        raw["model"].update(layers=10**8),
        raw["kv_cache"].update(heads=1, head_dim=1, length=1),
    ),
    "one layer": lambda raw: raw["model"].update(layers=1),
    "a vocabulary without end": lambda raw: raw["model"].update(vocab_size=1 << 40),
    "a hidden size without end": lambda raw: raw["model"].update(hidden_size=1 << 40),
    "a prefill chunk of one": lambda raw: raw.update(prefill_chunk=1),
    "a prefill chunk of 65536": lambda raw: raw.update(prefill_chunk=1 << 16),
    "files of 2**44 bytes": lambda raw: _files(raw, bytes=1 << 44),
    "files of -1 bytes": lambda raw: _files(raw, bytes=-1),
    "pictures packed with a tokenizer": lambda raw: (
        raw.update(format_version=3),
        raw["vision"] and raw["vision"].update(packing={"kind": "anyres", "newline": raw["tokenizer"]}),
    ),
    "no files": lambda raw: raw.update(files={}),
    "100,000 files": lambda raw: raw["files"].update(
        {f"f{i}": next(iter(raw["files"].values())) for i in range(100_000)}
    ),
    "whole digests that are wrong": lambda raw: _files(raw, sha256="0" * 64),
    "the manifest lists itself": lambda raw: raw["files"].update({MANIFEST: next(iter(raw["files"].values()))}),
    "tiles of 4096 pixels": lambda raw: raw["vision"].update(tile_size=4096),
    "256 huge grids": lambda raw: raw["vision"].update(candidates=[[1 << 40, 1 << 40]] * 256),
    "a grid of 1024 tiles": lambda raw: raw["vision"].update(candidates=[[32, 32]]),
    "a grid without a layout": lambda raw: raw["vision"].update(candidates=[[8, 8]]),
    "batches of 64 tiles": lambda raw: raw["vision"].update(tile_batch=64),
    "tokens per tile without end": lambda raw: raw["vision"].update(tokens_per_tile=1 << 40),
    "patches per tile without end": lambda raw: raw["vision"].update(patches_per_tile=1 << 40),
    "a mean of 1e308": lambda raw: raw["vision"].update(mean=[1e308] * 3, std=[1e-308] * 3),
    "a rescale of 0": lambda raw: raw["vision"].update(rescale=0.0),
    "a colour below 0": lambda raw: raw["vision"].update(pad_color=[-1, 256, 10**30]),
    "an image start beyond the vocabulary": lambda raw: raw["image_layout"].update(image_start=[2**31 - 1]),
    "an image start just beyond the vocabulary": lambda raw: raw["image_layout"].update(
        image_start=[raw["model"]["vocab_size"]]
    ),
    "an image end of 256 tokens": lambda raw: raw["image_layout"].update(image_end=[1] * 256),
    "a layout of ten thousand rows": lambda raw: raw["image_layout"].update(tile=[[[1] * 256] * 20] * 500),
    "a layout without tiles": lambda raw: raw["image_layout"].update(tile=[]),
    "stop tokens beyond the vocabulary": lambda raw: raw["tokens"].update(stop=[2**31 - 1] * 256),
    "every token stops": lambda raw: raw["tokens"].update(stop=list(range(256))),
    "no stop token": lambda raw: raw["tokens"].update(stop=[]),
    "the image token is a letter": lambda raw: raw["tokens"].update(image=100),
    "the image token beyond the vocabulary": lambda raw: raw["tokens"].update(image=2**31 - 1),
    "a text-only model": lambda raw: (raw.update(vision=None, image_layout=None), raw["tokens"].update(image=None)),
    "no chat layout": lambda raw: raw.update(chat=None),
    "a prefix of a megabyte": lambda raw: _text(raw, "x" * (1 << 20)),
    "a prefix of control characters": lambda raw: _text(raw, "".join(map(chr, range(32))) + "\u202e\ufeff"),
    "a prefix of every special token": lambda raw: _text(raw, "<|end|><|user|><image><|image_pad|></image><row>" * 3),
    "no user": lambda raw: raw["chat"]["roles"].pop("user"),
    "a default system message and no such role": lambda raw: (
        raw["chat"].update(default_system="x"),
        raw["chat"]["roles"].pop("system", None),
    ),
    "a name of markup": lambda raw: raw["model"].update(name="[/bold]\x1b[2J[link=x]", revision="[/]", family="[red]"),
    "a name of a megabyte": lambda raw: raw["model"].update(name="é" * (1 << 20)),
    "tensors named by markup": lambda raw: raw["recipe"].update(
        name="[/]", tensors={"[/x]\x1b": {**next(iter(raw["recipe"]["tensors"].values())), "quantizer": "[/q]"}}
    ),
    "100,000 tensors": lambda raw: raw["recipe"].update(
        tensors={f"t{i}": next(iter(raw["recipe"]["tensors"].values())) for i in range(100_000)}
    ),
    "no tensors": lambda raw: raw["recipe"].update(tensors={}),
    "bits of 1e308": lambda raw: [tensor.update(bits_per_weight=1e308) for tensor in raw["recipe"]["tensors"].values()],
    "fidelity of 1e308": lambda raw: raw["fidelity"]["text"].update(kl_mean=1e308, top1_agreement=-1e308),
    "no engines": lambda raw: raw.update(engines={}),
    "no parts": lambda raw: raw["engines"].update(onnx={}),
    "decoder and encoder exchanged": lambda raw: _exchange_parts(raw, "text_decoder", "vision_encoder"),
    "the vision parts exchanged": lambda raw: _exchange_parts(raw, "patch_embedding", "vision_encoder"),
    "parts without weights": lambda raw: _parts(raw, lambda part: part.update(data=[])),
    "parts with every file as weights": lambda raw: _parts(raw, lambda part: part.update(data=list(raw["files"]))),
    "parts with a file 1000 times": lambda raw: _parts(raw, lambda part: part.update(data=["text.data"] * 1000)),
    "parts that are the tokenizer": lambda raw: _parts(raw, lambda part: part.update(file=raw["tokenizer"])),
    "a tokenizer of weights": lambda raw: raw.update(tokenizer="text.data"),
    "a tokenizer that is a graph": lambda raw: raw.update(tokenizer="text_decoder.onnx"),
    "inputs of other shapes": lambda raw: _parts(
        raw, lambda part: part.update(inputs=[{"name": "\n[/]\x1b", "shape": [2**70, "[/]"], "dtype": "int8"}])
    ),
    "a runtime of tomorrow": lambda raw: raw["minimum_runtime"].update(pocketvlm="999999.0"),
    "a runtime that is no version": lambda raw: raw["minimum_runtime"].update(onnxruntime="1" * 5000),
    "format 3": lambda raw: raw.update(format_version=3),
    "format without end": lambda raw: raw.update(format_version=10**4000),
}

KINDS: tuple[Kind, ...] = (
    one_of_the_worst,
    one_value,
    changed_values,
    edited_bytes,
    one_of_the_worst,
    odd_json,
    one_value,
)
