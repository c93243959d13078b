"""Qwen3.5 (Qwen Team, 2026): the tower of Qwen3-VL without rows for later layers, and a decoder most of whose layers
keep a state.

Names, defaults and computation as in transformers' ``models/qwen3_5``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm.models.families import qwen2_5_vl, qwen3_5_text, qwen3_vl
from pocketvlm.models.families.family import Family, Pieces, check_only, renamed, section

TEXT_DEFAULTS = {key: value for key, value in qwen3_5_text.KEYS.items() if value is not None}
#: Qwen3_5VisionConfig's, for keys that a config may leave out.
VISION_DEFAULTS = {**qwen3_vl.VISION_DEFAULTS, "deepstack_visual_indexes": []}
SECTIONS = [11, 11, 10]
IMAGE_TOKEN_ID = 248056
#: Of the tower's names and ours, beside those of Qwen2.5-VL.
TOWER = {
    "visual.pos_embed.": "vision_tower.embeddings.position_embedding.",
    "visual.merger.norm.": "downsampler.norm.",
    "visual.merger.linear_fc": "projector.linear_",
}


def read(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A ``config.json`` of a Qwen3_5Config.

    :raises CheckpointError: naming the key whose value is something else than what is computed here
    """
    vision = {**VISION_DEFAULTS, **(section(raw, "vision_config") or {})}
    text = qwen2_5_vl.decoder(raw, "qwen3_5_text", TEXT_DEFAULTS, SECTIONS)
    check_only(vision, "out_hidden_size", text["hidden_size"], "vision_config")
    check_only(vision, "deepstack_visual_indexes", [], "vision_config")
    return {
        **qwen2_5_vl.SEEN,
        "model_type": raw.get("model_type"),
        "text_config": {**text, "mrope_interleaved": True},
        "vision_config": qwen3_vl.tower(vision),
        "downsample_ratio": vision["spatial_merge_size"],
        "image_token_id": raw.get("image_token_id", IMAGE_TOKEN_ID),
        "tiling": qwen3_vl.TILING,
    }


def rename(key: str) -> str | None:
    """Our name for a stored tensor."""
    name = renamed(renamed(key, qwen2_5_vl.PREFIXES), TOWER)
    return qwen3_vl.rename(name) if name.startswith("visual.") else qwen3_5_text.rename(name)


def fused(config: Any) -> Mapping[str, Mapping[str, Pieces]]:
    """The tower's queries, keys and values lie in one matrix, and what the decoder has."""
    return {**qwen2_5_vl.fused(config), **qwen3_5_text.fused(config)}


def stored(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]] | None:
    """What a checkpoint of transformers 5 calls one of our weights, and its shape there; None: it lies in another's."""
    if name.startswith("vision_tower."):
        for theirs, ours in qwen3_vl.PARTS.items():
            name = name.replace(ours, theirs)
    elif name.startswith("model."):
        known = qwen3_5_text.stored(name, shape)
        if known is None:
            return None
        name, shape = known
    others = {theirs: ours for theirs, ours in qwen2_5_vl.TOWER.items() if not theirs.startswith("visual.merger.")}
    return qwen2_5_vl.stored(name, shape, {**others, **TOWER})


FAMILY = Family(
    "qwen3_5",
    rename=rename,
    fused=fused,
    read=read,
    processor="qwen2_vl",
    summed=qwen2_5_vl.SUMMED,
    is_less_one=qwen3_5_text.is_less_one,
)
