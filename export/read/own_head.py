"""A checkpoint whose head is its embedding table, with the head as a weight of its own."""

from __future__ import annotations

from dataclasses import replace

from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.models.names import EMBEDDING_TABLE, HEAD
from pocketvlm.models.own_head import untied


def with_own_head(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with its embedding table once more as ``lm_head.weight``; as it is where the head is apart."""
    if not checkpoint.config.text.tie_word_embeddings:
        return checkpoint
    head = replace(checkpoint.tensors[EMBEDDING_TABLE], name=HEAD)
    return replace(checkpoint, config=untied(checkpoint.config), tensors={**checkpoint.tensors, HEAD: head})
