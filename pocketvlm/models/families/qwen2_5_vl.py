"""Qwen2.5-VL (arXiv 2502.13923): pictures in their own resolution, windows in most layers of the tower, Qwen2.5.

Names, defaults and computation as in transformers' ``models/qwen2_5_vl``; what Qwen-VL's families share stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.models.families.family import (
    Family,
    Pieces,
    check_only,
    one_behind_another,
    renamed,
    section,
    without_rope_tables,
)

#: Qwen2_5_VLTextConfig's, for keys that a config may leave out.
TEXT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "max_window_layers": 80,
}
#: Qwen2_5_VLVisionConfig's.
VISION_DEFAULTS: dict[str, Any] = {
    "depth": 32,
    "hidden_size": 3584,
    "hidden_act": "silu",
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
THETA, SECTIONS = 1000000.0, [16, 24, 24]
IMAGE_TOKEN_ID = 151655
#: What a picture is to a Qwen-VL, beside its tower and decoder. (The bounds are the processor's, where nobody asks it.)
SEEN: dict[str, Any] = {
    "projector": "merger",
    "image_token": "<|image_pad|>",
    "image_layout": {"image_start": "<|vision_start|>", "image_end": "<|vision_end|>"},
    "tiling": {
        "strategy": "smart-resize",
        "candidates": [[1, 1]],
        "thumbnail": "none",
        "min_pixels": 56 * 56,
        "max_pixels": 28 * 28 * 1280,
    },
}
#: How stored names begin, as transformers 5 writes them and 4 did, and ours.
PREFIXES = {
    "model.language_model.": "model.",
    "model.visual.": "visual.",
}
#: Of the tower's names and ours.
TOWER = {
    "visual.patch_embed.proj.": "vision_tower.embeddings.patch_embedding.",
    "visual.blocks.": "vision_tower.encoder.layers.",
    "visual.merger.ln_q.": "downsampler.norm.",
    "visual.merger.mlp.0.": "projector.linear_1.",
    "visual.merger.mlp.2.": "projector.linear_2.",
}
PARTS = {
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    ".attn.proj.": ".self_attn.out_proj.",
    ".attn.qkv.": ".self_attn.qkv.",
}
#: The kernel of a film's moments, of which a picture has two alike.
SUMMED = {"vision_tower.embeddings.patch_embedding.weight": 2}


def read(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A ``config.json`` of a Qwen2_5_VLConfig.

    :raises CheckpointError: naming the key whose value is something else than what is computed here
    """
    vision = {**VISION_DEFAULTS, **(section(raw, "vision_config") or {})}
    text = decoder(raw, "qwen2", TEXT_DEFAULTS)
    check_only(vision, "out_hidden_size", text["hidden_size"], "vision_config")
    return {
        **SEEN,
        "model_type": raw.get("model_type"),
        "text_config": text,
        "vision_config": {
            **tower(vision),
            "layer_norm": "rms",
            "gated_mlp": True,
            "window": _window(vision),
            "full_layers": vision["fullatt_block_indexes"],
        },
        "downsample_ratio": vision["spatial_merge_size"],
        "image_token_id": raw.get("image_token_id", IMAGE_TOKEN_ID),
    }


def decoder(
    raw: Mapping[str, Any], kind: str, defaults: Mapping[str, Any], sections: Any = tuple(SECTIONS)
) -> dict[str, Any]:
    """The keys of a decoder of this ``kind``, which stand at the top or in a text_config, with its positions' axes."""
    given = section(raw, "text_config")
    inner = {key: value for key, value in raw.items() if key != "vision_config"} if given is None else given
    text = {**defaults, **inner, "model_type": kind}
    text["tie_word_embeddings"] = bool(raw.get("tie_word_embeddings")) or bool(inner.get("tie_word_embeddings"))
    rope = dict(section(text, "rope_scaling") or section(text, "rope_parameters") or {})
    text["mrope_section"] = rope.pop("mrope_section", list(sections))
    text["mrope_interleaved"] = bool(rope.pop("mrope_interleaved", False))
    for key in ("type", "rope_type"):
        if rope.get(key) == "mrope":
            rope[key] = "default"
    rope.setdefault("rope_theta", text.get("rope_theta", THETA))
    return {**text, "rope_theta": rope["rope_theta"], "rope_scaling": rope, "rope_parameters": None}


def tower(vision: Mapping[str, Any]) -> dict[str, Any]:
    """A Qwen-VL's tower with the keys of :class:`~pocketvlm.models.config.VisionConfig`."""
    check_only(vision, "temporal_patch_size", 2, "vision_config")
    rope = section(vision, "rope_parameters") or {}
    check_only(rope, "rope_type", "axial", "vision_config.rope_parameters")
    patch, merged = vision["patch_size"], vision["spatial_merge_size"]
    if type(patch) is not int or type(merged) is not int:
        raise CheckpointError(f"vision_config.patch_size: {one_line(repr(patch), 60)} is no number of pixels")
    return {
        **{key: vision[key] for key in ("hidden_size", "intermediate_size", "hidden_act")},
        "num_channels": vision["in_channels"],
        "num_hidden_layers": vision["depth"],
        "num_attention_heads": vision["num_heads"],
        "patch_size": patch,
        "image_size": patch * merged,
        "layer_norm_eps": 1e-6,
        "positions": "none",
        "patch_bias": False,
        "post_norm": False,
        "axial_theta": rope.get("rope_theta", 10000.0),
    }


def _window(vision: Mapping[str, Any]) -> int:
    """Tiles along a side of a window."""
    size, tile = vision["window_size"], vision["patch_size"] * vision["spatial_merge_size"]
    if type(size) is not int or size < tile:
        raise CheckpointError(f"vision_config.window_size is {one_line(repr(size), 60)}, less than a token's {tile} px")
    return int(size // tile)


def rename(key: str) -> str | None:
    """Our name for a stored tensor."""
    name = renamed(renamed(key, PREFIXES), TOWER)
    if name.startswith("vision_tower."):
        for theirs, ours in PARTS.items():
            name = name.replace(theirs, ours)
    return without_rope_tables(name)


def fused(config: Any) -> Mapping[str, Mapping[str, Pieces]]:
    """The tower's queries, keys and values lie in one matrix."""
    return {"self_attn.qkv.": one_behind_another("self_attn.", config.vision.hidden_size)}


def stored(
    name: str, shape: tuple[int, ...], tower: Mapping[str, str] = MappingProxyType(TOWER)
) -> tuple[str, tuple[int, ...]] | None:
    """What a checkpoint of transformers 5 calls one of our weights, and its shape there; None: it lies in another's.

    ``tower``: a family's names of the tower, and ours.
    """
    if ".self_attn." in name and name.startswith("vision_tower."):
        if ".k_proj." in name or ".v_proj." in name:
            return None
        if ".q_proj." in name:  # which all three have behind one another
            name, shape = name.replace(".q_proj.", ".qkv."), (3 * shape[0], *shape[1:])
    if name in SUMMED:
        shape = (*shape[:2], 2, *shape[2:])
    if name.startswith("vision_tower."):
        for theirs, ours in PARTS.items():
            name = name.replace(ours, theirs)
    named = renamed(name, {ours: theirs for theirs, ours in tower.items()})
    return renamed(named, {ours: theirs for theirs, ours in PREFIXES.items()}), shape


FAMILY = Family("qwen2_5_vl", rename=rename, fused=fused, read=read, processor="qwen2_vl", summed=SUMMED)
