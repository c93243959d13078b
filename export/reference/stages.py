"""Conversations through a model's weights, one stage in memory at a time: stages outside, conversations inside.

What exported graphs are calibrated on and compared with. The weights are a checkpoint's own, or what ``read`` makes of
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pocketvlm.export.read.sample import Sample
from pocketvlm.export.reference.kv_ranges import kv_ranges
from pocketvlm.images.tiling import Grid
from pocketvlm.models.checkpoint import Checkpoint, ReadWeight
from pocketvlm.models.config import DecoderConfig, VlmConfig
from pocketvlm.models.operators import KvCache, LayerCache
from pocketvlm.models.stages import (
    decoder_stages,
    embed_tokens,
    entering,
    first_step,
    insert_image_tokens,
    logits,
    stages_of,
    through_tower,
)

#: Tiles that go through a layer of the vision tower at once.
TILES_AT_A_TIME = 8


@dataclass(frozen=True)
class LayerOutput:
    """The residual stream after a decoder layer, and what it put into its cache."""

    hidden: Tensor
    cache: LayerCache


#: Of a conversation, the caches of layers that later ones read, by layer.
Known = dict[int, LayerCache]
#: Called with a layer, a conversation's place among those given, and the residual stream after that layer.
Look = Callable[[int, int, Tensor], None]
#: Of the pictures of a conversation, (across, down) in tokens.
Grids = Sequence[Grid]
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
    grids: Sequence[Grids | None] = (),
) -> list[Tensor | None]:
    """Image tokens [tiles, tokens per tile, hidden] of the tiles float32 [tiles, 3, size, size] of each conversation.

    ``look`` is shown [tiles, patches, width]. None stays None: a conversation without images. ``grids``: of each one's
    pictures, where they are of native resolution.
    """
    patch_embedding = stages_of(config).patch_embedding
    shown = {place: tiles for place, tiles in enumerate(pixels) if tiles is not None}
    if patch_embedding is None or not shown:
        return [None] * len(pixels)
    embedding = patch_embedding.loaded(read)
    embedded = {
        place: _embedded(config, read, embedding, tiles, grids[place : place + 1]) for place, tiles in shown.items()
    }
    tokens = _encode_patches(config, read, embedded, look, prepare, dict(enumerate(grids)))
    return [tokens.get(place) for place in range(len(pixels))]


def _embedded(
    config: VlmConfig, read: ReadWeight, embedding: nn.Module, tiles: Tensor, grids: Sequence[Grids | None]
) -> Tensor:
    """Patches [tiles, patches, width] of a conversation's pictures, whose grids stand alone in ``grids``."""
    if config.vision is not None and config.vision.table_side is not None and grids and grids[0] is not None:
        return through_tower(config.vision, embedding, tiles, grids[0], read)
    return _few_at_a_time(embedding, tiles)


def _encode_patches(
    config: VlmConfig,
    read: ReadWeight,
    embedded: Mapping[int, Tensor],
    look: Look,
    prepare: Prepare,
    grids: Mapping[int, Grids | None],
) -> dict[int, Tensor]:
    """Image tokens of embedded patches [tiles, patches, width], by their conversation's place."""
    stages, streams = stages_of(config), dict(embedded)
    assert stages.projection is not None
    for stage in stages.vision:
        module = stage.loaded(read)
        prepare(module, stage.prefix)
        for place, patches in streams.items():
            native = grids.get(place) if config.is_native else None
            if native is not None and config.vision is not None:
                streams[place] = through_tower(config.vision, module, patches, native)
            else:
                streams[place] = _few_at_a_time(module, patches)
            look(stage.index, place, streams[place])
    projection = stages.projection.loaded(read)
    prepare(projection, stages.projection.prefix)
    if len(stages.projection.traced.inputs) < 2:
        return {place: projection(patches) for place, patches in streams.items()}
    assert config.vision is not None
    return {
        place: through_tower(config.vision, projection, patches, grids[place] or ())
        for place, patches in streams.items()
    }


def _few_at_a_time(module: nn.Module, tiles: Tensor) -> Tensor:
    return torch.cat([module(part) for part in tiles.split(TILES_AT_A_TIME)])


@torch.no_grad()
def enter_decoder(
    config: VlmConfig, read: ReadWeight, samples: Sequence[Sample], image_tokens: Sequence[Tensor | None]
) -> list[Tensor]:
    """What enters the first decoder layer, [1, tokens, hidden] each; ``image_tokens`` are those of ``encode_tiles``."""
    return [
        insert_image_tokens(
            entering(config.text, embed_tokens(config.text, read, sample.token_ids)),
            tokens,
            sample.token_ids,
            sample.image_token,
        )
        for sample, tokens in zip(samples, image_tokens, strict=True)
    ]


