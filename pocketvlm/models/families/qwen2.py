"""Qwen2 and 2.5 (arXiv 2407.10671): biases on Q, K and V."""

from __future__ import annotations

from pocketvlm.models.families.family import DecoderTraits, Family

FAMILY = Family("qwen2", DecoderTraits(qkv_bias=True))
