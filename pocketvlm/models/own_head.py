"""A head of its own for a model whose head is its embedding table.

Decoding reads all of the head for each token and one row of the table: what is right for one need not be for the other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pocketvlm.models.config import VlmConfig


def untied(config: VlmConfig) -> VlmConfig:
    """The same model with the head apart from the table."""
    return replace(config, text=replace(config.text, tie_word_embeddings=False))
