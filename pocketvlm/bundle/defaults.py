"""What an export chooses where nothing is asked: a plan says the same before it."""

from __future__ import annotations

#: Tokens that a conversation may have, where the model has so many positions.
KV_LENGTH = 2048
#: Tokens of a prefill step, tiles that are encoded at once: the paper's (section 3.3), on the Dimensity 9300.
PREFILL_CHUNK, TILE_BATCH = 128, 4
#: Tokens of the largest picture of native resolution: the bound of the processor's class. What checkpoints say instead
#: may be 16 times as much, and a tower's time grows with its square.
MOST_PATCH_TOKENS = 1280
#: Copies of its state that a conversation keeps to go back to, where its model has one: of the last two turns,
#: before the first and the last chunk of each prompt.
SNAPSHOTS = 4
