"""Tiny checkpoints with random weights, written as Hugging Face directories."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from pocketvlm.models.bluelm_v import BluelmV
from pocketvlm.models.config import DecoderConfig, VlmConfig
from pocketvlm.models.pictures import ImageLayoutConfig, TilingConfig
from pocketvlm.models.tower import VisionConfig

SPECIAL_TOKENS = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<image>", "<|image_pad|>", "</image>", "<row>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{{ '<image><|image_pad|></image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}"
    "{{ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
FAMILIES = ("llama", "qwen2", "minicpm")
#: RoPE as Llama 3.1 scales it, from 64 positions.
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


def tiny_config(family: str = "llama", *, vision: bool = True, **text: Any) -> VlmConfig:
    """Two layers of everything; odd grid (9 x 9), grouped-query attention, sizes that no group size divides."""
    extra: dict[str, Any] = {}
    if family == "minicpm":
        extra = {"scale_emb": 12.0, "scale_depth": 1.4, "dim_model_base": 48}
    if family == "gemma3_text":
        extra = {"sliding_window": 21, "sliding_window_pattern": 2, "rope_theta": 1e6, "rope_local_base_freq": 1e4}
    if family == "gemma4_text":
        kinds = ("sliding_attention", "full_attention") * 2
        extra = {"sliding_window": 21, "layer_types": kinds, "rope_theta": 1e6, "rope_local_base_freq": 1e4}
        extra |= {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "use_double_wide_mlp": True}
        extra |= {"global_head_dim": 48, "global_rotary_factor": 0.25, "final_logit_softcapping": 2.0}
        extra |= {} if vision else {"hidden_size_per_layer_input": 16}
    if family == "gemma2":
        bounds = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}
        extra = {"sliding_window": 21, "sliding_window_pattern": 2, **bounds}
    if family == "lfm2":
        extra = {"layer_types": ("conv", "full_attention"), "conv_kernel": 3}
    if family == "qwen3_5_text":
        sizes = {"key_head_dim": 16, "value_head_dim": 24, "num_key_heads": 2, "num_value_heads": 4}
        extra = {f"linear_{name}": size for name, size in {**sizes, "conv_kernel_dim": 4}.items()}
        extra |= {"layer_types": ("linear_attention", "full_attention"), "partial_rotary_factor": 0.25}
    decoder = DecoderConfig(
        model_type=family,
        **{
            "vocab_size": 320,
            "hidden_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "intermediate_size": 160,
            "max_position_embeddings": 512,
            "tie_word_embeddings": family == "llama",
            **extra,
            **text,
        },
    )
    if not vision:
        return VlmConfig(text=decoder, model_type=family)
    tower = VisionConfig(
        hidden_size=64,
        image_size=72,
        patch_size=8,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=136,
    )
    return VlmConfig(
        text=decoder,
        vision=tower,
        image_layout=ImageLayoutConfig(image_start="<image>", row_end="<row>", image_end="</image>"),
        tiling=TilingConfig(candidates=tuple((m, n) for m in (4, 3, 2, 1) for n in (4, 3, 2, 1) if m * n <= 8)),
    )


def random_model(config: VlmConfig, seed: int = 0) -> BluelmV:
    """A model whose norms and biases are random as well, so that a missing one shows.

    Tied embeddings are small: large ones would let each token predict itself, whatever the layers do.
    """
    torch.manual_seed(seed)
    model = BluelmV(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        if config.text.tie_word_embeddings:
            model.model.embed_tokens.weight.mul_(0.1)
    return model


def write_checkpoint(
    directory: Path, config: VlmConfig, *, seed: int = 0, dtype: torch.dtype = torch.float32, shards: int = 1
) -> BluelmV:
    """Write a checkpoint of random weights; gives the model that it holds, in float32."""
    directory.mkdir(parents=True, exist_ok=True)
    model = random_model(config, seed)
    weights = {name: value.detach().to(dtype).contiguous() for name, value in model.named_parameters()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    names = sorted(weights)
    if shards == 1:
        save_file(weights, directory / "model.safetensors")
    else:
        files = {name: f"model-{at % shards + 1:05d}-of-{shards:05d}.safetensors" for at, name in enumerate(names)}
        for file in set(files.values()):
            save_file({name: weights[name] for name in names if files[name] == file}, directory / file)
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (directory / "config.json").write_text(json.dumps(config.to_dict()))
    write_frontend(directory)
    return model


def write_frontend(directory: Path) -> None:
    """Tokenizer (bytes and the special tokens), chat template, preprocessing."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (directory / "preprocessor_config.json").write_text(
        json.dumps({"resample": 3, "rescale_factor": 1 / 255, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    )


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file in place."""
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    """What changes the weights of a checkpoint, which lie in one file."""

    def damage(directory: Path) -> None:
        weights = load_file(directory / "model.safetensors")
        change(weights)
        (directory / "model.safetensors").unlink()
        save_file(weights, directory / "model.safetensors")

    return damage
