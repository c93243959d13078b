"""LFM2 (arXiv 2511.23404): most layers have a short convolution between two gates in place of attention.

Names, defaults and computation as in transformers' ``models/lfm2``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.models.families.family import DecoderTraits, Family, renamed, without_rope_tables

#: Lfm2Config's, for keys that a config may leave out; rms_norm_eps and conv_kernel have other names there.
KEYS: dict[str, Any] = {
    "vocab_size": 65536,
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": None,
    "max_position_embeddings": 128000,
    "rms_norm_eps": None,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "conv_kernel": None,
    "conv_bias": False,
    "block_auto_adjust_ff_dim": True,
    "layer_types": None,
}
#: Of the names of weights and ours.
PARTS = {
    ".operator_norm.": ".input_layernorm.",
    ".ffn_norm.": ".post_attention_layernorm.",
    ".self_attn.out_proj.": ".self_attn.o_proj.",
    ".self_attn.q_layernorm.": ".self_attn.q_norm.",
    ".self_attn.k_layernorm.": ".self_attn.k_norm.",
    ".feed_forward.w1.": ".mlp.gate_proj.",
    ".feed_forward.w3.": ".mlp.up_proj.",
    ".feed_forward.w2.": ".mlp.down_proj.",
    ".conv.conv.": ".conv.kernel.",
}


def own_keys(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Its keys as ``DecoderConfig`` has them, where they say more than a value: the MLP's width as layers have it, a
    type for each layer.

    :raises CheckpointError: naming the key that is no such thing
    """
    found = {
        "rms_norm_eps": raw.get("norm_eps", raw.get("rms_norm_eps", 1e-5)),
        "conv_kernel": raw.get("conv_L_cache", raw.get("conv_kernel", 3)),
        "tie_word_embeddings": raw.get("tie_embedding", raw.get("tie_word_embeddings", True)),
        "intermediate_size": _inner(raw),
        "block_auto_adjust_ff_dim": False,
    }
    return {**raw, **found, "layer_types": _layer_types(raw)}


def _inner(raw: Mapping[str, Any]) -> Any:
    """Two thirds of what is said, times a factor, up to a multiple: how Llama's first code made three matrices as large
    as two."""
    size = raw.get("block_ff_dim", raw.get("intermediate_size", KEYS["intermediate_size"]))
    if not raw.get("block_auto_adjust_ff_dim", True) or type(size) is not int:  # which the schema refuses
        return size
    factor, multiple = raw.get("block_ffn_dim_multiplier", 1.0), raw.get("block_multiple_of", 256)
    size = int(2 * size / 3)
    if factor is None:
        return size
    if type(factor) not in (int, float) or not 0 < factor < 1 << 20:
        raise CheckpointError(f"block_ffn_dim_multiplier is {one_line(repr(factor), 60)}, expected a factor")
    if type(multiple) is not int or not 0 < multiple < 1 << 20:
        raise CheckpointError(f"block_multiple_of is {one_line(repr(multiple), 60)}, expected a number of channels")
    return -(-int(factor * size) // multiple) * multiple


def _layer_types(raw: Mapping[str, Any]) -> Any:
    layers, kinds, attention = (raw.get(key) for key in ("num_hidden_layers", "layer_types", "full_attn_idxs"))
    if kinds is not None or attention is None:
        return kinds
    if not isinstance(attention, list) or not all(type(index) is int for index in attention):
        raise CheckpointError(f"full_attn_idxs is {one_line(repr(attention), 60)}, expected layers")
    count = KEYS["num_hidden_layers"] if layers is None else layers
    if type(count) is not int or not 0 < count <= 4096:
        return None  # which the schema refuses
    return ["full_attention" if layer in attention else "conv" for layer in range(count)]


def rename(key: str) -> str | None:
    """Our name for a stored tensor."""
    name = renamed(key, {"model.embedding_norm.": "model.norm."})
    for theirs, ours in PARTS.items():
        name = name.replace(theirs, ours)
    return without_rope_tables(name)


def stored(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """What a checkpoint of transformers calls one of our weights, and its shape there."""
    for theirs, ours in PARTS.items():
        name = name.replace(ours, theirs)
    return renamed(name, {"model.norm.": "model.embedding_norm."}), shape


FAMILY = Family("lfm2", DecoderTraits(KEYS, qk_norm=True, own_keys=own_keys), rename=rename)
