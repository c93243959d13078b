"""Gemma 3 (arXiv 2503.19786), text only: five layers of six see a window and turn at a base of their own; a norm before
and one behind attention and MLP, whose weights are stored less one; a gate of GELU; embeddings times the root of the
width."""

from __future__ import annotations

from pocketvlm.models.families.family import DEFAULTS, DecoderTraits, Family

KEYS = {
    **{key: value for key, value in DEFAULTS.items() if key != "hidden_act"},
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131072,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "layer_types": None,
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
    "use_bidirectional_attention": False,
}


def is_norm(name: str) -> bool:
    """Whether a weight is of a norm of the decoder: 1 + weight is what multiplies (``Gemma3RMSNorm``)."""
    return name.startswith("model.") and name.endswith("norm.weight")


FAMILY = Family(
    "gemma3_text",
    DecoderTraits(KEYS, qk_norm=True, sliding=True, sandwiched=True, rooted=True),
    is_less_one=is_norm,
)
