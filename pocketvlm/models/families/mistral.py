"""Mistral 7B (arXiv 2310.06825) and its followers: a Llama whose layers may see a window alone."""

from __future__ import annotations

from pocketvlm.models.families.family import DEFAULTS, DecoderTraits, Family

KEYS = {
    **DEFAULTS,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}

FAMILY = Family("mistral", DecoderTraits(KEYS, windowed=True))
