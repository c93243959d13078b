"""Qwen3 (arXiv 2505.09388), text only: a norm over each head of Q and K, whose size is a key, and no biases."""

from __future__ import annotations

from pocketvlm.models.families import qwen2
from pocketvlm.models.families.family import DecoderTraits, Family

FAMILY = Family("qwen3", DecoderTraits({**qwen2.KEYS, "head_dim": 128, "attention_bias": False}, qk_norm=True))
