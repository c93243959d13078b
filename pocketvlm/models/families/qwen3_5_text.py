"""Qwen3.5 (Qwen Team, 2026), text only: three layers of four keep a state by the gated delta rule (arXiv 2412.06464) in
place of keys and values; the others have attention whose output is gated, norms of heads, and RoPE on a part of a head.

Names, defaults and computation as in transformers' ``models/qwen3_5``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.models.families.family import (
    DecoderTraits,
    Family,
    Pieces,
    check_only,
    in_halves,
    renamed,
    section,
    without_rope_tables,
)

#: Qwen3_5TextConfig's, for keys that a config may leave out.
KEYS: dict[str, Any] = {
    "vocab_size": 248320,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "layer_types": None,
    "partial_rotary_factor": None,
}
#: Of the names of weights and ours.
PARTS = {
    ".linear_attn.A_log": ".linear_attn.decay.weight",
    ".linear_attn.dt_bias": ".linear_attn.decay.bias",
    ".linear_attn.conv1d.": ".linear_attn.kernel.",
}
INTERVAL, ROTARY = 4, 0.25


def own_keys(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Its keys as ``DecoderConfig`` has them: a type for each layer, and which share of a head turns, wherever it
    stands.

    :raises CheckpointError: naming the key that is no such thing
    """
    check_only(raw, "attn_output_gate", True)
    rope = section(raw, "rope_parameters") or section(raw, "rope_scaling") or {}
    part = rope.get("partial_rotary_factor", raw.get("partial_rotary_factor", ROTARY))
    return {**raw, "layer_types": _layer_types(raw), "partial_rotary_factor": ROTARY if part is None else part}


def _layer_types(raw: Mapping[str, Any]) -> Any:
    """Each interval's last layer has attention, where no list says which."""
    kinds, layers = raw.get("layer_types"), raw.get("num_hidden_layers", KEYS["num_hidden_layers"])
    if kinds is not None:
        return kinds
    interval = raw.get("full_attention_interval", INTERVAL)
    if type(interval) is not int or interval < 1:
        raise CheckpointError(f"full_attention_interval is {one_line(repr(interval), 60)}, expected a number of layers")
    if type(layers) is not int or not 0 < layers <= 4096:
        return None  # which the schema refuses
    return ["full_attention" if (layer + 1) % interval == 0 else "linear_attention" for layer in range(layers)]


def rename(key: str) -> str | None:
    """Our name for a stored tensor; what predicts further tokens, which nothing here reads, is dropped."""
    if key.startswith("mtp."):
        return None
    name = renamed(key, {"model.language_model.": "model."})
    for theirs, ours in PARTS.items():
        name = name.replace(theirs, ours)
    return without_rope_tables(name)


def fused(config: Any) -> Mapping[str, Mapping[str, Pieces]]:
    """Of each head its query and the gate on what attention gives it; channels that turn stand as pairs of a whole
    head (``in_halves``), in queries, keys and their norms alike. By layer, since a tower may have such names too."""
    text = config.text
    size, heads = text.head_dim, {"q": text.num_attention_heads, "k": text.num_key_value_heads}
    order = in_halves(size, text.rotary_dim)
    found: dict[str, dict[str, Pieces]] = {}
    for layer in range(text.num_hidden_layers):
        own = f"model.layers.{layer}.self_attn."
        found[f"{own}q_proj."] = {
            f"{own}q_proj.": Pieces(heads["q"], 2 * size, 0, size, order),
            f"{own}output_gate.": Pieces(heads["q"], 2 * size, size, 2 * size),
        }
        found[f"{own}k_proj."] = {f"{own}k_proj.": Pieces(heads["k"], size, 0, size, order)}
        found |= {f"{own}{name}_norm.": {f"{own}{name}_norm.": Pieces(1, size, 0, size, order)} for name in heads}
    return found


def is_less_one(name: str) -> bool:
    """Whether 1 + a weight is what multiplies (``Qwen3_5RMSNorm``): of all norms but those behind a state."""
    return name.startswith("model.") and name.endswith("norm.weight") and ".linear_attn." not in name


def stored(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]] | None:
    """What a checkpoint of transformers calls one of our weights, and its shape there; None: it lies in another's."""
    if ".self_attn.output_gate." in name:
        return None
    if ".self_attn.q_proj." in name:
        shape = (2 * shape[0], *shape[1:])
    for theirs, ours in PARTS.items():
        name = name.replace(ours, theirs)
    return name, shape


FAMILY = Family(
    "qwen3_5_text",
    DecoderTraits(KEYS, qk_norm=True, gated=True, own_keys=own_keys),
    rename,
    fused,
    is_less_one=is_less_one,
)
