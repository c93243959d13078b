"""The model families: how each one's ``config.json`` and weight names map to the modules of this package.

A new family is one file with a ``FAMILY`` and one line in ``FAMILIES`` (docs/add-a-model-family.md).
"""

from __future__ import annotations

import difflib
from pathlib import Path

from pocketvlm.errors import CheckpointError
from pocketvlm.models.families import (
    bluelm_v,
    fast_vlm,
    gemma,
    gemma2,
    gemma3,
    gemma3_text,
    gemma4,
    gemma4_text,
    granite,
    idefics3,
    internlm2,
    internvl,
    internvl_chat,
    lfm2,
    lfm2_vl,
    llama,
    llava,
    llava_next,
    llava_onevision,
    llava_qwen2,
    minicpm,
    minicpmv,
    minicpmv4_6,
    mistral,
    paligemma,
    qwen2,
    qwen2_5_vl,
    qwen2_vl,
    qwen3,
    qwen3_5,
    qwen3_5_text,
    qwen3_vl,
    smollm3,
    smolvlm,
)
from pocketvlm.models.families.family import DecoderTraits, Family

FAMILIES: dict[str, Family] = {
    module.FAMILY.name: module.FAMILY
    for module in (
        bluelm_v,
        idefics3,
        smolvlm,
        internvl,
        internvl_chat,
        llava,
        llava_next,
        llava_onevision,
        fast_vlm,
        llava_qwen2,
        qwen2_5_vl,
        qwen2_vl,
        qwen3_vl,
        qwen3_5,
        lfm2_vl,
        minicpmv,
        minicpmv4_6,
        gemma3,
        gemma4,
        paligemma,
        llama,
        qwen2,
        minicpm,
        qwen3,
        mistral,
        granite,
        smollm3,
        internlm2,
        gemma,
        gemma2,
        gemma3_text,
        gemma4_text,
        lfm2,
        qwen3_5_text,
    )
}
#: What may stand as a ``text_config``, or alone.
DECODERS: dict[str, DecoderTraits] = {
    name: family.decoder for name, family in FAMILIES.items() if family.decoder is not None
}


def family_of(model_type: str, where: Path) -> Family:
    """The family of a ``model_type``, or a :class:`CheckpointError` that lists the known ones, the nearest first."""
    if model_type not in FAMILIES:
        near = difflib.get_close_matches(model_type, FAMILIES)
        nearest = f" (nearest: {', '.join(near)})" if near else ""
        raise CheckpointError(
            f"{where}: model_type {model_type!r} is not supported{nearest}; known families: {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]