@torch.no_grad()
def run_decoder(
    config: VlmConfig,
    read: ReadWeight,
    streams: Sequence[Tensor],
    look: Look = look_away,
    prepare: Prepare = as_it_is,
    samples: Sequence[Sample] | None = None,
) -> list[Tensor]:
    """The residual streams [1, tokens, hidden] of ``enter_decoder`` after the last layer, as ``look`` is shown them.

    ``samples`` say where their tokens stand and what they see, where it may not be their place and what was before.
    """
    streams, known = list(streams), [Known() for _ in streams]
    for stage in decoder_stages(config.text):
        module = stage.loaded(read)
        prepare(module, stage.prefix)
        for place, hidden in enumerate(streams):
            sample = None if samples is None else samples[place]
            streams[place] = through_layer(config.text, stage.index, module, hidden, sample, known[place]).hidden
            look(stage.index, place, streams[place])
    return streams


@torch.no_grad()
def through_layer(
    config: DecoderConfig,
    index: int,
    layer: nn.Module,
    hidden: Tensor,
    sample: Sample | None = None,
    known: Known | None = None,
) -> LayerOutput:
    """[1, tokens, hidden] from position 0 on, or where the tokens of a ``sample`` stand, through a loaded layer.

    ``known``: the caches of earlier layers that others read, to which this one's is added where it is such a one.
    """
    positions, last_seen = (None, None) if sample is None else (sample.positions, sample.last_seen())
    step = first_step(config, index, hidden.shape[1], positions, last_seen, known)
    assert step.cache is not None
    output = LayerOutput(layer(hidden, step), step.cache)
    if known is not None and config.is_source(index):
        known[index] = output.cache
    return output


def embed(config: VlmConfig, read: ReadWeight, samples: Sequence[Sample], prepare: Prepare = as_it_is) -> list[Tensor]:
    """What enters the first decoder layer, [1, tokens, hidden] each, its own image tokens included."""
    pixels, grids = [sample.pixels for sample in samples], [sample.grids for sample in samples]
    tokens = encode_tiles(config, read, pixels, prepare=prepare, grids=grids)
    return enter_decoder(config, read, samples, tokens)


@dataclass(frozen=True)
class Reference:
    """A sample's way through the original weights.

    vision: the residual stream before each vision layer and after the last, [1, patches, width] each; text: the same
    for the decoder, [1, tokens, hidden]; kv_ranges: of each layer with attention, those of ``kv_ranges.kv_ranges``.
    """

    pixels: Tensor | None
    vision: tuple[Tensor, ...]
    image_tokens: Tensor | None
    text: tuple[Tensor, ...]
    logits: Tensor
    kv_ranges: Mapping[int, tuple[Tensor, Tensor]]


@torch.no_grad()
def run_reference(checkpoint: Checkpoint, sample: Sample, kv_length: int, progress: Callable[[int], None]) -> Reference:
    """Run the sample through the checkpoint; ``progress`` is told of each layer."""
    config, read = checkpoint.config, checkpoint.tensor
    vision: list[Tensor] = []
    ranges: dict[int, tuple[Tensor, Tensor]] = {}

    def see(layer: int, place: int, patches: Tensor) -> None:
        vision.append(patches)
        progress(1)

    patch_embedding, image_tokens = stages_of(config).patch_embedding, None
    if sample.pixels is not None and patch_embedding is not None:
        vision.append(_embedded(config, read, patch_embedding.loaded(read), sample.pixels, [sample.grids]))
        image_tokens = _encode_patches(config, read, {0: vision[0]}, see, as_it_is, {0: sample.grids})[0]
    text, known = enter_decoder(config, read, [sample], [image_tokens]), Known()
    for stage in decoder_stages(config.text):
        output = through_layer(config.text, stage.index, stage.loaded(read), text[-1], sample, known)
        text.append(output.hidden)
        if isinstance(output.cache, KvCache) and config.text.source(stage.index) is None:
            ranges[stage.index] = kv_ranges(config.text, stage.index, output.cache, kv_length, sample.positions)
        progress(1)
    scores = logits(config.text, read, text[-1][:, sample.first_scored :])
    return Reference(sample.pixels, tuple(vision), image_tokens, tuple(text), scores, ranges)
