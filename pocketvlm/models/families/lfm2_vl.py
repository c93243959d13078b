"""LFM2-VL (arXiv 2511.23404): SigLIP 2 on pictures in their own resolution, large ones in parts, and LFM2.

Names, defaults and computation as in transformers' ``models/lfm2_vl`` and ``models/siglip2``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.images.rules import lfm2 as rule
from pocketvlm.models.families import lfm2
from pocketvlm.models.families.family import SIGLIP_DEFAULTS, Family, check_only, renamed, section

#: Siglip2VisionConfig's, for keys that a vision_config may leave out.
VISION_DEFAULTS: dict[str, Any] = {
    **{key: value for key, value in SIGLIP_DEFAULTS.items() if key != "image_size"},
    "num_channels": 3,
    "num_patches": 256,
}
#: How stored names begin, as transformers 5 writes them, and ours.
SEEING = {
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.layer_norm.": "downsampler.norm.",
    "model.multi_modal_projector.": "projector.",
}
PREFIXES = {"model.language_model.": "model.", "model.vision_tower.vision_model.": "vision_tower.", **SEEING}
LAYOUT = {
    "image_start": "<|image_start|>",
    "tile": "<|img_row_{row}_col_{column}|>",
    "thumbnail": "<|img_thumbnail|>",
    "image_end": "<|image_end|>",
    "lone": "",
}


def read(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A ``config.json`` of a Lfm2VlConfig.

    :raises CheckpointError: naming the key whose value is something else than what is computed here
    """
    vision = {**VISION_DEFAULTS, **(section(raw, "vision_config") or {})}
    text = dict(section(raw, "text_config") or {})
    ratio, patch = raw.get("downsample_factor", 2), vision["patch_size"]
    check_only(vision, "num_channels", 3, "vision_config")
    check_only(vision, "model_type", "siglip2_vision_model", "vision_config")
    for key, wanted in (("projector_hidden_act", "gelu"), ("projector_bias", True)):
        check_only(raw, key, wanted)
    normed = raw.get("projector_use_layernorm", True)
    if type(normed) is not bool:
        raise CheckpointError(f"projector_use_layernorm is {one_line(repr(normed), 60)}, expected true or false")
    for key in ("tie_word_embeddings", "tie_embedding"):
        if key in raw:
            text.setdefault("tie_embedding", raw[key])
    whole = type(ratio) is int and type(patch) is int and 0 < ratio * patch <= 4096  # else the schema refuses
    tile = ratio * patch if whole else patch
    return {
        "model_type": raw.get("model_type"),
        "text_config": {**text, "model_type": "lfm2"},
        "vision_config": {
            **{key: value for key, value in vision.items() if key != "model_type"},
            "image_size": tile,
            "positions": "stretched",
            "table_side": _side(vision),
            "table_resized": True,
        },
        "projector": "normed_mlp" if normed else "blocks_mlp",
        "projector_size": raw.get("projector_hidden_size", 2560),
        "downsample_ratio": ratio,
        "image_token": "<image>",
        "image_token_id": raw.get("image_token_id", 396),
        "image_in_template": "<image>",
        "image_layout": LAYOUT,
        # as the processor has it where nobody asks it
        "tiling": {
            "strategy": "lfm2",
            "candidates": rule.grids(2, 10),
            "part": max(512 // tile, 1) if whole else 16,
            "thumbnail": "last",
            "thumbnail_of_single_tile": False,
            "min_pixels": 64 * tile**2 if whole else None,
            "max_pixels": 256 * tile**2 if whole else None,
        },
    }


def _side(vision: Mapping[str, Any]) -> int:
    """Of the square that the table of positions is."""
    rows = vision["num_patches"]
    if type(rows) is not int or rows < 1 or math.isqrt(rows) ** 2 != rows:
        raise CheckpointError(f"vision_config.num_patches is {one_line(repr(rows), 60)}, no square")
    return math.isqrt(rows)


def rename(key: str) -> str | None:
    """Our name for a stored tensor; a tower may have a head, which nothing here reads."""
    name = renamed(key, PREFIXES)
    if name.startswith("vision_tower."):
        return None if name.startswith("vision_tower.head.") else name
    return lfm2.rename(name)


def stored(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """What a checkpoint of transformers 5 calls one of our weights, and its shape there."""
    if name == "vision_tower.embeddings.patch_embedding.weight":
        return f"model.{name}", (shape[0], math.prod(shape[1:]))
    for theirs, ours in SEEING.items():
        if name.startswith(ours):
            return f"{theirs}{name.removeprefix(ours)}", shape
    text, shape = lfm2.stored(name, shape)
    return renamed(text, {"model.": "model.language_model."}), shape


FAMILY = Family(
    "lfm2_vl",
    rename=rename,
    read=read,
    processor="lfm2_vl",
    channels_last=frozenset({"vision_tower.embeddings.patch_embedding.weight"}),
)
