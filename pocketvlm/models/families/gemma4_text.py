"""Gemma 4 E2B and E4B, text only: Gemma 3's windows and norms; heads of another size in layers that see all, whose
channels turn in part; normed values; last layers that read the keys and values of earlier ones; and for each layer a
row of each token, looked up beside its embedding.

Names, defaults and computation as in transformers' ``models/gemma4``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.models.families.family import DEFAULTS, DecoderTraits, Family, renamed, section, without_rope_tables

#: Gemma4TextConfig's; the last three have other names there, or none.
KEYS = {
    **{key: value for key, value in DEFAULTS.items() if key != "hidden_act"},
    "vocab_size": 262144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131072,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "sliding_window": 512,
    "layer_types": None,
    "final_logit_softcapping": None,
    "hidden_size_per_layer_input": 256,
    "num_kv_shared_layers": 0,
    "use_double_wide_mlp": False,
    "attention_multiplier": None,
    "global_head_dim": None,
    "global_rotary_factor": None,
}
GLOBAL_HEAD_DIM, GLOBAL_ROTARY = 512, 0.25
FULL, LOCAL = "full_attention", "sliding_attention"
#: Each sixth layer sees all, where a config does not say each one's kind.
PATTERN = 6
#: What other models of this generation have; here it is one of these values.
ELSEWHERE: dict[str, tuple[Any, ...]] = {
    "enable_moe_block": (False, None),
    "attention_k_eq_v": (False, None),
    "use_bidirectional_attention": (None, False, "vision"),
}
#: Stored names of what makes the rows of all layers, and ours.
NAMES = {
    "model.per_layer_model_projection.": "model.layers.0.rows.projection.",
    "model.per_layer_projection_norm.": "model.layers.0.rows.norm.",
}
#: Of a layer's own weights, behind its number.
PARTS = {
    "per_layer_input_gate.": "row_gate.gate.",
    "per_layer_projection.": "row_gate.projection.",
    "post_per_layer_input_norm.": "row_gate.norm.",
    "layer_scalar": "layer_scale.weight",
}
LAYERS = "model.layers."


def own_keys(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A ``config.json`` of a Gemma4TextConfig with the keys of a decoder's config.

    :raises CheckpointError: it is of another kind of Gemma 4, by the key that says so
    """
    for key, known in ELSEWHERE.items():
        if not any(raw.get(key) is value or raw.get(key) == value for value in known):
            shown = one_line(repr(raw[key]), 40)
            raise CheckpointError(f"text_config.{key} is {shown}: of Gemma 4 only E2B's and E4B's kind is supported")
    values = {**KEYS, **raw}
    if not values["hidden_size_per_layer_input"]:
        raise CheckpointError(
            "text_config.hidden_size_per_layer_input is 0: of Gemma 4 only E2B's and E4B's kind is supported"
        )
    if values.get("vocab_size_per_layer_input", values["vocab_size"]) != values["vocab_size"]:
        raise CheckpointError("text_config.vocab_size_per_layer_input: only as many as vocab_size are supported")
    kinds, ropes = _kinds(values), section(raw, "rope_parameters") or {}
    whole, local = (section(ropes, kind) or {} for kind in (FULL, LOCAL))
    if whole.get("rope_type", "proportional") != "proportional" or whole.get("factor", 1.0) != 1.0:
        raise CheckpointError(f"text_config.rope_parameters.{FULL}: only rope_type proportional is supported")
    return {
        **raw,
        "layer_types": kinds,
        "attention_multiplier": 1.0,  # scores are not divided
        "global_head_dim": _global_head_dim(values, kinds),
        "global_rotary_factor": whole.get("partial_rotary_factor", 1.0)
        if whole
        else values["global_rotary_factor"] or GLOBAL_ROTARY,
        "rope_parameters": {FULL: {"rope_theta": whole.get("rope_theta", values["rope_theta"])}, LOCAL: local},
    }


def _kinds(values: Mapping[str, Any]) -> Any:
    """Each layer's, of which the last sees all whatever is said of it."""
    kinds, layers = values["layer_types"], values["num_hidden_layers"]
    if kinds is None and type(layers) is int and 0 < layers <= 4096:
        kinds = [LOCAL if (layer + 1) % PATTERN else FULL for layer in range(layers)]
    return [*kinds[:-1], FULL] if isinstance(kinds, list) and kinds else kinds


def _global_head_dim(values: Mapping[str, Any], kinds: Any) -> Any:
    """Of layers that see all: at the top, or the same in each one's own config."""
    by_layer = section(values, "per_layer_config")
    if by_layer is None:
        return values["global_head_dim"] or GLOBAL_HEAD_DIM
    full = [str(layer) for layer, kind in enumerate(kinds or ()) if kind == FULL]
    sizes = [one.get("head_dim") if isinstance(one, Mapping) and len(one) == 1 else None for one in by_layer.values()]
    if sorted(by_layer) != sorted(full) or None in sizes or any(size != sizes[0] for size in sizes):
        raise CheckpointError(f"text_config.per_layer_config: only one head_dim for all layers of {FULL} is supported")
    return sizes[0]


def rename(key: str) -> str | None:
    """Our name for a stored tensor."""
    return without_rope_tables(_named(key, NAMES, PARTS))


def stored(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """What a checkpoint calls one of our weights, and its shape there."""
    names, parts = ({ours: theirs for theirs, ours in one.items()} for one in (NAMES, PARTS))
    return _named(name, names, parts), shape


def _named(key: str, names: Mapping[str, str], parts: Mapping[str, str]) -> str:
    name = renamed(key, names)
    if name != key or not key.startswith(LAYERS):
        return name
    layer, _, part = key.removeprefix(LAYERS).partition(".")
    return f"{LAYERS}{layer}.{renamed(part, parts)}"


FAMILY = Family(
    "gemma4_text",
    DecoderTraits(
        KEYS, qk_norm=True, sliding=True, sandwiched=True, rooted=True, value_norm=True, by_layer=True,
        own_keys=own_keys,
    ),
    rename=rename,
)  # fmt: skip
