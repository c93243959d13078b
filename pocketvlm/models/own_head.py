"""A head of its own for a model whose head is its embedding table.

Decoding reads all of the head for each token and one row of the table: what is right for one need not be for the other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pocketvlm.models.names import EMBEDDING_TABLE, HEAD

if TYPE_CHECKING:
    from pocketvlm.models.checkpoint import Checkpoint
    from pocketvlm.models.config import VlmConfig


def untied(config: VlmConfig) -> VlmConfig:
    """The same model with the head apart from the table."""
    return replace(config, text=replace(config.text, tie_word_embeddings=False))


def with_own_head(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with its embedding table once more as ``lm_head.weight``; as it is where the head is apart."""
    if not checkpoint.config.text.tie_word_embeddings:
        return checkpoint
    head = replace(checkpoint.tensors[EMBEDDING_TABLE], name=HEAD)
    return replace(checkpoint, config=untied(checkpoint.config), tensors={**checkpoint.tensors, HEAD: head})
