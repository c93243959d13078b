"""FastVLM (arXiv 2412.13303) as transformers has it: FastViTHD, two layers on each point of its last map, Qwen2.

Names, defaults and computation as in transformers' ``models/fast_vlm`` and ``models/timm_wrapper``, and in timm's
``models/fastvit.py``, whose ``fastvit_mci3`` the tower is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.models.convolutions import END_MULTIPLIER, STAGE_STRIDE, STEM_STRIDE
from pocketvlm.models.families import llava
from pocketvlm.models.families.family import (
    Family,
    Pieces,
    check_only,
    one_behind_another,
    renamed,
    section,
    without_rope_tables,
)

#: FastVlmConfig's, for keys that a config may leave out.
TEXT: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "vocab_size": 152128,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "num_hidden_layers": 28,
}
ARCHITECTURE = "fastvit_mci3"
#: timm's of that architecture, which ``model_args`` of a vision_config may say otherwise.
DEPTHS, WIDTHS = [2, 12, 24, 4, 2], [96, 192, 384, 768, 1536]
#: The stages whose blocks have attention.
ATTENTION = (3, 4)
#: Pixels along a side of what becomes a point of the last map.
POINT = STEM_STRIDE * STAGE_STRIDE ** (len(DEPTHS) - 1)
#: What else ``model_args`` may say: that the convolutions of a training are one already.
TRAINED = "inference_mode"
IMAGE_TOKEN_ID, TOKENS = 151646, 576
#: Of the stored names and ours, the first that fits; transformers may leave timm_model out.
PREFIXES = {"model.vision_tower.timm_model.": "vision_tower."}
#: Of timm's names and ours, wherever they stand in a name of the tower's.
PARTS = {
    "vision_tower.stem.0.reparam_conv": "vision_tower.embeddings.patch_embedding",
    "vision_tower.stem.1.reparam_conv": "vision_tower.embeddings.depthwise",
    "vision_tower.stem.2.reparam_conv": "vision_tower.embeddings.pointwise",
    "vision_tower.final_conv.reparam_conv": "vision_tower.end.depthwise",
    "vision_tower.final_conv.se.fc1": "vision_tower.end.squeeze",
    "vision_tower.final_conv.se.fc2": "vision_tower.end.excite",
    ".downsample.proj.0.reparam_conv": ".down.depthwise",
    ".downsample.proj.1.reparam_conv": ".down.pointwise",
    ".pos_emb.reparam_conv": ".down.depthwise_positions",
    ".token_mixer.reparam_conv": ".depthwise",
    ".token_mixer.qkv": ".self_attn.qkv",
    ".token_mixer.proj": ".self_attn.out_proj",
    ".mlp.conv.conv": ".mlp.depthwise",
    ".mlp.conv.bn": ".mlp.depthwise.batch_norm",
    ".layer_scale_1.gamma": ".attention_scale.weight",
    ".layer_scale_2.gamma": ".mlp_scale.weight",
    ".layer_scale.gamma": ".mlp_scale.weight",
    ".norm.": ".layer_norm1.",
}
#: The same the other way round, of a tower that has taken in its norms; of factors that an attention's block has two.
STORED = {
    ".mlp.depthwise.": ".mlp.conv.conv.",
    **{
        ours: theirs
        for theirs, ours in PARTS.items()
        if ours not in (".mlp.depthwise", ".depthwise", ".mlp_scale.weight")
    },
    ".depthwise.": ".token_mixer.reparam_conv.",
}
#: A count of a training, and what pools a picture.
UNUSED = re.compile(r"vision_tower\.(head\..*|.*\.num_batches_tracked)")


def read(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A ``config.json`` of a FastVlmConfig.

    :raises CheckpointError: naming the key whose value is something else than what is computed here
    """
    text, vision = section(raw, "text_config"), section(raw, "vision_config") or {}
    text = TEXT if text is None else {"model_type": "qwen2", **text}
    check_only(raw, "vision_feature_select_strategy", "full")
    check_only(raw, "vision_feature_layer", -1)
    check_only(vision, "model_type", "timm_wrapper", "vision_config")
    check_only(vision, "architecture", ARCHITECTURE, "vision_config")
    tokens = raw.get("image_seq_length", TOKENS)
    if type(tokens) is not int or tokens < 1 or math.isqrt(tokens) ** 2 != tokens:
        raise CheckpointError(f"image_seq_length is {one_line(repr(tokens), 60)}, no square of points of a map")
    tied = bool(raw.get("tie_word_embeddings")) or bool(text.get("tie_word_embeddings"))
    return {
        **seen(raw, text, tower(math.isqrt(tokens), section(vision, "model_args") or {})),
        "text_config": {**text, "tie_word_embeddings": tied},
        "image_token_id": llava.image_token_id(raw, IMAGE_TOKEN_ID),
    }


