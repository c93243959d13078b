"""MiniCPM-V 4.6 (OpenBMB, 2026): SigLIP on slices of any shape, whose patches become fewer inside the tower and behind
it, and Qwen3.5's decoder.

Names, defaults and computation as in transformers' ``models/minicpmv4_6``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.models.families import minicpmv, qwen3_5_text
from pocketvlm.models.families.family import SIGLIP_DEFAULTS, Family, Pieces, check_only, renamed, section

#: Patches along a side of what becomes one token: 2 x 2 inside the tower, and 2 x 2 of those behind it.
RATIO = 4
IMAGE_TOKEN = "<|image_pad|>"
#: How stored names begin, and ours.
PREFIXES = {
    "model.vision_tower.": "vision_tower.",
    "model.merger.mlp.0.pre_norm.": "downsampler.norm.",
    "model.merger.mlp.0.linear_": "projector.linear_",
}
#: What merges patches inside the tower; here it is a part of the layer that it stands behind.
MERGER, OURS = "vision_tower.vit_merger.", re.compile(r"^vision_tower\.encoder\.layers\.\d+\.merger\.")


def read(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A ``config.json`` of a MiniCPMV4_6Config.

    :raises CheckpointError: naming the key whose value is something else than what is computed here
    """
    vision = {**SIGLIP_DEFAULTS, **(section(raw, "vision_config") or {})}
    for key, wanted in (
        ("downsample_mode", "16x"),
        ("merge_kernel_size", [2, 2]),
        ("merger_times", 1),
        ("drop_vision_last_layer", False),
    ):
        check_only(raw, key, wanted)
    check_only(vision, "window_kernel_size", [2, 2], "vision_config")
    patch, width = vision["patch_size"], vision["hidden_size"]
    if type(patch) is not int or type(width) is not int:
        wrong = "patch_size" if type(patch) is not int else "hidden_size"
        raise CheckpointError(f"vision_config.{wrong} is {one_line(repr(vision[wrong]), 60)}, expected a number")
    own = ("model_type", "insert_layer_id", "window_kernel_size")
    return {
        "model_type": raw.get("model_type"),
        "text_config": _decoder(raw),
        "vision_config": {
            **{key: value for key, value in vision.items() if key not in own},
            "image_size": RATIO * patch,
            "positions": "stretched",
            "table_side": minicpmv.side_of_table(vision),
            "table_bucketed": True,
            "merge_after": _merge_after(raw.get("insert_layer_id", 6)),
        },
        "projector": "normed_mlp",
        "projector_size": 4 * width,
        "projector_eps": 1e-6,
        "downsample_ratio": RATIO,
        "image_token": IMAGE_TOKEN,
        "image_token_id": raw.get("image_token_id"),
        "image_in_template": IMAGE_TOKEN,
        "image_layout": {**minicpmv.LAYOUT, "image_start": minicpmv.NUMBER},
        "tiling": minicpmv.tiling(minicpmv.MOST_SLICES, minicpmv.SIDE),
    }


def _decoder(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Its positions are places: what Qwen3.5 says of axes is of its own pictures."""
    text = {"model_type": "qwen3_5_text", **(section(raw, "text_config") or {})}
    check_only(text, "model_type", "qwen3_5_text", "text_config")
    tied = bool(raw.get("tie_word_embeddings")) or bool(text.get("tie_word_embeddings"))
    return {**text, "tie_word_embeddings": tied, "mrope_section": None}


def _merge_after(index: Any) -> int:
    """The layer behind which patches are merged, counted from 1; the config counts from 0."""
    if type(index) is not int or not 0 <= index < 4096:
        raise CheckpointError(f"insert_layer_id is {one_line(repr(index), 60)}, expected the index of a layer")
    return index + 1


def rename(key: str) -> str | None:
    """Our name for a stored tensor, but for the layer that what merges patches is in (``fused``)."""
    return qwen3_5_text.rename(renamed(key, PREFIXES))


def fused(config: Any) -> Mapping[str, Mapping[str, Pieces]]:
    """What the decoder has, and where what merges patches stands."""
    width, inner = config.vision.hidden_size, 4 * config.vision.intermediate_size
    ours = f"vision_tower.encoder.layers.{config.vision.merge_after - 1}.merger."
    rows = {
        "layer_norm1.": width,
        **{f"self_attn.{name}_proj.": width for name in ("q", "k", "v", "out")},
        "pre_norm.": 4 * width,
        "linear_1.": inner,
        "linear_2.": width,
    }
    merger = {MERGER + part: {ours + part: Pieces(1, size, 0, size)} for part, size in rows.items()}
    return {**merger, **qwen3_5_text.fused(config)}


def stored(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]] | None:
    """What a checkpoint of transformers 5 calls one of our weights, and its shape there; None: it lies in another's."""
    if not name.startswith("model."):
        return renamed(OURS.sub(MERGER, name), {ours: theirs for theirs, ours in PREFIXES.items()}), shape
    known = qwen3_5_text.stored(name, shape)
    return None if known is None else (renamed(known[0], {"model.": "model.language_model."}), known[1])


FAMILY = Family(
    "minicpmv4_6",
    rename=rename,
    fused=fused,
    read=read,
    processor="minicpmv4_6",
    is_less_one=qwen3_5_text.is_less_one,
)
