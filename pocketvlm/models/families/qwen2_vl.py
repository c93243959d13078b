"""Qwen2-VL (arXiv 2409.12191): pictures in their own resolution, all of whose patches see one another, and Qwen2.

Names, defaults and computation as in transformers' ``models/qwen2_vl``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm.models.families import qwen2_5_vl
from pocketvlm.models.families.family import Family, check_only, section

#: Qwen2VLVisionConfig's, for keys that a vision_config may leave out.
VISION_DEFAULTS: dict[str, Any] = {
    "depth": 32,
    "embed_dim": 1280,
    "hidden_size": 3584,
    "hidden_act": "quick_gelu",
    "mlp_ratio": 4,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}


def read(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A ``config.json`` of a Qwen2VLConfig, whose ``hidden_size`` of the tower is that of the tokens it gives.

    :raises CheckpointError: naming the key whose value is something else than what is computed here
    """
    vision = {**VISION_DEFAULTS, **(section(raw, "vision_config") or {})}
    text = qwen2_5_vl.decoder(raw, "qwen2", qwen2_5_vl.TEXT_DEFAULTS)
    check_only(vision, "hidden_size", text["hidden_size"], "vision_config")
    check_only(vision, "mlp_ratio", 4, "vision_config")
    width = vision["embed_dim"]
    inner = 4 * width if type(width) is int else width  # which the schema refuses
    return {
        **qwen2_5_vl.SEEN,
        "model_type": raw.get("model_type"),
        "text_config": text,
        "vision_config": qwen2_5_vl.tower({**vision, "hidden_size": width, "intermediate_size": inner}),
        "downsample_ratio": vision["spatial_merge_size"],
        "image_token_id": raw.get("image_token_id", qwen2_5_vl.IMAGE_TOKEN_ID),
    }


FAMILY = Family(
    "qwen2_vl",
    rename=qwen2_5_vl.rename,
    fused=qwen2_5_vl.fused,
    read=read,
    processor="qwen2_vl",
    summed=qwen2_5_vl.SUMMED,
)