def seen(raw: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any]) -> dict[str, Any]:
    """What FastVLM's checkpoints have in common, with our keys."""
    check_only(raw, "projector_hidden_act", "gelu")
    check_only(raw, "multimodal_projector_bias", True)
    return {
        "model_type": raw.get("model_type"),
        "text_config": dict(text),
        "vision_config": dict(vision),
        "projector": "layers",
        "downsample_ratio": 1,
        "image_token": llava.IMAGE_TOKEN,
        "image_in_template": llava.IMAGE_TOKEN,
        "tiling": {"strategy": "center-crop", "candidates": [[1, 1]], "thumbnail": "none"},
    }


def tower(side: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """FastViTHD with a last map of ``side`` squared points; ``arguments``: to timm's model, where they are not its own.

    :raises CheckpointError: naming one that is something else than what is computed here
    """
    check_only(arguments, TRAINED, True, "vision_config.model_args")
    known = {TRAINED, "layers", "embed_dims"}
    other = next((key for key in arguments if key not in known), None)
    if other is not None or TRAINED not in arguments:
        named = TRAINED if other is None else one_line(other, 60)
        raise CheckpointError(f"vision_config.model_args.{named}: convolutions are supported as they are once trained")
    shape = {"depths": arguments.get("layers", DEPTHS), "widths": arguments.get("embed_dims", WIDTHS)}
    for key, value in shape.items():
        if not (isinstance(value, list) and len(value) == len(DEPTHS) and all(type(one) is int for one in value)):
            raise CheckpointError(
                f"vision_config.model_args: {key} are {one_line(repr(value), 60)}, expected 5 numbers"
            )
    return {
        "convolutions": shape,
        "hidden_size": END_MULTIPLIER * shape["widths"][-1],
        "patch_size": POINT,
        "image_size": side * POINT,
        "num_hidden_layers": sum(shape["depths"]) + len(shape["depths"]),
        "num_attention_heads": 1,
        "positions": "none",
        "post_norm": False,
    }


def rename(key: str) -> str | None:
    """Our name for a stored tensor."""
    name = renamed(renamed(key, PREFIXES), llava.PREFIXES)
    return of_tower(name) if name.startswith("vision_tower.") else without_rope_tables(name)


def of_tower(name: str) -> str | None:
    """Our name for a tensor that timm calls so, behind ``vision_tower``."""
    for theirs, ours in PARTS.items():
        name = name.replace(theirs, ours)
    return None if UNUSED.fullmatch(name) else name


def fused(config: Any) -> Mapping[str, Mapping[str, Pieces]]:
    """Queries, keys and values of a map lie in one matrix."""
    layers = config.vision.convolutions.layers(config.vision.image_size)
    attentions = [layer for layer in layers if layer.kind == "attention"]
    prefixes = [(f"{layer.prefix}self_attn.", layer.width) for layer in attentions]
    return {f"{prefix}qkv.": one_behind_another(prefix, width) for prefix, width in prefixes}


def stored(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]] | None:
    """What a checkpoint of transformers 5 calls one of our weights, and its shape there; None: it lies in another's.

    A convolution that has taken in the norm behind it has its bias.
    """
    if not name.startswith("vision_tower."):
        return llava.stored(name, shape)
    if ".k_proj." in name or ".v_proj." in name:
        return None
    if ".q_proj." in name:  # which all three have behind one another
        return _in_transformers(name.replace(".q_proj.", ".qkv.")), (3 * shape[0], *shape[1:])
    if name.endswith("_scale.weight"):
        return _in_transformers(name), (*shape, 1, 1)
    is_point = len(shape) == 2 and ".self_attn." not in name
    return _in_transformers(name), (*shape, 1, 1) if is_point else shape


def _in_transformers(name: str) -> str:
    has_attention = name.startswith(tuple(f"vision_tower.stages.{stage}." for stage in ATTENTION))
    name = name.replace(".mlp_scale.weight", ".layer_scale_2.gamma" if has_attention else ".layer_scale.gamma")
    for ours, theirs in sorted(STORED.items(), key=lambda names: -len(names[0])):
        name = name.replace(ours, theirs)
    return name.replace("vision_tower.", "model.vision_tower.timm_model.", 1)


FAMILY = Family("fast_vlm", rename=rename, fused=fused, read=read, processor="llava")
