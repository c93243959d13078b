"""LLaVA-NeXT, which is LLaVA 1.6 (arXiv 2310.03744), and Granite Vision (arXiv 2502.09927): CLIP or SigLIP, one layer's
output or several side by side, two layers, any decoder; pictures in tiles, put together again.

After transformers' ``models/llava_next``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm.models.families import llava
from pocketvlm.models.families.family import Family

PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def read(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A ``config.json`` of a LlavaNextConfig.

    :raises CheckpointError: naming the key whose value is something else than what is computed here
    """
    values = llava.read_shared(raw, llava.VISION, "llama", layer=-2, strategy="default")
    pinpoints = raw.get("image_grid_pinpoints")
    return {
        **llava.cut_and_packed(values, PINPOINTS if pinpoints is None else pinpoints, None),
        "image_token_id": llava.image_token_id(raw, llava.IMAGE_TOKEN_ID),
    }


FAMILY = Family("llava_next", rename=llava.rename, read=read, processor="llava_next")
