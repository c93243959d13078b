"""Gemma 2 (arXiv 2408.00118), text only: every other layer sees a window, scores and logits are bounded, and what
attention and the MLP add is normed. Names, defaults and computation as in transformers' ``models/gemma2``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm.models.families.family import DecoderTraits, Family
from pocketvlm.models.families.gemma import KEYS as GEMMA
from pocketvlm.models.families.gemma3_text import is_norm

#: Gemma2Config's, for keys that a config may leave out.
KEYS: dict[str, Any] = {
    **GEMMA,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": None,
    "layer_types": None,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
}


def own_keys(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Its keys, and that without layer_types every second layer sees all."""
    return {**raw, "sliding_window_pattern": 2}


FAMILY = Family(
    "gemma2",
    DecoderTraits(KEYS, sliding=True, sandwiched=True, rooted=True, own_keys=own_keys),
    is_less_one=is_norm,
)
