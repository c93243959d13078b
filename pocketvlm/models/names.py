"""Names under which weights are known here that more than one place speaks of."""

from __future__ import annotations

#: Of rows that stand beside a token's embedding, a layer's each.
ROWS_TABLE = "model.embed_tokens_per_layer.weight"
EMBEDDING_TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"
#: What ends each row of a picture whose tiles' tokens are packed.
NEWLINE = "image_newline"
#: The row that stands beside image tokens, that of another token.
IMAGE_ROW = "projector.row.weight"
#: A resampler's queries, as they enter attention.
QUERIES = "projector.attend.weight"
POSITIONS = "vision_tower.embeddings.position_embedding.weight"
