"""Several conversations through a model's weights, one layer in memory at a time: layers outside, conversations inside.

``pocketvlm.export.reference.stages`` does the same for one sample and keeps every layer's output; here each output is
shown to a function and then replaced by the next. The weights are a checkpoint's own, or what ``read`` makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from pocketvlm.export.read.sample import Sample
from pocketvlm.export.reference import stages as reference
from pocketvlm.models.checkpoint import ReadWeight, load
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.decoder import DecoderLayer
from pocketvlm.models.siglip import VisionLayer

#: Tiles that go through a layer of the vision tower at once.
TILES_AT_A_TIME = 8

#: Called with a layer, a conversation's place among those given, and the residual stream after that layer.
Look = Callable[[int, int, Tensor], None]
#: Called with a loaded module, which it may change, and the prefix of its weights' names.
Prepare = Callable[[nn.Module, str], None]


def look_away(layer: int, place: int, stream: Tensor) -> None:
    """Sees nothing."""


def as_it_is(module: nn.Module, prefix: str) -> None:
    """Leaves a module alone."""


@torch.no_grad()
def encode_tiles(
    config: VlmConfig,
    read: ReadWeight,
    pixels: Sequence[Tensor | None],
    look: Look = look_away,
    prepare: Prepare = as_it_is,
) -> list[Tensor | None]:
    """Image tokens [tiles, tokens per tile, hidden] of the tiles float32 [tiles, 3, size, size] of each conversation.

    ``look`` is shown [tiles, patches, width]. None stays None: a conversation without images.
    """
    if config.vision is None:
        return [None] * len(pixels)
    streams = {
        place: torch.cat([reference.embed_patches(config, read, part) for part in tiles.split(TILES_AT_A_TIME)])
        for place, tiles in enumerate(pixels)
        if tiles is not None
    }
    for layer in range(config.vision.num_hidden_layers if streams else 0):
        prefix = f"vision_tower.encoder.layers.{layer}."
        module = load(partial(VisionLayer, config.vision), read, prefix)
        prepare(module, prefix)
        for place, patches in streams.items():
            streams[place] = torch.cat([module(part) for part in patches.split(TILES_AT_A_TIME)])
            look(layer, place, streams[place])
    project = reference.projection(config, read)
    prepare(project, "")
    tokens = {place: project(patches) for place, patches in streams.items()}
    return [tokens.get(place) for place in range(len(pixels))]


@torch.no_grad()
def enter_decoder(
    config: VlmConfig, read: ReadWeight, samples: Sequence[Sample], image_tokens: Sequence[Tensor | None]
) -> list[Tensor]:
    """What enters the first decoder layer, [1, tokens, hidden] each; ``image_tokens`` are those of ``encode_tiles``."""
    return [
        reference.insert_image_tokens(reference.embed_tokens(config.text, read, sample.token_ids), tokens, sample)
        for sample, tokens in zip(samples, image_tokens, strict=True)
    ]


@torch.no_grad()
def run_decoder(
    config: VlmConfig,
    read: ReadWeight,
    streams: Sequence[Tensor],
    look: Look = look_away,
    prepare: Prepare = as_it_is,
) -> list[Tensor]:
    """The residual streams [1, tokens, hidden] of ``enter_decoder`` after the last layer, as ``look`` is shown them."""
    text, streams = config.text, list(streams)
    for layer in range(text.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        module = load(partial(DecoderLayer, text), read, prefix)
        prepare(module, prefix)
        for place, hidden in enumerate(streams):
            streams[place] = reference.through(text, module, hidden).hidden
            look(layer, place, streams[place])
    return streams


def embed(config: VlmConfig, read: ReadWeight, samples: Sequence[Sample], prepare: Prepare = as_it_is) -> list[Tensor]:
    """What enters the first decoder layer, [1, tokens, hidden] each, its own image tokens included."""
    tokens = encode_tiles(config, read, [sample.pixels for sample in samples], prepare=prepare)
    return enter_decoder(config, read, samples, tokens)
