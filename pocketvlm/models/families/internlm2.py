"""InternLM2 and 2.5 (arXiv 2403.17297): a Llama under names of its own, with Q, K and V in one matrix.

transformers has no class of it; defaults and names are those of the configuration_internlm2.py and
modeling_internlm2.py that its checkpoints come with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm.models.families.family import DEFAULTS, DecoderTraits, Family, Pieces, without_rope_tables

KEYS = {**{key: DEFAULTS[key] for key in DEFAULTS if key != "head_dim"}, "vocab_size": 103168, "bias": True}
NAMES = {
    "tok_embeddings.": "embed_tokens.",
    ".attention.wqkv.": ".self_attn.wqkv.",
    ".attention.wo.": ".self_attn.o_proj.",
    ".feed_forward.w1.": ".mlp.gate_proj.",
    ".feed_forward.w3.": ".mlp.up_proj.",
    ".feed_forward.w2.": ".mlp.down_proj.",
    ".attention_norm.": ".input_layernorm.",
    ".ffn_norm.": ".post_attention_layernorm.",
}


def rename(key: str) -> str | None:
    """Llama's names."""
    if key in ("output.weight", "model.output.weight"):
        return "lm_head.weight"
    for theirs, ours in NAMES.items():
        key = key.replace(theirs, ours)
    return without_rope_tables(key)


def fused(config: Any) -> Mapping[str, Mapping[str, Pieces]]:
    """Of each KV head the queries that share it, then its key, then its value."""
    text = config.text
    query, kv_heads = text.num_attention_heads // text.num_key_value_heads * text.head_dim, text.num_key_value_heads
    key, value = query + text.head_dim, query + 2 * text.head_dim
    return {
        ".wqkv.": {
            ".q_proj.": Pieces(kv_heads, value, 0, query),
            ".k_proj.": Pieces(kv_heads, value, query, key),
            ".v_proj.": Pieces(kv_heads, value, key, value),
        }
    }


FAMILY = Family("internlm2", DecoderTraits(KEYS), rename, fused)
