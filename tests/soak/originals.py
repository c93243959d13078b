"""Tiny checkpoints as transformers writes them, and what it reads from one that somebody changed."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.support.checkpoints import tiny_config, write_checkpoint
from tests.support.transformers_models import LONGROPE, YARN, heads_of, llama_weights, write_decoder

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
TOKENS = torch.tensor([5, 9, 12, 1, 44, 7, 3, 300, 21, 250, 17, 101, 33, 34, 35, 36, 250, 251, 9, 9])
TEXTS = ("Read all lines.", "a  b\n\nc é", "<|user|>x<|end|> y", "12345 <row>")
DIALOGUES = (
    [{"role": "user", "content": "How many lines?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b c"}, {"role": "user", "content": "d"}],
)
SMALL: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "eos_token_id": 256}


def _decoder(model_type: str, **changes: Any) -> Callable[[Path], object]:
    wanted: dict[str, Any] = {**SMALL, **changes}
    return lambda directory: write_decoder(directory, model_type, **wanted)


def _ours(family: str, *, vision: bool) -> Callable[[Path], object]:
    def write(directory: Path) -> None:
        write_checkpoint(directory, tiny_config(family, vision=vision))
        raw = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**raw, "eos_token_id": 256}))
        (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 256}))

    return write


#: Of every family, tied and not, with each kind of RoPE.
ORIGINALS: dict[str, Callable[[Path], object]] = {
    "llama": _decoder("llama"),
    "llama tied": _decoder("llama", tie_word_embeddings=True),
    "llama 3.1": _decoder("llama", rope_parameters=LLAMA3),
    "llama with biases": _decoder("llama", attention_bias=True, head_dim=32),
    "qwen2": _decoder("qwen2"),
    "qwen2 tied": _decoder("qwen2", tie_word_embeddings=True, rope_parameters={"rope_type": "linear", "factor": 2.0}),
    "qwen3": _decoder("qwen3", head_dim=32),
    "qwen2 with yarn": _decoder("qwen2", rope_parameters=YARN),
    "llama with longrope": _decoder("llama", head_dim=32, mlp_bias=True, rope_parameters=LONGROPE),
    "mistral": _decoder("mistral"),
    "granite": _decoder("granite", hidden_size=128),
    "smollm3": _decoder("smollm3"),
    "internlm2": _decoder("internlm2"),
    "internlm2 without biases": _decoder("internlm2", attention_bias=False, num_key_value_heads=1),
    "minicpm": _ours("minicpm", vision=False),
    "bluelm_v with llama": _ours("llama", vision=True),
    "bluelm_v with qwen2": _ours("qwen2", vision=True),
}


def copy_of(name: str, folder: Path, target: Path) -> None:
    """A fresh copy of an original, which is written once."""
    source = folder / name.replace(" ", "-")
    if not source.is_dir():
        partial = source.with_suffix(".partial")
        ORIGINALS[name](partial)
        settings = json.loads((partial / "tokenizer_config.json").read_text())
        settings = {**settings, "tokenizer_class": "PreTrainedTokenizerFast"}
        (partial / "tokenizer_config.json").write_text(json.dumps(settings))
        partial.rename(source)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


@dataclass(frozen=True)
class Read:
    """What transformers makes of a checkpoint. None where it refuses, or has drawn random numbers for a weight."""

    logits: Tensor | None
    patches: Tensor | None
    pixels: np.ndarray | None
    stop: tuple[int, ...] | None
    texts: list[list[int]] | None
    dialogues: list[list[int]] | None
    tokenizer_stop: int | None = None
    refused: str = ""


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (72, 72, 3), np.uint8))


@torch.no_grad()
def read_by_transformers(directory: Path, tokens: Tensor = TOKENS) -> Read:
    """Everything that it reads; ``refused`` is what it said where it did not."""
    import transformers

    transformers.logging.set_verbosity(100)
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    said: list[str] = []

    def attempt(part: Callable[[], Any]) -> Any:
        try:
            return part()
        except Exception as error:  # noqa: BLE001 - whatever it raises
            said.append(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
            return None

    scores, stop = attempt(lambda: _text(directory, tokens)) or (None, None)
    sees = json.loads((directory / "config.json").read_text()).get("model_type") == "bluelm_v"
    tokenizer = attempt(lambda: transformers.AutoTokenizer.from_pretrained(directory))
    return Read(
        scores,
        attempt(lambda: _tower(directory)) if sees else None,
        attempt(lambda: _pixels(directory)) if sees else None,
        stop,
        tokenizer and attempt(lambda: [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]),
        tokenizer and attempt(lambda: _rendered(directory, tokenizer, sees)),
        tokenizer and tokenizer.eos_token_id,
        " | ".join(said),
    )


def _rendered(directory: Path, tokenizer: Any, sees: bool) -> list[list[int]]:
    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return found

    return [ids(tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True)) for one in DIALOGUES]


def _text(directory: Path, tokens: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    from transformers import AutoModelForCausalLM

    raw = json.loads((directory / "config.json").read_text())
    decoder = raw.get("text_config", raw) if raw["model_type"] == "bluelm_v" else raw
    alone = directory.with_name("decoder")
    if decoder is not raw or decoder["model_type"] in ("minicpm", "internlm2"):
        _write_alone(directory, alone, raw, decoder)
    else:
        alone = directory
    model, told = AutoModelForCausalLM.from_pretrained(alone, dtype=torch.float32, output_loading_info=True)
    if told["missing_keys"]:
        raise ValueError(f"drew {sorted(told['missing_keys'])[0]}")
    if decoder["model_type"] == "minicpm":
        _fold(model, decoder)
    stop = model.generation_config.eos_token_id
    ids = () if stop is None else tuple(stop) if isinstance(stop, list) else (stop,)
    return model.eval()(input_ids=tokens[None], return_dict=True).logits[0], ids


def _write_alone(directory: Path, alone: Path, raw: dict[str, Any], decoder: dict[str, Any]) -> None:
    """The decoder of a larger model, or a MiniCPM or InternLM2 as a Llama, as a checkpoint of its own."""
    from safetensors.torch import load_file, save_file

    shared: dict[str, Any] = {key: raw[key] for key in ("tie_word_embeddings", "eos_token_id") if key in raw}
    config = {**shared, **decoder}
    if decoder["model_type"] == "minicpm":
        config = {"tie_word_embeddings": True, **config, "model_type": "llama"}
    if decoder["model_type"] == "internlm2":
        config = {key: value for key, value in config.items() if key not in ("head_dim", "attention_bias", "mlp_bias")}
        config |= {"model_type": "llama", "attention_bias": config.pop("bias", True)}
    shutil.rmtree(alone, ignore_errors=True)
    alone.mkdir()
    (alone / "config.json").write_text(json.dumps(config))
    if (directory / "generation_config.json").exists():
        shutil.copy(directory / "generation_config.json", alone)
    weights = {
        key: value
        for file in _weight_files(directory)
        for key, value in load_file(file).items()
        if not key.startswith(("vision_tower.", "downsampler.", "projector."))
    }
    if any(".wqkv." in key for key in weights):
        weights = llama_weights(weights, *heads_of(config))
    save_file(weights, alone / "model.safetensors", {"format": "pt"})


def _weight_files(directory: Path) -> list[Path]:
    whole, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    return [directory / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]


def _fold(model: Any, raw: dict[str, Any]) -> None:
    """MiniCPM's scales, by its own modeling_minicpm.py, put into a Llama's weights."""
    residual = raw.get("scale_depth", 1) / math.sqrt(raw["num_hidden_layers"])
    head = model.lm_head.weight.detach().clone() * (raw.get("dim_model_base", 1) / raw["hidden_size"])
    model.lm_head.weight = torch.nn.Parameter(head)
    table = model.model.embed_tokens.weight.detach().clone() * raw.get("scale_emb", 1)
    model.model.embed_tokens.weight = torch.nn.Parameter(table)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.mul_(residual)
        layer.mlp.down_proj.weight.mul_(residual)


def _tower(directory: Path) -> Tensor:
    from safetensors.torch import load_file
    from transformers import SiglipVisionConfig, SiglipVisionModel

    raw = json.loads((directory / "config.json").read_text())["vision_config"]
    model = SiglipVisionModel(SiglipVisionConfig(**{**raw, "vision_use_head": False})).eval()
    prefix = "vision_model." if next(iter(model.state_dict())).startswith("vision_model.") else ""
    weights = {
        prefix + key.removeprefix("vision_tower."): value.float()
        for file in _weight_files(directory)
        for key, value in load_file(file).items()
        if key.startswith("vision_tower.")
    }
    missing = model.load_state_dict(weights, strict=False)
    if missing.missing_keys or missing.unexpected_keys:
        raise ValueError(f"{(missing.missing_keys or missing.unexpected_keys)[0]} does not fit")
    found: Tensor = model(pixel_values=tower_input(), return_dict=True).last_hidden_state
    return found


def tower_input() -> Tensor:
    """[1, 3, 72, 72], the same each time."""
    return torch.from_numpy(np.random.default_rng(1).standard_normal((1, 3, 72, 72), np.float32))


def _pixels(directory: Path) -> np.ndarray:
    """Of a picture that is a tile already: SigLIP's processor made to resize to a tile where no size is said."""
    from transformers import SiglipImageProcessor

    raw, _ = SiglipImageProcessor.get_image_processor_dict(directory)
    size = {} if raw.get("size") else {"size": {"height": 72, "width": 72}}
    processor = SiglipImageProcessor.from_pretrained(directory, **size)
    found: np.ndarray = processor(picture(), return_tensors="np")["pixel_values"]
    return found
