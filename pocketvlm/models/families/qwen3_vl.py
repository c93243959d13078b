"""Qwen3-VL (arXiv 2511.21631): a learned table of positions laid over the picture, rows for the first decoder layers
(DeepStack), and Qwen3 whose three axes lie between one another.

Names, defaults and computation as in transformers' ``models/qwen3_vl``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.models.families import qwen2_5_vl
from pocketvlm.models.families.family import Family, check_only, renamed, section, without_rope_tables

#: Qwen3VLTextConfig's, for keys that a config may leave out.
TEXT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
    "rope_theta": 500000.0,
}
#: Qwen3VLVisionConfig's.
VISION_DEFAULTS: dict[str, Any] = {
    "depth": 27,
    "hidden_size": 1152,
    "hidden_act": "gelu_pytorch_tanh",
    "intermediate_size": 4304,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 3584,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [8, 16, 24],
}
SECTIONS = [24, 20, 20]
TILING = {**qwen2_5_vl.SEEN["tiling"], "min_pixels": 256 * 256, "max_pixels": 4096 * 4096}
#: Of the tower's names and ours, beside those of Qwen2.5-VL.
TOWER = {
    "visual.pos_embed.": "vision_tower.embeddings.position_embedding.",
    "visual.merger.norm.": "projector.downsampler.norm.",
    "visual.merger.linear_fc": "projector.mlp.linear_",
}
PARTS = {".mlp.linear_fc1.": ".mlp.fc1.", ".mlp.linear_fc2.": ".mlp.fc2."}
MERGERS = "visual.deepstack_merger_list."


def read(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A ``config.json`` of a Qwen3VLConfig.

    :raises CheckpointError: naming the key whose value is something else than what is computed here
    """
    vision = {**VISION_DEFAULTS, **(section(raw, "vision_config") or {})}
    text = qwen2_5_vl.decoder(raw, "qwen3", TEXT_DEFAULTS, SECTIONS)
    check_only(vision, "out_hidden_size", text["hidden_size"], "vision_config")
    deep = vision["deepstack_visual_indexes"]
    if not isinstance(deep, list) or not deep or not all(type(index) is int for index in deep):
        shown = one_line(repr(deep), 60)
        raise CheckpointError(f"vision_config.deepstack_visual_indexes is {shown}, expected layers of the tower")
    return {
        **qwen2_5_vl.SEEN,
        "model_type": raw.get("model_type"),
        "text_config": {**text, "mrope_interleaved": True, "deep_layers": len(deep)},
        "vision_config": {**tower(vision), "deep": [index + 1 for index in deep]},
        "downsample_ratio": vision["spatial_merge_size"],
        "image_token_id": raw.get("image_token_id", qwen2_5_vl.IMAGE_TOKEN_ID),
        "tiling": TILING,
    }


def tower(vision: Mapping[str, Any]) -> dict[str, Any]:
    """Its keys as :class:`~pocketvlm.models.config.VisionConfig` has them, without rows for later layers."""
    own = {"patch_bias": True, "positions": "stretched", "table_side": _side(vision)}
    return {**qwen2_5_vl.tower(vision), **own}


def _side(vision: Mapping[str, Any]) -> int:
    """Of the square that the table of positions is."""
    rows = vision["num_position_embeddings"]
    if type(rows) is not int or rows < 1 or math.isqrt(rows) ** 2 != rows:
        shown = one_line(repr(rows), 60)
        raise CheckpointError(f"vision_config.num_position_embeddings is {shown}, no square")
    return math.isqrt(rows)


def rename(key: str) -> str | None:
    """Our name for a stored tensor."""
    name = renamed(key, qwen2_5_vl.PREFIXES)
    if name.startswith(MERGERS):
        place, _, part = name.removeprefix(MERGERS).partition(".")
        if part.startswith("norm."):
            return f"projector.norms.{place}.{part.removeprefix('norm.')}"
        return f"projector.mlps.{place}.{part.replace('linear_fc', 'linear_')}"
    name = renamed(renamed(name, TOWER), qwen2_5_vl.TOWER)
    if name.startswith("vision_tower."):
        for theirs, ours in {**qwen2_5_vl.PARTS, **PARTS}.items():
            name = name.replace(theirs, ours)
    return without_rope_tables(name)


def stored(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]] | None:
    """What a checkpoint of transformers 5 calls one of our weights, and its shape there; None: it lies in another's."""
    kind, _, place = name.partition(".")[2].partition(".")
    if kind in ("norms", "mlps"):
        place, _, part = place.partition(".")
        part = f"norm.{part}" if kind == "norms" else part.replace("linear_", "linear_fc")
        return f"model.{MERGERS}{place}.{part}", shape
    if name.startswith("vision_tower."):
        for theirs, ours in PARTS.items():
            name = name.replace(ours, theirs)
    return qwen2_5_vl.stored(name, shape, {**qwen2_5_vl.TOWER, **TOWER})


FAMILY = Family(
    "qwen3_vl",
    rename=rename,
    fused=qwen2_5_vl.fused,
    read=read,
    processor="qwen2_vl",
    summed=qwen2_5_vl.SUMMED,
)
