"""Strangers' checkpoints: hostile JSON beside small weights. Planned, opened, read, exported; or one short line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from pocketvlm.errors import PocketVlmError
from pocketvlm.export import export_bundle
from pocketvlm.export.cost import estimate
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.plan import load_device, make_plan, read_model
from pocketvlm.recipe import load_recipe
from tests.soak.cases import Case, Cases, Found, Limits, Setup, refusal
from tests.soak.hostile import hostile_json
from tests.support.checkpoints import LLAMA3, tiny_config, write_checkpoint

#: Opening takes a fifth of a second, an export two.
LIMITS = Limits(seconds=20.0, peak_bytes=1 << 30, address_bytes=24 << 30)
KV_LENGTH = 128
#: One of so many that are opened is exported.
EXPORT_EVERY = 8
#: A line may hold a part of a template and of what it gives beside the refusal's own words.
MOST_LINE = 700
FILES = (
    "config.json", "config.json", "config.json", "preprocessor_config.json", "generation_config.json",
    "tokenizer_config.json", "special_tokens_map.json", "processor_config.json", "model.safetensors.index.json",
)  # fmt: skip
EXTRAS: dict[str, dict[str, Any]] = {
    "generation_config.json": {"eos_token_id": [256], "temperature": 0.7, "do_sample": True, "top_k": 20},
    "special_tokens_map.json": {"eos_token": {"content": "<|end|>", "lstrip": False}, "unk_token": "<row>"},
    "processor_config.json": {"image_processor": {"image_mean": [0.5] * 3, "do_rescale": True}, "processor_class": "X"},
    "model.safetensors.index.json": {"metadata": {"total_size": 1}, "weight_map": {"model.norm.weight": "model-1.st"}},
}


def _text(raw: dict[str, Any], **values: Any) -> Any:
    return raw["text_config"].update(values)


def _tiling(raw: dict[str, Any], **values: Any) -> Any:
    return raw["tiling"].update(values)


#: Configs that ask for more than their weights are.
BOMBS: dict[str, Callable[[dict[str, Any]], object]] = {
    "4096 layers": lambda raw: _text(raw, num_hidden_layers=4096),
    "a billion layers": lambda raw: _text(raw, num_hidden_layers=10**9),
    "4096 layers in the tower": lambda raw: raw["vision_config"].update(num_hidden_layers=4096),
    "a vocabulary of 2**24": lambda raw: _text(raw, vocab_size=1 << 24),
    "a width of 2**20": lambda raw: _text(raw, hidden_size=1 << 20, intermediate_size=1 << 20),
    "65536 heads": lambda raw: _text(raw, num_attention_heads=1 << 16, num_key_value_heads=1 << 16, head_dim=1 << 16),
    "2**31 positions": lambda raw: _text(raw, max_position_embeddings=1 << 31),
    "tiles of 4096 pixels": lambda raw: raw["vision_config"].update(image_size=4096, patch_size=1),
    "256 grids of 64 x 64": lambda raw: _tiling(raw, candidates=[[64, 64]] * 256),
    "a thousand grids": lambda raw: _tiling(raw, candidates=[[1, 1]] * 1000),
    "a million grids": lambda raw: _tiling(raw, candidates=[[1, 1]] * 1_000_000),
    "a tile's text of 4096": lambda raw: (
        raw["image_layout"].update(tile="<row_{row}_col_{column}>" * 160),
        _tiling(raw, candidates=[[1, 64], [64, 1]]),
    ),
    "a tile's text of a megabyte": lambda raw: raw["image_layout"].update(tile="x" * (1 << 20)),
    "an image's start of 4096": lambda raw: raw["image_layout"].update(image_start="<image>" * 500),
    "a downsampler of 64": lambda raw: raw.update(downsample_ratio=64),
    "a model type of a megabyte": lambda raw: raw.update(model_type="x\x1b[2J" * 200_000),
    "a decoder's type of a megabyte": lambda raw: _text(raw, model_type="x\n" * 500_000),
    "a million kinds of layers": lambda raw: _text(raw, layer_types=["full_attention"] * 1_000_000),
    "a RoPE of a million keys": lambda raw: _text(raw, rope_scaling={f"k{at}": at for at in range(1_000_000)}),
    "a million layers without RoPE": lambda raw: _text(raw, model_type="smollm3", no_rope_layers=[0] * 1_000_000),
    "a LongRoPE of a million factors": lambda raw: _text(
        raw, rope_scaling={"rope_type": "longrope", "short_factor": [1.0] * 1_000_000, "long_factor": [1.0]}
    ),
    "a YaRN of 1e18": lambda raw: _text(
        raw, rope_theta=1e18, rope_scaling={"rope_type": "yarn", "factor": 1e18, "beta_fast": 1e18, "mscale": 1e18}
    ),
    "a RoPE of 1e308": lambda raw: _text(raw, rope_scaling={**LLAMA3, "factor": 1e18, "high_freq_factor": 1e18}),
    "a base of 5e-324": lambda raw: _text(raw, rope_theta=5e-324),
    "an epsilon of 1e18": lambda raw: _text(raw, rms_norm_eps=1e18),
    "an image token of 4096": lambda raw: raw.update(image_token="<|image_pad|>" * 300),
    "a quantizer of a megabyte": lambda raw: raw.update(quantization_config={"quant_method": "\u202e" * (1 << 20)}),
    "a million stop tokens": lambda raw: raw.update(eos_token_id=[256] * 1_000_000),
    "escapes everywhere": lambda raw: raw.update({f"\x1b]0;{at}\x07": 1 for at in range(1000)}, image_token="\x1b[2J"),
    "no sizes at all": lambda raw: raw.update(text_config={"model_type": "llama"}, vision_config={"model_type": "x"}),
}  # fmt: skip


def cases(setup: Setup) -> Cases:
    """Bombs by turns, and changed JSON of any file."""
    original = setup.sandbox / "original"
    write_checkpoint(original, tiny_config("llama", rope_scaling=LLAMA3))
    for name, content in EXTRAS.items():
        if name != "model.safetensors.index.json":  # which counts where there are no whole weights
            (original / name).write_text(json.dumps(content))

    def case(index: int) -> Case:
        random_, folder = setup.random("configs", index), setup.sandbox / "case"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(original, folder / "checkpoint")
        what = _bomb(folder / "checkpoint", index // 8) if index % 8 == 0 else _changed(folder / "checkpoint", random_)
        return Case(what, lambda: check(folder, index))

    return case


def _bomb(directory: Path, turn: int) -> str:
    name = list(BOMBS)[turn % len(BOMBS)]
    raw = json.loads((directory / "config.json").read_text())
    BOMBS[name](raw)
    (directory / "config.json").write_text(json.dumps(raw))
    return name


def _changed(directory: Path, random_: Random) -> str:
    path = directory / random_.choice(FILES)
    raw = json.loads(path.read_text()) if path.is_file() else EXTRAS[path.name]
    if path.name == "model.safetensors.index.json":
        (directory / "model.safetensors").rename(directory / "model-1.st")
    content, how = hostile_json(raw, random_)
    path.write_bytes(content)
    return f"{path.name}: {how}"


def check(folder: Path, index: int) -> Found:
    """Planned, opened, estimated, read, and now and then exported; the first refusal is the case's."""
    directory = folder / "checkpoint"
    try:
        make_plan(read_model(str(directory), "int4-g128", None), load_device("dimensity-9300"))
    except PocketVlmError as error:
        if (planned := refusal(error, directory, most=MOST_LINE)).verdict != "refused":
            return planned
    try:
        checkpoint = open_checkpoint(directory)
        length = min(KV_LENGTH, checkpoint.config.text.positions)
        str(estimate(checkpoint, load_recipe("fp32"), length))
        read_frontend(checkpoint)
        if index % EXPORT_EVERY == 1:
            export_bundle(checkpoint, folder / "bundle", recipe="fp32", max_length=length)
    except PocketVlmError as error:
        return refusal(error, directory, folder, most=MOST_LINE)
    return Found("right")
