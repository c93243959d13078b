"""MiniCPM-V 2.6, 4 and 4.5 (arXiv 2408.01800, 2509.18154): SigLIP on slices of any size, a resampler, and Qwen2, Llama
or Qwen3.

transformers has no class of them: names and defaults are those of configuration_minicpm.py, modeling_navit_siglip.py,
resampler.py and processing_minicpmv.py, which their checkpoints come with and nothing here runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.images.rules import minicpmv as rule
from pocketvlm.models.families.family import (
    SIGLIP_DEFAULTS,
    Family,
    Pieces,
    check_only,
    layers_up_to,
    one_behind_another,
    renamed,
    section,
    without_rope_tables,
)

#: ``version`` -> the decoder, whose config stands at the top.
DECODERS = {"2.6": "qwen2", "4": "llama", "4.0": "llama", "4.5": "qwen3"}
#: What is known of others, and why they are not read.
OTHERS = {
    "2": "its tower is another",
    "2.5": "it gives patches positions along one row, and lets those that fill up a batch be seen",
    "4.6": "it has a model_type of its own, minicpmv4_6",
}
#: SigLIP so400m at 980 pixels.
TOWER: dict[str, Any] = {
    "hidden_size": 1152,
    "image_size": 980,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
}
#: MiniCPMVConfig's own vision_config.
VISION_DEFAULTS: dict[str, Any] = {**SIGLIP_DEFAULTS, **TOWER}
#: Channels of a resampler's head.
HEAD_WIDTH = 128
#: How stored names begin, and ours.
PREFIXES = {
    "llm.": "",
    "vpm.": "vision_tower.",
    "resampler.kv_proj.": "projector.kv_proj.",
    "resampler.ln_q.": "projector.q_norm.",
    "resampler.ln_kv.": "projector.kv_norm.",
    "resampler.ln_post.": "projector.norm.",
    "resampler.attn.in_proj_": "projector.in_proj.",
    "resampler.attn.out_proj.": "projector.out_proj.",
    "resampler.query": "projector.attend.weight",
    "resampler.proj": "projector.linear.weight",
}
IN_PROJ = ".in_proj."
#: What the code writes where an image stands, before the processor makes the layout of it.
IMAGE = "(<image>./</image>)"
#: Of the processor, with numbers or without.
LAYOUT = {
    "thumbnail": "<image>",
    "thumbnail_end": "</image>",
    "lone": "<image>",
    "tile": "<slice>",
    "tile_end": "</slice>",
    "row_end": "\n",
    "last_row_end": "",
}
NUMBER = "<image_id>{index}</image_id>"
#: Of slice_config and of the processor, where they say nothing.
MOST_SLICES, SIDE = 9, 448


def read(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A ``config.json`` of a MiniCPMVConfig.

    :raises CheckpointError: naming the key whose value is something else than what is computed here
    """
    vision = {**VISION_DEFAULTS, **(section(raw, "vision_config") or {})}
    slices = section(raw, "slice_config") or {}
    for key, wanted in (("slice_mode", True), ("batch_vision_input", True)):
        check_only(raw, key, wanted)
    width, patch = raw.get("hidden_size", 4096), vision["patch_size"]
    whole = type(width) is int and 0 < width <= 1 << 20  # else the schema refuses
    if whole and width % HEAD_WIDTH:
        raise CheckpointError(f"hidden_size is {width}; what is supported is a multiple of {HEAD_WIDTH}")
    is_last = raw.get("drop_vision_last_layer", True)
    if not isinstance(is_last, bool):
        raise CheckpointError(f"drop_vision_last_layer is {one_line(repr(is_last), 60)}, expected true or false")
    layers = layers_up_to(vision["num_hidden_layers"], -2 if is_last else -1, "drop_vision_last_layer")
    return {
        "model_type": raw.get("model_type"),
        "text_config": _decoder(raw),
        "vision_config": {
            **{key: value for key, value in vision.items() if key != "model_type"},
            **layers,
            "image_size": patch,
            "positions": "stretched",
            "table_side": side_of_table(vision),
            "table_bucketed": True,
            "queries": raw.get("query_num", 64),
            "query_width": width,
        },
        "projector": "resampler",
        "resampler_heads": width // HEAD_WIDTH if whole else None,
        "downsample_ratio": 1,
        "image_token": "<unk>",
        "image_in_template": IMAGE,
        "parts_joined_by": "\n",
        "image_layout": {**LAYOUT, "image_start": NUMBER if raw.get("use_image_id", True) else ""},
        "tiling": tiling(slices.get("max_slice_nums", MOST_SLICES), slices.get("scale_resolution", SIDE)),
    }


def tiling(slices: Any, side: Any) -> Mapping[str, Any]:
    """At most so many ``slices`` beside the whole, each of about as many pixels as a square of this ``side`` has.

    :raises CheckpointError: naming the one that is no such number
    """
    for key, number, most in (("max_slice_nums", slices, 40), ("scale_resolution", side, 1 << 12)):
        if type(number) is not int or not 0 < number <= most:
            raise CheckpointError(f"{key} is {one_line(repr(number), 60)}, expected a number from 1 to {most}")
    return {
        "strategy": "minicpmv",
        "candidates": rule.grids(slices),
        "thumbnail": "first",
        "thumbnail_of_single_tile": False,
        "min_pixels": side**2,
        "max_pixels": side**2,
    }


def _decoder(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    version = str(raw.get("version"))
    if version not in DECODERS:
        known = ", ".join(version for version in DECODERS if version != "4.0")
        why = next((f" ({why})" for other, why in OTHERS.items() if version in (other, f"{other}.0")), "")
        raise CheckpointError(f"version is {one_line(version, 60)}{why}; what is supported is {known}")
    own = {"version", "vision_config", "slice_config", "auto_map", "architectures", "model_type"}
    return {**{key: value for key, value in raw.items() if key not in own}, "model_type": DECODERS[version]}


def side_of_table(vision: Mapping[str, Any]) -> Any:
    """Of the table of positions: the patches along a side of what the tower was trained on."""
    pixels, patch = vision["image_size"], vision["patch_size"]
    return pixels // patch if type(pixels) is int and type(patch) is int and patch > 0 else pixels


def rename(key: str) -> str | None:
    """Our name for a stored tensor; a table of sines and cosines, which some have stored, follows from the width."""
    return None if key == "resampler.pos_embed" else without_rope_tables(renamed(key, PREFIXES))


def fused(config: Any) -> Mapping[str, Mapping[str, Pieces]]:
    """Queries, keys and values of the resampler's attention lie in one matrix."""
    return {IN_PROJ: one_behind_another(".", config.text.hidden_size)}


def stored(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]] | None:
    """What a checkpoint of its makers calls one of our weights, and its shape there; None: it lies in another's. What
    the queries take in as they are read has names too (``shapes.stored_shapes``)."""
    if name.startswith(("model.", "lm_head.")):
        return f"llm.{name}", shape
    if name.startswith(("projector.v_proj.", "projector.q_proj.")):
        return None
    if name.startswith("projector.k_proj."):
        name, shape = f"projector.in_proj.{name.removeprefix('projector.k_proj.')}", (3 * shape[0], *shape[1:])
    return renamed(name, {ours: theirs for theirs, ours in PREFIXES.items() if ours}), shape


FAMILY = Family(
    "minicpmv",
    rename=rename,
    fused=fused,
    read=read,
    processor="minicpmv",
    transposed=frozenset({"projector.linear.weight"}),
)
