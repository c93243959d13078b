"""InternVL 3 and 3.5 as transformers has them (arXiv 2504.10479, 2508.18265): InternViT, 2x2 tokens to one, a decoder.

Names, defaults and layout as in transformers' ``models/internvl``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.images.rules import internvl
from pocketvlm.models.families.family import Family, check_only, layers_up_to, renamed, section, without_rope_tables

#: InternVLVisionConfig's, for keys that a vision_config may leave out.
VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 448,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "attention_bias": False,
    "use_qk_norm": False,
    "norm_type": "layer_norm",
    "use_mean_pooling": True,
}
NORMS = {"layer_norm": "mean", "rms_norm": "rms"}
IMAGE_TOKEN_ID = 151667
START, IMAGE, END = "<img>", "<IMG_CONTEXT>", "</img>"
#: What a picture is to an InternVL of any age, beside its tower and decoder.
SEEN = {
    "projector": "normed_mlp",
    "image_token": IMAGE,
    "image_in_template": IMAGE,
    "image_layout": {"image_start": START, "image_end": END},
}
#: The processor's own, where nobody asks it.
TILING = {
    "strategy": "internvl",
    "candidates": internvl.grids(1, 12),
    "thumbnail": "last",
    "thumbnail_of_single_tile": False,
}
#: How stored names begin, as transformers 5 writes them, and ours.
PREFIXES = {
    "model.language_model.": "model.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.layer_norm.": "downsampler.norm.",
    "model.multi_modal_projector.": "projector.",
}
#: The same as transformers 4 wrote them, where the tower's were ours.
FORMER = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "multi_modal_projector.layer_norm.": "downsampler.norm.",
    "multi_modal_projector.": "projector.",
}
#: Parts of the tower's names behind that, in this order.
PARTS = {
    "vision_tower.embeddings.cls_token": "vision_tower.embeddings.class_token.weight",
    "vision_tower.embeddings.position_embeddings": "vision_tower.embeddings.position_embedding.weight",
    "vision_tower.embeddings.patch_embeddings.projection.": "vision_tower.embeddings.patch_embedding.",
    "vision_tower.encoder.layer.": "vision_tower.encoder.layers.",
    "vision_tower.layernorm.": "vision_tower.post_layernorm.",
    ".attention.projection_layer.": ".self_attn.out_proj.",
    ".attention.": ".self_attn.",
    ".layernorm_before.": ".layer_norm1.",
    ".layernorm_after.": ".layer_norm2.",
    ".lambda_1": ".attention_scale.weight",
    ".lambda_2": ".mlp_scale.weight",
}


#: What is stored with axes of a batch in front.
BATCHED = {
    "vision_tower.embeddings.class_token.weight": (1, 1),
    "vision_tower.embeddings.position_embedding.weight": (1,),
}


def read(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A ``config.json`` of an InternVLConfig.

    :raises CheckpointError: a section is no object, or naming a key that asks for what is not computed
    """
    vision = {**VISION_DEFAULTS, **(section(raw, "vision_config") or {})}
    text = {"model_type": "qwen2", **(section(raw, "text_config") or {})}
    check_only(raw, "projector_hidden_act", "gelu")
    check_only(raw, "vision_feature_select_strategy", "default")
    check_only(vision, "use_absolute_position_embeddings", True, "vision_config")
    if vision["use_qk_norm"]:  # whose epsilon is a constant there
        check_only(vision, "layer_norm_eps", 1e-6, "vision_config")
    feature = raw.get("vision_feature_layer", -1)
    return {
        **SEEN,
        "model_type": raw.get("model_type"),
        "text_config": {**text, "tie_word_embeddings": raw.get("tie_word_embeddings", True)},
        "vision_config": {
            **tower(vision, feature, "vision_feature_layer"),
            "post_norm": not vision["use_mean_pooling"] and feature == -1,
        },
        "downsample_ratio": tokens_along(raw.get("downsample_ratio", 0.5)),
        "image_token_id": raw.get("image_token_id", IMAGE_TOKEN_ID),
        "tiling": TILING,
    }


def tower(vision: Mapping[str, Any], feature: Any, key: str) -> dict[str, Any]:
    """An InternViT with the keys of :class:`~pocketvlm.models.config.VisionConfig`, up to what ``key`` takes of it."""
    norm = NORMS.get(str(vision["norm_type"]))
    if norm is None:
        kind = one_line(repr(vision["norm_type"]), 60)
        raise CheckpointError(f"vision_config.norm_type is {kind}; what is supported is {', '.join(NORMS)}")
    own = ("hidden_size", "intermediate_size", "num_attention_heads", "hidden_act", "layer_norm_eps", "num_channels")
    return {
        **{name: vision[name] for name in own if name in vision},
        **{name: _side(vision[name]) for name in ("image_size", "patch_size")},
        **layers_up_to(vision["num_hidden_layers"], feature, key),
        "class_token": True,
        "post_norm": False,
        "qkv_bias": vision["attention_bias"],
        "qk_norm": vision["use_qk_norm"],
        "layer_norm": norm,
        "layer_scale": True,
    }


def _side(size: Any) -> Any:
    """Of a square that two numbers may say."""
    return size[0] if isinstance(size, list) and len(size) == 2 and size[0] == size[1] else size


def tokens_along(ratio: Any) -> int:
    """How many tokens along one side become one: 2 of a ``downsample_ratio`` of 0.5.

    :raises CheckpointError: no whole number
    """
    if type(ratio) not in (int, float) or not 1 / 64 <= ratio <= 1 or not (1 / ratio).is_integer():
        raise CheckpointError(f"downsample_ratio is {one_line(repr(ratio), 60)}, expected 1 by one of 1 to 64")
    return round(1 / ratio)


def rename(key: str) -> str | None:
    """Our name for a stored tensor."""
    if key.endswith("vision_tower.embeddings.mask_token"):  # of the tower's own training
        return None
    name = renamed(key, PREFIXES | FORMER)
    if name.startswith("vision_tower."):
        for theirs, ours in PARTS.items():
            name = name.replace(theirs, ours)
    return without_rope_tables(name)


def stored(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """What a checkpoint calls one of our weights, and its shape there."""
    batch = BATCHED.get(name, ())
    if name.startswith("vision_tower."):
        for theirs, ours in PARTS.items():
            name = name.replace(ours, theirs)
    return renamed(name, {ours: theirs for theirs, ours in PREFIXES.items()}), (*batch, *shape)


FAMILY = Family("internvl", rename=rename, read=read, processor="got_ocr2")
