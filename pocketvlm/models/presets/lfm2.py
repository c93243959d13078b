"""LFM2's sizes (arXiv 2511.23404): config, special tokens, chat template. From memory, as its parameters confirm."""

from __future__ import annotations

from typing import Any

from pocketvlm.models.presets.spoken import CHAT_TEMPLATE, END_OF_TEXT, IM_END, IM_START, Spoken

BEGIN = "<|startoftext|>"
SPOKEN = Spoken(
    ("<|pad|>", BEGIN, END_OF_TEXT, "<|fim_pre|>", "<|fim_mid|>", "<|fim_suf|>", IM_START, IM_END),
    IM_END,
    "{{- '" + BEGIN + "' -}}" + CHAT_TEMPLATE,
    None,
)
LFM2_350M: dict[str, Any] = {
    "architectures": ["Lfm2ForCausalLM"],
    "model_type": "lfm2",
    "block_auto_adjust_ff_dim": True,
    "block_ff_dim": 6656,
    "block_ffn_dim_multiplier": 1.0,
    "block_multiple_of": 256,
    "conv_L_cache": 3,
    "conv_bias": False,
    "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    "hidden_size": 1024,
    "max_position_embeddings": 128000,
    "norm_eps": 1e-5,
    "num_attention_heads": 16,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rope_theta": 1e6,
    "vocab_size": 65536,
}
