"""Gemma (arXiv 2403.08295), text only: a gate of GELU, norms whose weights are stored less one, embeddings times the
root of the width. Names, defaults and computation as in transformers' ``models/gemma``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm.models.families.family import DEFAULTS, DecoderTraits, Family
from pocketvlm.models.families.gemma3_text import is_norm

GATE = "gelu_pytorch_tanh"
#: GemmaConfig's, for keys that a config may leave out; hidden_activation is hidden_act there.
KEYS: dict[str, Any] = {
    **{key: value for key, value in DEFAULTS.items() if key != "hidden_act"},
    "vocab_size": 256000,
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_activation": None,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "use_bidirectional_attention": None,
}


def own_keys(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Its gate under the name that its heirs have: the first configs say ``gelu`` and mean the approximation by tanh,
    which transformers takes too."""
    said = raw.get("hidden_activation") or raw.get("hidden_act", GATE)
    return {**raw, "hidden_activation": GATE if said == "gelu" else said}


FAMILY = Family("gemma", DecoderTraits(KEYS, rooted=True, own_keys=own_keys), is_less_one=is_norm)
