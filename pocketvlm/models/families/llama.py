"""Llama (arXiv 2302.13971), and what calls itself so."""

from __future__ import annotations

from typing import Any

from pocketvlm.models.families.family import DecoderTraits, Family

DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "attention_bias": False,
}

FAMILY = Family("llama", DecoderTraits(DEFAULTS, refused=("mlp_bias",)))
