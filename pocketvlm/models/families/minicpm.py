"""MiniCPM (arXiv 2404.06395): its three scales are keys of its config.

transformers has no class of it; the defaults are those of the configuration_minicpm.py that its checkpoints come with.
"""

from __future__ import annotations

from pocketvlm.models.families.family import DEFAULTS, DecoderTraits, Family

KEYS = {
    **DEFAULTS,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "scale_emb": 1.0,
    "scale_depth": 1.0,
    "dim_model_base": 1,
}

FAMILY = Family("minicpm", DecoderTraits(KEYS))
