"""Qwen2 and 2.5 (arXiv 2407.10671): biases on Q, K and V."""

from __future__ import annotations

from pocketvlm.models.families.family import DEFAULTS, DecoderTraits, Family

KEYS = {
    **DEFAULTS,
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}

FAMILY = Family("qwen2", DecoderTraits(KEYS, qkv_bias=True))
