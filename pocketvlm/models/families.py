"""The model families: how each one's ``config.json`` and weight names map to the modules of this package.

A new family is one file with a :class:`Family` and one line in ``FAMILIES`` (docs/add-a-model-family.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvlm.errors import CheckpointError
from pocketvlm.models.config import VlmConfig


@dataclass(frozen=True)
class Family:
    """One family. ``rename`` gives the model's name for a stored tensor, or None for one that is not needed."""

    name: str
    read_config: Callable[[Mapping[str, Any]], VlmConfig]
    rename: Callable[[str], str | None]


def _without_rope_tables(key: str) -> str | None:
    """The names are ours already; RoPE's frequencies, which old exports store, follow from the config."""
    return None if key.endswith("rotary_emb.inv_freq") else key


FAMILIES = {
    family.name: family
    for family in (
        Family("bluelm_v", VlmConfig.from_dict, _without_rope_tables),
        # Plain decoders share the names of transformers' causal models.
        Family("llama", VlmConfig.from_dict, _without_rope_tables),
        Family("qwen2", VlmConfig.from_dict, _without_rope_tables),
        Family("minicpm", VlmConfig.from_dict, _without_rope_tables),
    )
}


def family_of(model_type: str, where: Path) -> Family:
    """The family of a ``model_type``, or a :class:`CheckpointError` that lists the known ones."""
    if model_type not in FAMILIES:
        raise CheckpointError(
            f"{where}: model_type {model_type!r} is not supported; known families: {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]
