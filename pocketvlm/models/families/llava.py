"""LLaVA 1.5 (arXiv 2310.03744): CLIP up to some layer, two layers on each of its patches, a decoder; and what its heirs
share with it.

Names, defaults and computation as in transformers' ``models/llava``, ``llava_next`` and ``llava_onevision``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.models.families.family import (
    SIGLIP_DEFAULTS,
    Family,
    check_only,
    layers_up_to,
    renamed,
    section,
    without_rope_tables,
)

#: Of the stored names and ours; what a name begins with, the first that fits: of transformers 5, of 4, and our own.
PREFIXES = {
    "model.language_model.": "model.",
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "projector.",
    "multi_modal_projector.": "projector.",
    "model.image_newline": "image_newline",
}
#: Of CLIP's names and ours, behind ``vision_tower``, where transformers 4 has ``vision_model`` between.
TOWER = {
    "vision_tower.vision_model.": "vision_tower.",
}
CLIP = {
    "vision_tower.pre_layrnorm.": "vision_tower.embeddings.pre_layernorm.",
    "vision_tower.embeddings.class_embedding": "vision_tower.embeddings.class_token.weight",
}
#: Of a whole tower: what pools a picture, and a buffer.
UNUSED = ("vision_tower.head.", "vision_tower.embeddings.position_ids")
#: What only processors write, where the tile's own tokens stand.
IMAGE_TOKEN = "<image>"
#: transformers' CLIPVisionConfig, for keys that a vision_config may leave out, and what is CLIP's whatever they say.
CLIP_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
CLIP_OWN = {"class_token": True, "patch_bias": False, "pre_norm": True}
#: Each tower's defaults, what is its own, and whether its first row is a class token, which LLaVA leaves out.
TOWERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "siglip_vision_model": (SIGLIP_DEFAULTS, {}, "full"),
    "clip_vision_model": (CLIP_DEFAULTS, CLIP_OWN, "default"),
}
#: LlavaConfig's and LlavaNextConfig's, where a section is not given at all.
VISION: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "patch_size": 14,
    "image_size": 336,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
IMAGE_TOKEN_ID = 32000


def read_shared(
    raw: Mapping[str, Any], vision: Mapping[str, Any], decoder: str, layer: int, strategy: str
) -> dict[str, Any]:
    """A ``config.json`` with our keys, but for how pictures are cut.

    ``vision``: what stands for a section that is not given; ``decoder``: a text_config's model_type there; ``layer``
    and ``strategy``: for a vision_feature_layer and a vision_feature_select_strategy.

    :raises CheckpointError: naming the key whose value is something else than what is computed here
    """
    if "mm_vision_tower" in raw:  # what has neither section, but is no LlavaConfig of defaults alone
        raise CheckpointError(
            "mm_vision_tower: a checkpoint in LLaVA's own format; take its conversion to transformers' (llava-hf/...)"
        )
    tower, text = section(raw, "vision_config"), section(raw, "text_config")
    text = {"model_type": decoder} if text is None else {"model_type": "llama", **text}
    # The outer config's where it is true, else the decoder's; a stored head that differs decides against either.
    tied = bool(raw.get("tie_word_embeddings")) or bool(text.get("tie_word_embeddings"))
    check_only(raw, "projector_hidden_act", "gelu")
    check_only(raw, "multimodal_projector_bias", True)
    taken = raw.get("vision_feature_layer", layer), raw.get("vision_feature_select_strategy", strategy)
    return {
        "model_type": raw.get("model_type"),
        # (their class has a head of its own, which divides by nothing; Granite's alone does)
        "text_config": {**text, "tie_word_embeddings": tied, "logits_scaling": 1.0},
        "vision_config": _tower(vision if tower is None else tower, *taken),
        "projector": "layers",
        "downsample_ratio": 1,
        "image_token": IMAGE_TOKEN,
        "image_in_template": IMAGE_TOKEN,
    }


def read(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A ``config.json`` of a LlavaConfig.

    :raises CheckpointError: naming the key whose value is something else than what is computed here
    """
    return {
        **read_shared(raw, VISION, "llama", layer=-2, strategy="default"),
        "image_token_id": image_token_id(raw, IMAGE_TOKEN_ID),
        "tiling": {"strategy": "center-crop", "candidates": [[1, 1]], "thumbnail": "none"},
    }


def _tower(raw: Mapping[str, Any], feature: Any, strategy: Any) -> dict[str, Any]:
    """The tower up to the layer whose output is taken, or the last of several, before any norm behind them."""
    kind = raw.get("model_type", "siglip_vision_model")
    if kind not in TOWERS:
        shown = one_line(repr(kind), 60)
        raise CheckpointError(f"vision_config.model_type is {shown}; what is supported is {' or '.join(TOWERS)}")
    defaults, own, wanted = TOWERS[kind]
    # the class token is no patch, and without its first patch a tile is no grid
    check_only({"vision_feature_select_strategy": strategy}, "vision_feature_select_strategy", wanted)
    values = {**defaults, **raw, **own, "model_type": "siglip_vision_model", "post_norm": False}
    layers = values["num_hidden_layers"]
    each = feature if isinstance(feature, list) and feature else [feature]
    runs = [layers_up_to(layers, one, "vision_feature_layer") for one in each]
    last = min(runs, key=lambda run: run.get("unused_layers", 0))
    taken = {"taken": [run["num_hidden_layers"] for run in runs]} if len(runs) > 1 else {}
    return {**values, **last, **taken}


def grids(pinpoints: object, vision: Mapping[str, Any]) -> list[list[int]]:
    """``image_grid_pinpoints``, which are sizes (height, width) in pixels, as (across, down) in tiles.

    :raises CheckpointError: they are no sizes of whole tiles
    """
    tile = vision["image_size"]
    sizes = pinpoints if isinstance(pinpoints, list) else []
    whole = type(tile) is int and tile > 0 and bool(sizes)
    for size in sizes:
        whole = whole and isinstance(size, list) and len(size) == 2
        whole = whole and all(type(side) is int and side > 0 and side % tile == 0 for side in size)
    if not whole:
        shown = one_line(repr(pinpoints), 80)
        raise CheckpointError(f"image_grid_pinpoints: {shown} are not sizes of whole tiles of {one_line(tile, 40)} px")
    return [[width // tile, height // tile] for height, width in sizes]


def cut_and_packed(values: Mapping[str, Any], pinpoints: object, most_tiles: int | None) -> dict[str, Any]:
    """The same config with pictures that are cut into tiles and put together again.

    :raises CheckpointError: they are no sizes of whole tiles
    """
    candidates = grids(pinpoints, values["vision_config"])
    tiling = {"strategy": "llava-next", "candidates": candidates, "pad_color": [0, 0, 0]}
    return {**values, "tiling": tiling, "packing": {"most_tiles": most_tiles}}


def image_token_id(raw: Mapping[str, Any], default: int) -> Any:
    """By its name of transformers 4, which 5 writes too, or by its other one."""
    return raw.get("image_token_index", raw.get("image_token_id", default))


def rename(key: str) -> str | None:
    """Our name for a stored tensor."""
    name = renamed(renamed(renamed(key, PREFIXES), TOWER), CLIP)
    return None if name.startswith(UNUSED) else without_rope_tables(name)


def stored(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """What a checkpoint of transformers 5 calls one of our weights, and its shape there."""
    named = renamed(name, {ours: theirs for theirs, ours in CLIP.items()})
    return renamed(named, {ours: theirs for theirs, ours in PREFIXES.items() if theirs.startswith("model.")}), shape


FAMILY = Family("llava", rename=rename, read=read, processor="llava")
