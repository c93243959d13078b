"""Idefics3 (arXiv 2408.12637) and SmolVLM (arXiv 2504.05299): SigLIP, pixel shuffle, one matrix, a decoder.

Names, defaults and layout as in transformers' ``models/idefics3`` and ``models/smolvlm``, which compute the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm.images.rules import idefics3
from pocketvlm.models.families.family import Family, renamed, section, without_rope_tables

#: Idefics3VisionConfig's, for keys that a vision_config may leave out.
VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
#: Where no text_config is given at all.
TEXT_DEFAULTS: dict[str, Any] = {"model_type": "llama", "rms_norm_eps": 1e-5}
IMAGE_TOKEN_ID = 128257

FAKE, WHOLE = "<fake_token_around_image>", "<global-img>"
LAYOUT = {
    "lone": FAKE + WHOLE,
    "tile": FAKE + "<row_{row}_col_{column}>",
    "row_end": "\n",
    "last_row_end": "\n\n",
    "thumbnail": FAKE + WHOLE,
    "image_end": FAKE,
}
#: The processor's own, where nobody asks it: 4 tiles along the longer side.
TILING = {
    "strategy": "idefics3",
    "candidates": idefics3.grids(4),
    "thumbnail": "last",
    "thumbnail_of_single_tile": False,
}
#: Of the stored names, as both transformers 4 and 5 write them, and ours.
PREFIXES = {
    "model.vision_model.": "vision_tower.",
    "model.text_model.": "model.",
    "model.connector.modality_projection.proj.": "projector.linear.",
}


def read(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A ``config.json`` of an Idefics3Config or a SmolVLMConfig.

    :raises CheckpointError: a section is no object
    """
    vision, text = section(raw, "vision_config"), section(raw, "text_config")
    text = TEXT_DEFAULTS if text is None else text
    # Where the two disagree, the stored head decides: one that is not there is tied.
    tied = [config["tie_word_embeddings"] for config in (raw, text) if "tie_word_embeddings" in config]
    return {
        "model_type": raw.get("model_type"),
        "text_config": {"model_type": "llama", **text, "tie_word_embeddings": True in tied},
        # (transformers does not look at the vision_config's model_type)
        "vision_config": {
            **VISION_DEFAULTS,
            **(vision or {}),
            "model_type": "siglip_vision_model",
            "positions": "bucketized",
        },
        "projector": "matrix",
        "downsample_ratio": raw.get("scale_factor", 2),
        "image_token": "<image>",
        "image_token_id": raw.get("image_token_id", IMAGE_TOKEN_ID),
        "image_in_template": "<image>",
        "image_layout": LAYOUT,
        "tiling": TILING,
    }


def rename(key: str) -> str | None:
    """Our name for a stored tensor."""
    return without_rope_tables(renamed(key, PREFIXES))


def stored(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """What a checkpoint calls one of our weights, and its shape there."""
    return renamed(name, {ours: theirs for theirs, ours in PREFIXES.items()}), shape


FAMILY = Family("idefics3", rename=rename, read=read, processor="idefics3")
