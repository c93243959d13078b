"""Gemma 4 E2B and E4B with pictures: a tower that norms queries, keys and values by head, of pictures in their own
resolution; a token is the mean of a block of patches. What is heard and films are left out.

Names, defaults and layout as in transformers' ``models/gemma4``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.models.families import gemma4_text
from pocketvlm.models.families.family import Family, Pieces, check_only, renamed, section
from pocketvlm.models.names import IMAGE_ROW

#: Gemma4VisionConfig's, for keys that a config may leave out.
VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 16,
    "num_attention_heads": 12,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "pooling_kernel_size": 3,
    "patch_size": 16,
    "position_embedding_size": 10240,
    "use_clipped_linears": False,
}
THETA = 100.0
#: Of a picture, unless its processor says otherwise.
MOST_TOKENS = 280
IMAGE_TOKEN, BEGIN, END = "<|image|>", "<|image>", "<image|>"
IMAGE_TOKEN_ID = 258880
#: Of the stored names and ours, the first that fits; what is heard has none.
PREFIXES = {
    "model.language_model.": "model.",
    "model.vision_tower.patch_embedder.input_proj.": "vision_tower.embeddings.patch_embedding.",
    "model.vision_tower.patch_embedder.position_embedding_table": "vision_tower.embeddings.position_embedding.weight",
    "model.vision_tower.": "vision_tower.",
    "model.embed_vision.embedding_projection.": "projector.linear.",
}
UNUSED = ("model.audio_tower.", "model.embed_audio.")
PATCHES = "vision_tower.embeddings.patch_embedding.weight"
TOWER = {
    ".input_layernorm.": ".layer_norm1.",
    ".post_attention_layernorm.": ".attention_norm.",
    ".pre_feedforward_layernorm.": ".layer_norm2.",
    ".post_feedforward_layernorm.": ".mlp_norm.",
    ".self_attn.q_norm.": ".self_attn.query_norm.",
    ".self_attn.k_norm.": ".self_attn.key_norm.",
    ".self_attn.o_proj.": ".self_attn.out_proj.",
    ".input_min": ".before.low",
    ".input_max": ".before.high",
    ".output_min": ".behind.low",
    ".output_max": ".behind.high",
}


def read(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A ``config.json`` of a Gemma4Config.

    :raises CheckpointError: there is no vision_config, or naming the key whose value is something else than what is
        computed here
    """
    text, given = section(raw, "text_config") or {}, section(raw, "vision_config")
    if given is None:
        raise CheckpointError("vision_config: a gemma4 without one is not supported; its text_config alone is one")
    if text.get("use_bidirectional_attention") is not None:
        shown = one_line(repr(text["use_bidirectional_attention"]), 40)
        raise CheckpointError(
            f"text_config.use_bidirectional_attention is {shown}: of Gemma 4 only E2B's and E4B's kind is supported"
        )
    dtypes = [config.get(key) for config in (text, raw) for key in ("dtype", "torch_dtype")]
    own = {"tie_word_embeddings": raw.get("tie_word_embeddings", True), "dtype": next(filter(None, dtypes), None)}
    vision = {**VISION_DEFAULTS, **given}
    seen = tower(vision)
    return {
        "model_type": raw.get("model_type"),
        "text_config": {"model_type": "gemma4_text", **text, **own},
        "vision_config": seen,
        "projector": "tile_mean",
        "downsample_ratio": vision["pooling_kernel_size"],
        "image_token": IMAGE_TOKEN,
        "image_token_id": raw.get("image_token_id", IMAGE_TOKEN_ID),
        "image_row_token": text.get("pad_token_id") or 0,
        "image_in_template": IMAGE_TOKEN,
        "image_layout": {"image_start": BEGIN, "image_end": END},
        "tiling": {
            "strategy": "gemma4",
            "candidates": [[1, 1]],
            "thumbnail": "none",
            "thumbnail_of_single_tile": False,
            # as its processor has them where it says no others
            "min_pixels": seen["image_size"] ** 2,
            "max_pixels": MOST_TOKENS * seen["image_size"] ** 2,
        },
    }


