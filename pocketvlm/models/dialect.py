"""A foreign ``config.json`` under one set of names, with what it leaves out, as transformers' classes read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.models.families import DECODERS
from pocketvlm.models.families.family import SIGLIP_DEFAULTS, DecoderTraits
from pocketvlm.models.quantized import packing_of

#: Keys that say that weights are packed, of which a third may be as back ends hold it (``quantized.packing_of``).
QUANTIZED = ("compression_config", "quantization")
#: Keys that send transformers elsewhere: to another config, other weights, other values a layer.
BY_LAYER = "per_layer_config"
ELSEWHERE = ("configuration_files", "transformers_weights", BY_LAYER)
#: Of positions along three axes, and rows that are added behind layers, which families put there.
AXES = ("mrope_section", "mrope_interleaved", "deep_layers")
#: Of layers that see a window, where they have a RoPE of their own.
LOCAL_BASE = "rope_local_base_freq"
#: The kind of layer that every decoder has, also as transformers 4 called it.
FULL_ATTENTION = ("full_attention", "attention")


def check_whole(raw: Mapping[str, Any]) -> None:
    """What no config may have, wherever it stands.

    :raises CheckpointError: naming the key
    """
    packing_of(raw)
    for key in QUANTIZED:
        if raw.get(key):
            raise CheckpointError(f"{key}: quantized already; export the original model")
    known = DECODERS.get(str(raw.get("model_type")))
    for key in ELSEWHERE:
        if raw.get(key) and not (key == BY_LAYER and known is not None and known.by_layer):
            raise CheckpointError(f"{key} is not supported")


def vision_values(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A ``vision_config``'s keys, all of them.

    :raises CheckpointError: it is another tower's
    """
    if raw.get("model_type", "siglip_vision_model") != "siglip_vision_model":
        kind = one_line(repr(raw["model_type"]), 60)
        raise CheckpointError(f"vision_config.model_type is {kind}, expected 'siglip_vision_model'")
    if raw.get("num_channels", 3) != 3:
        raise CheckpointError(f"vision_config.num_channels is {one_line(raw['num_channels'], 60)}, expected 3")
    check_whole(raw)
    return {**SIGLIP_DEFAULTS, **raw}


def decoder_values(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A decoder's keys, all of them, under the names of transformers 4, which had rope_theta beside rope_scaling.

    :raises CheckpointError: the decoder computes what is not implemented
    """
    known = DECODERS.get(str(raw.get("model_type", "llama")))
    if known is None:
        return dict(raw)  # the schema refuses it by name
    check_whole(raw)
    if not raw.get("is_causal", True):
        raise CheckpointError("text_config.is_causal: only causal attention is supported")
    if known.own_keys is not None:
        raw = known.own_keys(raw)
    _check_layer_types(raw, known)
    values = {key: raw.get(key, default) for key, default in known.defaults.items()}
    if values["num_key_value_heads"] is None:
        values["num_key_value_heads"] = values["num_attention_heads"]
    if values.get("head_dim") is None:
        values["head_dim"] = 0  # the width by the heads
    named = {key: raw[key] for key in ("model_type", *AXES) if key in raw}
    if known.rooted:
        named["dtype"] = raw.get("dtype") or raw.get("torch_dtype")  # as transformers 4 called it
    return {**named, **values, **(_ropes if LOCAL_BASE in known.defaults else _rope)({**raw, **values})}


def _check_layer_types(raw: Mapping[str, Any], known: DecoderTraits) -> None:
    others = {
        "sliding_attention": known.sliding or ("layer_types" in known.defaults and bool(raw.get("use_sliding_window"))),
        "conv": "conv_kernel" in known.defaults,
        "linear_attention": "linear_conv_kernel_dim" in known.defaults,
    }
    more, kinds = [kind for kind, has in others.items() if has], raw.get("layer_types")
    if kinds is not None and not (isinstance(kinds, list) and all(kind in (*FULL_ATTENTION, *more) for kind in kinds)):
        said = " and ".join((FULL_ATTENTION[0], *more))
        raise CheckpointError(f"text_config.layer_types: only {said} {'are' if more else 'is'} supported")


def _ropes(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The same where layers that see a window have another (``Gemma3TextConfig.convert_rope_params_to_dict``)."""
    given = raw.get("rope_parameters")
    by_kind = given if isinstance(given, Mapping) else {}
    whole, local = (by_kind.get(kind) or {} for kind in ("full_attention", "sliding_attention"))
    wrong = next((key for key, value in by_kind.items() if not isinstance(value, Mapping) and value is not None), None)
    if wrong is not None or not isinstance(given or {}, Mapping):
        raise CheckpointError(f"text_config.rope_parameters: {one_line(wrong, 60)} is no RoPE of a kind of layer")
    if local.get("rope_type", "default") != "default":
        raise CheckpointError("text_config.rope_parameters.sliding_attention.rope_type: only default is supported")
    scaling = raw.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping):
        return {"rope_scaling": scaling}
    found = _rope({**raw, "rope_parameters": None, "rope_scaling": {**whole, **scaling}})
    return {**found, LOCAL_BASE: local.get("rope_theta", raw[LOCAL_BASE])}


def _rope(raw: Mapping[str, Any]) -> dict[str, Any]:
    """``rope_theta`` and ``rope_scaling``, wherever they stand: 5 gathers both in one dictionary.

    After transformers' ``RotaryEmbeddingConfigMixin``: what stands in the dictionary comes first, but for the original
    length, of which the one beside it does.
    """
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        return {"rope_scaling": rope}
    nested = next((key for key, value in rope.items() if isinstance(value, Mapping)), None)
    if nested is not None:
        raise CheckpointError(
            f"text_config.rope_parameters.{one_line(nested, 60)}: one RoPE a kind of layer is not supported"
        )
    settings = {"rope_theta": raw["rope_theta"], "rope_type": rope.get("type", "default"), **rope}
    theta = settings.pop("rope_theta")
    if settings["rope_type"] == "default":
        return {"rope_theta": theta, "rope_scaling": None}
    part = settings.pop("partial_rotary_factor", raw.get("partial_rotary_factor"))
    if part not in (None, 1):
        raise CheckpointError("text_config.partial_rotary_factor is not supported")
    if settings["rope_type"] in ("llama3", "yarn", "longrope"):
        inside = settings.get("original_max_position_embeddings", raw["max_position_embeddings"])
        settings["original_max_position_embeddings"] = raw.get("original_max_position_embeddings", inside)
    return {"rope_theta": theta, "rope_scaling": settings}
