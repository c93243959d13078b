"""What the LLaVA families share: a tower up to some layer, two layers on each of its patches, a decoder.

Names, defaults and computation as in transformers' ``models/llava_next`` and ``models/llava_onevision``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.models.families.family import (
    SIGLIP_DEFAULTS,
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
#: What only processors write, where the tile's own tokens stand.
IMAGE_TOKEN = "<image>"


def read(raw: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any], layer: int) -> dict[str, Any]:
    """A ``config.json`` with our keys, but for how pictures are cut.

    ``vision`` and ``text``: what stands for a section that is not given; ``layer``: for a vision_feature_layer.

    :raises CheckpointError: naming the key whose value is something else than what is computed here
    """
    given = {name: section(raw, name) for name in ("vision_config", "text_config")}
    decoder = {**(text if given["text_config"] is None else {"model_type": "llama", **given["text_config"]})}
    # The outer config's where it is true, else the decoder's; a stored head that differs decides against either.
    tied = bool(raw.get("tie_word_embeddings")) or bool(decoder.get("tie_word_embeddings"))
    check_only(raw, "projector_hidden_act", "gelu")
    check_only(raw, "multimodal_projector_bias", True)
    return {
        "model_type": raw.get("model_type"),
        "text_config": {**decoder, "tie_word_embeddings": tied},
        "vision_config": _tower(vision if given["vision_config"] is None else given["vision_config"], raw, layer),
        "projector": "layers",
        "downsample_ratio": 1,
        "image_token": IMAGE_TOKEN,
        "image_in_template": IMAGE_TOKEN,
    }


def _tower(vision: Mapping[str, Any], raw: Mapping[str, Any], layer: int) -> dict[str, Any]:
    """The tower up to the layer whose output is taken, before any norm behind the last."""
    check_only(vision, "model_type", "siglip_vision_model", "vision_config")
    check_only(raw, "vision_feature_select_strategy", "full")  # without its first row a tile is no grid
    layers = vision.get("num_hidden_layers", SIGLIP_DEFAULTS["num_hidden_layers"])
    taken = layers_up_to(layers, raw.get("vision_feature_layer", layer), "vision_feature_layer")
    return {**vision, **taken, "post_norm": False}


def grids(pinpoints: object, vision: Mapping[str, Any]) -> list[list[int]]:
    """``image_grid_pinpoints``, which are sizes (height, width) in pixels, as (across, down) in tiles.

    :raises CheckpointError: they are no sizes of whole tiles
    """
    tile = vision.get("image_size", SIGLIP_DEFAULTS["image_size"])
    sizes = pinpoints if isinstance(pinpoints, list) else []
    whole = type(tile) is int and tile > 0 and bool(sizes)
    for size in sizes:
        whole = whole and isinstance(size, list) and len(size) == 2
        whole = whole and all(type(side) is int and side > 0 and side % tile == 0 for side in size)
    if not whole:
        shown = one_line(repr(pinpoints), 80)
        raise CheckpointError(f"image_grid_pinpoints: {shown} are not sizes of whole tiles of {one_line(tile, 40)} px")
    return [[width // tile, height // tile] for height, width in sizes]


def rename(key: str) -> str | None:
    """Our name for a stored tensor."""
    name = renamed(key, PREFIXES)
    name = name.replace("vision_tower.vision_model.", "vision_tower.", 1)
    # of SigLIP: what pools a whole picture, which nothing here asks for
    return None if name.startswith("vision_tower.head.") else without_rope_tables(name)