def tower(vision: Mapping[str, Any]) -> dict[str, Any]:
    """Its keys as :class:`~pocketvlm.models.tower.VisionConfig` has them."""
    heads, width, patch = (vision[key] for key in ("num_attention_heads", "hidden_size", "patch_size"))
    block = vision["pooling_kernel_size"]
    for key in ("standardize", "attention_bias"):
        check_only(vision, key, False, "vision_config")
    for key, value in (("num_key_value_heads", heads), ("head_dim", None)):
        if key in vision and vision[key] != (value if value is not None else _share(width, heads)):
            shown = one_line(repr(vision[key]), 40)
            raise CheckpointError(
                f"vision_config.{key} is {shown}; what is supported are {heads} heads of all channels"
            )
    rope = section(vision, "rope_parameters") or {}
    if rope.get("rope_type", "axial") not in ("axial", "default"):
        raise CheckpointError("vision_config.rope_parameters.rope_type: only axial is supported")
    if type(patch) is not int or type(block) is not int:
        raise CheckpointError(f"vision_config.patch_size: {one_line(repr(patch), 60)} is no number of pixels")
    return {
        **{
            key: vision[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        },
        "hidden_act": vision["hidden_activation"],
        "layer_norm_eps": vision["rms_norm_eps"],
        "patch_size": patch,
        "image_size": patch * block,
        "positions": "stretched",
        "table_side": vision["position_embedding_size"],
        "table_by_axis": True,
        "patch_bias": False,
        "post_norm": False,
        "layer_norm": "rms",
        "gated_mlp": True,
        "sandwiched": True,
        "head_norms": True,
        "clipped": vision["use_clipped_linears"],
        "axial_theta": rope.get("rope_theta", THETA),
    }


def _share(width: Any, heads: Any) -> int | None:
    """Channels of a head; None where there are no whole ones, which the schema refuses."""
    return width // heads if type(width) is int and type(heads) is int and heads > 0 else None


def rename(key: str) -> str | None:
    """Our name for a stored tensor."""
    if key.startswith(UNUSED):
        return None
    name = renamed(key, PREFIXES)
    if name.startswith("vision_tower."):
        for theirs, ours in TOWER.items():
            name = name.replace(theirs, ours)
        return name
    return gemma4_text.rename(name)


def stored(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]] | None:
    """What a checkpoint calls one of our weights, and its shape there; None: it is a row of another."""
    if name == IMAGE_ROW:
        return None
    if name == PATCHES:  # a row an output, by row, column and channel
        shape = (shape[0], math.prod(shape[1:]))
    if name.startswith("vision_tower."):
        for theirs, ours in TOWER.items():
            name = name.replace(ours, theirs)
        if name.endswith(("_min", "_max")):
            shape = ()
    else:
        name, shape = gemma4_text.stored(name, shape)
    return renamed(name, {ours: theirs for theirs, ours in PREFIXES.items()}), shape


def fused(config: Any) -> Mapping[str, Mapping[str, Pieces]]:
    """Queries' and keys' channels, which turn by column, then by row, as ours do by row, then by column."""
    vision = config.vision
    size, quarter = vision.head_dim, vision.head_dim // 4
    order = tuple(
        channel
        for part in range(2)
        for half in (size // 2, 0)
        for channel in range(half + part * quarter, half + (part + 1) * quarter)
    )
    heads, one = vision.num_attention_heads, Pieces(1, size, 0, size, order)
    rows = Pieces(heads, size, 0, size, order)
    matrices = {f"self_attn.{name}_proj.linear.": rows for name in "qk"}
    norms = {f"self_attn.{name}_norm.": one for name in ("query", "key")}
    return {part: {part: pieces} for part, pieces in {**matrices, **norms}.items()}


FAMILY = Family("gemma4", rename=rename, fused=fused, read=read, processor="gemma4", channels_last=frozenset({PATCHES}))
