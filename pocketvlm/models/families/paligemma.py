"""PaliGemma and PaliGemma 2 (arXiv 2407.07726, 2412.03555): SigLIP, one matrix, and Gemma or Gemma 2, whose prompt sees
itself as a whole; one question, no chat template.

Names, defaults and layout as in transformers' ``models/paligemma``. Its positions count from 1: RoPE knows differences
alone, so that here they count from 0 as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.models.families import gemma2, gemma3_text
from pocketvlm.models.families.family import SIGLIP_DEFAULTS, Family, renamed, section, without_rope_tables
from pocketvlm.models.families.gemma3 import PREFIXES, UNUSED

IMAGE_TOKEN, IMAGE_TOKEN_ID = "<image>", 256000
#: What the processor puts behind a prompt's images, and behind its text.
BEHIND_IMAGES, SUFFIX = "<bos>", "\n"
#: PaliGemmaConfig's own sections.
VISION_DEFAULTS: dict[str, Any] = {
    **SIGLIP_DEFAULTS,
    "hidden_size": 1152,
    "image_size": 224,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
}
TEXT_DEFAULTS: dict[str, Any] = {
    "model_type": "gemma",
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "num_attention_heads": 8,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "vocab_size": 257152,
}
#: Decoders that there are behind the tower.
DECODERS = ("gemma", "gemma2")


def read(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A ``config.json`` of a PaliGemmaConfig.

    :raises CheckpointError: a section is no object, or its decoder is another
    """
    said, seen = section(raw, "text_config"), section(raw, "vision_config")
    text, vision = TEXT_DEFAULTS if said is None else said, VISION_DEFAULTS if seen is None else seen
    kind, seen_by = text.get("model_type", "gemma"), {**SIGLIP_DEFAULTS, **vision}
    if kind not in DECODERS:
        shown = one_line(repr(kind), 40)
        raise CheckpointError(f"text_config.model_type is {shown}; what is supported is {' and '.join(DECODERS)}")
    dtypes = [config.get(key) for config in (text, raw) for key in ("dtype", "torch_dtype")]
    own = {
        "model_type": kind,
        "tie_word_embeddings": raw.get("tie_word_embeddings", True) or text.get("tie_word_embeddings", False),
        "dtype": next(filter(None, dtypes), None),
        "use_bidirectional_attention": None,  # whatever it says: spans do
        **(_held(text, seen_by) if kind == "gemma2" else {}),
    }
    return {
        "model_type": raw.get("model_type"),
        "text_config": {**text, **own},
        "vision_config": seen_by,
        "projector": "linear",
        "downsample_ratio": 1,
        "image_token": IMAGE_TOKEN,
        "image_token_id": raw.get("image_token_index", raw.get("image_token_id", IMAGE_TOKEN_ID)),
        "asked_once": [BEHIND_IMAGES, SUFFIX],
        "spans": "prompt",
        "tiling": {"strategy": "internvl", "candidates": [[1, 1]], "thumbnail": "none"},
    }


def _held(text: Mapping[str, Any], vision: Mapping[str, Any]) -> dict[str, Any]:
    """Gemma 2's window, up to whose length it changes nothing, as the longest conversation: what tokens of a prompt see
    of each other it does not end (transformers' masks).

    :raises CheckpointError: a picture fills it
    """
    window, most = (text.get(key, gemma2.KEYS[key]) for key in ("sliding_window", "max_position_embeddings"))
    side, patch = vision["image_size"], vision["patch_size"]
    if not all(type(number) is int and number > 0 for number in (window, most, side, patch)):
        return {}  # which the schema refuses
    tokens = (side // patch) ** 2
    if tokens >= window:
        raise CheckpointError(f"text_config.sliding_window is {window}, and a picture of {side} pixels {tokens} tokens")
    return {"max_position_embeddings": min(window, most)}


def rename(key: str) -> str | None:
    """Our name for a stored tensor."""
    name = renamed(key, PREFIXES)
    return None if name.startswith(UNUSED) else without_rope_tables(name)


def stored(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """What a checkpoint of transformers 5 calls one of our weights, and its shape there."""
    return renamed(name, {ours: theirs for theirs, ours in PREFIXES.items() if theirs.startswith("model.")}), shape


FAMILY = Family("paligemma", rename=rename, read=read, is_less_one=gemma3_text.is_norm)
