"""Llama (arXiv 2302.13971), and what calls itself so."""

from __future__ import annotations

from pocketvlm.models.families.family import DEFAULTS, DecoderTraits, Family

FAMILY = Family("llama", DecoderTraits({**DEFAULTS, "attention_bias": False, "mlp_bias": False}))
