"""Gemma 3 with pictures (arXiv 2503.19786): SigLIP, the mean of 4 x 4 patches, a norm, one matrix, and a decoder in
whose layers the tokens of a picture see each other.

Names, defaults and layout as in transformers' ``models/gemma3``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.models.families import gemma3_text
from pocketvlm.models.families.family import SIGLIP_DEFAULTS, Family, renamed, section, without_rope_tables

#: Of the stored names and ours; what a name begins with, the first that fits: of transformers 5 and of 4.
PREFIXES = {
    "model.language_model.": "model.",
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.vision_tower.vision_model.": "vision_tower.",
    "vision_tower.vision_model.": "vision_tower.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "projector.",
    "multi_modal_projector.": "projector.",
}
PROJECTOR = {
    "projector.mm_input_projection_weight": "projector.linear.weight",
    "projector.mm_soft_emb_norm.": "projector.norm.",
}
#: Of a whole tower: what pools a picture.
UNUSED = ("vision_tower.head.",)
BEGIN, IMAGE_TOKEN, END = "<start_of_image>", "<image_soft_token>", "<end_of_image>"
IMAGE_TOKEN_ID = 262144


def read(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A ``config.json`` of a Gemma3Config.

    :raises CheckpointError: a section is no object, or there is no square of tokens a picture
    """
    text, vision = section(raw, "text_config") or {}, {**SIGLIP_DEFAULTS, **(section(raw, "vision_config") or {})}
    # by the outer config where it is true, else by the decoder's; a stored head that differs decides against either
    tied = raw.get("tie_word_embeddings", True) or text.get("tie_word_embeddings", False)
    dtypes = [config.get(key) for config in (text, raw) for key in ("dtype", "torch_dtype")]
    own = {"tie_word_embeddings": tied, "dtype": next(filter(None, dtypes), None)}
    return {
        "model_type": raw.get("model_type"),
        "text_config": {"model_type": "gemma3_text", **text, **own},
        "vision_config": vision,
        "projector": "pooled",
        "downsample_ratio": _ratio(raw.get("mm_tokens_per_image", 256), vision),
        "image_token": IMAGE_TOKEN,
        "image_token_id": raw.get("image_token_index", raw.get("image_token_id", IMAGE_TOKEN_ID)),
        "image_in_template": BEGIN,
        "image_layout": {"image_start": BEGIN, "image_end": END},
        "text_around_image": ["\n\n", "\n\n"],
        "spans": "image",
        "tiling": {"strategy": "internvl", "candidates": [[1, 1]], "thumbnail": "none"},
    }


def _ratio(tokens: Any, vision: Mapping[str, Any]) -> int:
    """Patches along a side of what becomes one of so many tokens."""
    sides = vision["image_size"], vision["patch_size"]
    if not all(type(side) is int and side > 0 for side in sides):
        return 1  # which the schema refuses
    grid, side = sides[0] // sides[1], math.isqrt(tokens) if type(tokens) is int and tokens > 0 else 0
    if side == 0 or side**2 != tokens or grid % side or grid < side:
        shown = one_line(repr(tokens), 40)
        raise CheckpointError(f"mm_tokens_per_image is {shown}, no square of which {grid} x {grid} patches are blocks")
    return grid // side


def rename(key: str) -> str | None:
    """Our name for a stored tensor."""
    name = renamed(renamed(key, PREFIXES), PROJECTOR)
    return None if name.startswith(UNUSED) else without_rope_tables(name)


def stored(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """What a checkpoint of transformers 5 calls one of our weights, and its shape there."""
    named = renamed(name, {ours: theirs for theirs, ours in PROJECTOR.items()})
    named = renamed(named, {ours: theirs for theirs, ours in PREFIXES.items() if theirs.startswith("model.")})
    return named, shape[::-1] if name in TRANSPOSED else shape


def is_norm(name: str) -> bool:
    """Whether a weight is of a norm whose factor is 1 + weight: the decoder's, and the projector's."""
    return name == "projector.norm.weight" or gemma3_text.is_norm(name)


TRANSPOSED = frozenset({"projector.linear.weight"})
FAMILY = Family("gemma3", rename=rename, read=read, processor="gemma3", transposed=TRANSPOSED, is_less_one=is_norm)
