"""Qwen2 and 2.5 (arXiv 2407.10671): biases on Q, K and V."""

from __future__ import annotations

from pocketvlm.models.families import llama
from pocketvlm.models.families.family import SCALES, DecoderTraits, Family

DEFAULTS = {
    **llama.DEFAULTS,
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
}

FAMILY = Family(
    "qwen2",
    DecoderTraits(DEFAULTS, qkv_bias=True, ignored=(*SCALES, "attention_bias"), refused=("use_sliding_window",)),
)
