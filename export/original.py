"""The original weights over several conversations, one layer in memory at a time: layers outside, conversations inside.

``pocketvlm.export.reference`` does the same for one sample and keeps every layer's output; here each output is shown
to a function and then replaced by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pocketvlm.export import reference
from pocketvlm.export.sample import Sample
from pocketvlm.models.checkpoint import Checkpoint, load
from pocketvlm.models.decoder import DecoderLayer, rope_tables
from pocketvlm.models.siglip import VisionLayer

#: Tiles that go through a layer of the vision tower at once.
TILES_AT_A_TIME = 8

#: Called with a layer, a conversation's place among those given, and the residual stream after that layer.
Look = Callable[[int, int, Tensor], None]


@torch.no_grad()
def encode_tiles(checkpoint: Checkpoint, pixels: Sequence[Tensor | None], look: Look) -> list[Tensor | None]:
    """Image tokens [tiles, tokens per tile, hidden] of the tiles float32 [tiles, 3, size, size] of each conversation.

    ``look`` is shown [tiles, patches, width]. None stays None: a conversation without images.
    """
    config, read = checkpoint.config, checkpoint.tensor
    if config.vision is None:
        return [None] * len(pixels)
    streams = {
        place: torch.cat([reference.embed_patches(config, read, part) for part in tiles.split(TILES_AT_A_TIME)])
        for place, tiles in enumerate(pixels)
        if tiles is not None
    }
    for layer in range(config.vision.num_hidden_layers if streams else 0):
        module = load(VisionLayer(config.vision), read, f"vision_tower.encoder.layers.{layer}.")
        for place, patches in streams.items():
            streams[place] = torch.cat([module(part) for part in patches.split(TILES_AT_A_TIME)])
            look(layer, place, streams[place])
    tokens = {place: reference.project(config, read, patches) for place, patches in streams.items()}
    return [tokens.get(place) for place in range(len(pixels))]


@torch.no_grad()
def run_decoder(
    checkpoint: Checkpoint, samples: Sequence[Sample], image_tokens: Sequence[Tensor | None], look: Look
) -> list[Tensor]:
    """The residual stream [1, tokens, hidden] after the last layer of each conversation.

    ``image_tokens`` are those of ``encode_tiles``; ``look`` is shown [1, tokens, hidden].
    """
    config, read = checkpoint.config.text, checkpoint.tensor
    streams = [
        reference.insert_image_tokens(reference.embed_tokens(config, read, sample.token_ids), tokens, sample)
        for sample, tokens in zip(samples, image_tokens, strict=True)
    ]
    for layer in range(config.num_hidden_layers):
        module = load(DecoderLayer(config), read, f"model.layers.{layer}.")
        for place, hidden in enumerate(streams):
            cos, sin = rope_tables(config, torch.arange(hidden.shape[1]))
            streams[place] = module(hidden, cos, sin)
            look(layer, place, streams[place])
    return streams


def logits(checkpoint: Checkpoint, hidden: Tensor, rows: slice) -> Tensor:
    """Logits [rows, vocabulary] at some positions of a stream [1, tokens, hidden] behind the last layer."""
    return reference.logits(checkpoint.config.text, checkpoint.tensor, hidden[:, rows])
