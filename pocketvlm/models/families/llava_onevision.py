"""LLaVA-OneVision (arXiv 2408.03326): SigLIP, two layers, Qwen2; pictures in tiles, put together again.

After transformers' ``models/llava_onevision``. Each picture is cut as one alone is: of a prompt with several pictures
transformers pads each to a square instead, which a conversation that goes on cannot do to the pictures before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.models.families import llava
from pocketvlm.models.families.family import Family

#: LlavaOnevisionConfig's, where a section is not given at all.
VISION: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "patch_size": 14,
    "image_size": 384,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
}
IMAGE_TOKEN_ID = 151646
PINPOINTS = [[384 * down, 384 * across] for down in range(1, 7) for across in range(1, 7)]


def read(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A ``config.json`` of a LlavaOnevisionConfig.

    :raises CheckpointError: naming the key whose value is something else than what is computed here
    """
    values = llava.read_shared(raw, VISION, "qwen2", layer=-1, strategy="full")
    pinpoints = raw.get("image_grid_pinpoints")
    aspect = raw.get("vision_aspect_ratio", "anyres_max_9")
    most = re.fullmatch(r"anyres_max_([1-9]\d{0,2})", aspect) if isinstance(aspect, str) else None
    if most is None:
        raise CheckpointError(f"vision_aspect_ratio is {one_line(repr(aspect), 60)}, expected 'anyres_max_9', say")
    return {
        **llava.cut_and_packed(values, PINPOINTS if pinpoints is None else pinpoints, int(most[1])),
        "image_token_id": llava.image_token_id(raw, IMAGE_TOKEN_ID),
    }


FAMILY = Family("llava_onevision", rename=llava.rename, read=read, processor="llava_next")
