"""Tiny checkpoints that transformers' own classes write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.support.checkpoints import write_frontend

#: Two layers, grouped-query attention, heads of 32 (ONNX Runtime wants multiples of 16).
SHAPE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "max_position_embeddings": 512,
}
#: Tokens that a window or an original length leaves to those who have one.
LIMIT = 192
#: Tokens that a layer with a window sees: less than a prompt has, and no whole number of chunks.
WINDOW = 21
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": LIMIT,
    "short_factor": [1 + pair / 8 for pair in range(16)], "long_factor": [2.0 + pair for pair in range(16)],
}  # fmt: skip
MULTIPLIERS = {
    "embedding_multiplier": 6.0, "attention_multiplier": 0.25, "residual_multiplier": 0.3, "logits_scaling": 4.0,
}  # fmt: skip
BIASES = {"attention_bias": True, "mlp_bias": True}
#: What is a family's own, in its tiny checkpoint: a new decoder is a line, if it has something.
OWN: dict[str, dict[str, Any]] = {
    "mistral": {"head_dim": 48, "sliding_window": LIMIT, "rope_parameters": YARN},
    "granite": {**MULTIPLIERS, **BIASES, "rope_parameters": LONGROPE},
    "smollm3": {**BIASES, "no_rope_layer_interval": 2, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2},
    "lfm2": {
        "num_hidden_layers": 3,
        "full_attn_idxs": [1],
        "conv_bias": True,
        "conv_L_cache": 4,
        "block_multiple_of": 32,
        "norm_eps": 1e-3,
    },
    "qwen3_5_text": {
        "num_hidden_layers": 4,
        "head_dim": 48,
        "intermediate_size": 96,
        "attention_bias": True,
        "full_attention_interval": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 24,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
    },
    "internlm2": {"attention_bias": True, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
    "gemma": {"head_dim": 48, "num_key_value_heads": 1, "attention_bias": True},
    "gemma2": {
        "head_dim": 48,
        "query_pre_attn_scalar": 40,
        "attention_bias": True,
        "sliding_window": WINDOW,
        "attn_logit_softcapping": 0.5,
        "final_logit_softcapping": 1.5,
    },
    "gemma3_text": {
        "head_dim": 48,
        "query_pre_attn_scalar": 40,
        "attention_bias": True,
        "sliding_window": WINDOW,
        "sliding_window_pattern": 2,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
}
LOCAL, FULL = "sliding_attention", "full_attention"
OWN["gemma4_text"] = {
    "num_hidden_layers": 5,
    "head_dim": 32,
    "global_head_dim": 48,
    "sliding_window": WINDOW,
    "layer_types": [LOCAL, FULL, LOCAL, LOCAL, FULL],
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 16,
    "vocab_size_per_layer_input": 320,
    "final_logit_softcapping": 2.0,
}
#: Families whose classes come with their checkpoints, and the model_type that computes the same.
TWINS = {"internlm2": "llama"}


def write_decoder(directory: Path, model_type: str, **changes: Any) -> torch.nn.Module:
    """A text-only checkpoint of a family, with norms and biases away from ones and zeros; the model that it holds."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    shape = {**SHAPE, **OWN.get(model_type, {}), **changes}
    config = AutoConfig.for_model(TWINS.get(model_type, model_type), **json.loads(json.dumps(shape)))
    model: torch.nn.Module = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        if model_type == "gemma4_text":  # what keeps scores small, which nothing divides, is learned in their norms
            for name, parameter in model.named_parameters():
                parameter.mul_(0.1 if name.endswith("q_norm.weight") else 1.0)
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.uniform_(0.5, 1.5)
    model.save_pretrained(directory)  # type: ignore[operator]
    if model_type == "internlm2":
        as_internlm2(directory)
    write_frontend(directory)
    return model


# --- InternLM2 --------------------------------------------------------------------------------------------------------

#: Llama's names and those of modeling_internlm2.py.
INTERNLM2 = {
    "lm_head": "output", "embed_tokens": "tok_embeddings", "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2",
    "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def _renamed(weights: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    found = {}
    for key, weight in weights.items():
        for before, after in names.items():
            key = key.replace(f"{before}.", f"{after}.")
        found[key] = weight
    return found


def heads_of(config: dict[str, Any]) -> tuple[int, int]:
    """How many heads keys have, and their size, where a config says no size."""
    heads = config["num_attention_heads"]
    return config.get("num_key_value_heads") or heads, config["hidden_size"] // heads


def internlm2_weights(weights: dict[str, Tensor], kv_heads: int, size: int) -> dict[str, Tensor]:
    """A Llama's weights under InternLM2's names: of each KV head its queries, its key and its value in one matrix."""
    found = {}
    for key, weight in _renamed(weights, INTERNLM2).items():
        if ".q_proj." in key:
            # [heads * size, ...] -> [KV heads, queries of one, size, ...]
            parts = [
                weights[key.replace("q_proj", name)].unflatten(0, (kv_heads, -1, size))
                for name in ("q_proj", "k_proj", "v_proj")
            ]
            found[key.replace("self_attn.q_proj", "attention.wqkv")] = torch.cat(parts, 1).flatten(0, 2).contiguous()
        elif not any(name in key for name in (".k_proj.", ".v_proj.")):
            found[key] = weight
    return found


def llama_weights(weights: dict[str, Tensor], kv_heads: int, size: int) -> dict[str, Tensor]:
    """And back, as modeling_internlm2.py takes its products apart."""
    found = {}
    for key, weight in _renamed(weights, {theirs: ours for ours, theirs in INTERNLM2.items()}).items():
        if ".wqkv." not in key:
            found[key] = weight
            continue
        # "(h gs d) ... -> h gs d ...": the last two of gs are key and value
        heads = weight.unflatten(0, (kv_heads, -1, size))
        for name, part in (("q", heads[:, :-2]), ("k", heads[:, -2:-1]), ("v", heads[:, -1:])):
            found[key.replace("attention.wqkv", f"self_attn.{name}_proj")] = part.flatten(0, 2).contiguous()
    return found


def as_internlm2(directory: Path) -> None:
    """A Llama's checkpoint as its publisher would have written it."""
    from safetensors.torch import load_file, save_file

    config = json.loads((directory / "config.json").read_text())
    weights = internlm2_weights(load_file(directory / "model.safetensors"), *heads_of(config))
    (directory / "model.safetensors").unlink()  # it may be mapped
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    config = {**config, "model_type": "internlm2", "bias": config.pop("attention_bias")}
    rope = config.pop("rope_parameters")
    scaling = None if rope["rope_type"] == "default" else {"type": rope["rope_type"], "factor": rope["factor"]}
    config |= {"architectures": ["InternLM2ForCausalLM"], "rope_theta": rope["rope_theta"], "rope_scaling": scaling}
    for key in ("head_dim", "mlp_bias"):
        config.pop(key)
    (directory / "config.json").write_text(json.dumps(config))


# ----------------------------------------------------------------------------------------------------------------------


def greedy(model: torch.nn.Module, token_ids: list[int], count: int) -> list[int]:
    """The next tokens, each the most likely after all before, computed anew without a cache."""
    ids = list(token_ids)
    with torch.no_grad():
        for _ in range(count):
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
            ids.append(int(logits.argmax()))
    return ids[len(token_ids) :]
