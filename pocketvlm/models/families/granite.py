"""Granite 3 (IBM): a Llama with four factors."""

from __future__ import annotations

from pocketvlm.models.families.family import DEFAULTS, DecoderTraits, Family

FACTORS = ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")
KEYS = {**DEFAULTS, "attention_bias": False, "mlp_bias": False, **dict.fromkeys(FACTORS, 1.0)}

FAMILY = Family("granite", DecoderTraits(KEYS))
