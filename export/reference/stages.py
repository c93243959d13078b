"""The model in PyTorch, one layer in memory at a time: what exported graphs are calibrated on and compared with.

A 3 B model in float32 is 12 GB; a layer of it is 0.25 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pocketvlm.export.read.sample import Sample
from pocketvlm.models.checkpoint import Checkpoint, ReadWeight, load
from pocketvlm.models.config import DecoderConfig, VlmConfig
from pocketvlm.models.decoder import DecoderLayer, KvCache, RmsNorm, rope_tables
from pocketvlm.models.siglip import Downsampler, Projector, VisionEmbeddings, VisionLayer

#: Rows of the head that are multiplied at a time.
HEAD_ROWS = 8192


@torch.no_grad()
def embed_patches(config: VlmConfig, read: ReadWeight, pixels: Tensor) -> Tensor:
    """float [tiles, 3, size, size] -> [tiles, patches, width]"""
    assert config.vision is not None
    patches: Tensor = load(partial(VisionEmbeddings, config.vision), read, "vision_tower.embeddings.")(pixels)
    return patches


@torch.no_grad()
def vision_layers(config: VlmConfig, read: ReadWeight, patches: Tensor) -> Iterator[Tensor]:
    """The residual stream after each layer of the tower."""
    assert config.vision is not None
    for index in range(config.vision.num_hidden_layers):
        patches = vision_layer(config, read, index, patches)
        yield patches


@torch.no_grad()
def vision_layer(config: VlmConfig, read: ReadWeight, index: int, patches: Tensor) -> Tensor:
    """[tiles, patches, width] through one layer of the tower."""
    assert config.vision is not None
    output: Tensor = load(partial(VisionLayer, config.vision), read, f"vision_tower.encoder.layers.{index}.")(patches)
    return output


class Projection(nn.Module):
    """What follows the last layer of the tower: its norm, the downsampler, the projector."""

    def __init__(self, config: VlmConfig) -> None:
        super().__init__()
        assert config.vision is not None
        width = config.vision.hidden_size
        self.vision_tower = nn.ModuleDict({"post_layernorm": nn.LayerNorm(width, eps=config.vision.layer_norm_eps)})
        self.downsampler = Downsampler(width, config.downsample_ratio)
        self.projector = Projector(width, config.text.hidden_size)

    def forward(self, patches: Tensor) -> Tensor:
        """[tiles, patches, width] -> image tokens [tiles, tokens per tile, hidden]"""
        tokens: Tensor = self.projector(self.downsampler(self.vision_tower["post_layernorm"](patches)))
        return tokens


def projection(config: VlmConfig, read: ReadWeight) -> Projection:
    """The loaded module."""
    return load(partial(Projection, config), read)


@torch.no_grad()
def project(config: VlmConfig, read: ReadWeight, patches: Tensor) -> Tensor:
    """The last layer's stream -> image tokens [tiles, tokens per tile, hidden]"""
    tokens: Tensor = projection(config, read)(patches)
    return tokens


@torch.no_grad()
def embed_tokens(config: DecoderConfig, read: ReadWeight, token_ids: Tensor) -> Tensor:
    """int64 [tokens] -> [1, tokens, hidden]"""
    return read("model.embed_tokens.weight", token_ids).float()[None] * config.scale_emb


@dataclass(frozen=True)
class LayerOutput:
    """The residual stream after a layer, and the keys and values that it put into the cache."""

    hidden: Tensor
    cache: KvCache


@torch.no_grad()
def decoder_layer(config: DecoderConfig, read: ReadWeight, index: int, hidden: Tensor) -> LayerOutput:
    """[1, tokens, hidden] from position 0 on, through one layer."""
    return through(config, load(partial(DecoderLayer, config), read, f"model.layers.{index}."), hidden)


@torch.no_grad()
def through(config: DecoderConfig, layer: DecoderLayer, hidden: Tensor) -> LayerOutput:
    """[1, tokens, hidden] from position 0 on, through a loaded layer."""
    cos, sin = rope_tables(config, torch.arange(hidden.shape[1]))
    cache = KvCache.empty(config)
    return LayerOutput(layer(hidden, cos, sin, cache), cache)


@torch.no_grad()
def normed(config: DecoderConfig, read: ReadWeight, hidden: Tensor) -> Tensor:
    """The last layer's stream [1, tokens, hidden] -> what enters the head, [tokens, hidden]"""
    norm = load(partial(RmsNorm, config.hidden_size, config.rms_norm_eps), read, "model.norm.")
    states: Tensor = norm(hidden)[0] * config.logits_scale
    return states


@torch.no_grad()
def logits(config: DecoderConfig, read: ReadWeight, hidden: Tensor) -> Tensor:
    """The last layer's stream [1, tokens, hidden] -> logits [tokens, vocabulary], some rows of the head at a time."""
    states = normed(config, read, hidden)
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    blocks = [slice(first, first + HEAD_ROWS) for first in range(0, config.vocab_size, HEAD_ROWS)]
    return torch.cat([states @ read(head, rows).float().T for rows in blocks], dim=-1)


@dataclass(frozen=True)
class Reference:
    """A sample's way through the original weights.

    vision: the residual stream before each vision layer and after the last, [1, patches, width] each; text: the same
    for the decoder, [1, tokens, hidden]; kv_ranges: largest |key| and |value| of each layer.
    """

    pixels: Tensor | None
    vision: tuple[Tensor, ...]
    image_tokens: Tensor | None
    text: tuple[Tensor, ...]
    logits: Tensor
    kv_ranges: tuple[tuple[float, float], ...]


def run_reference(checkpoint: Checkpoint, sample: Sample, progress: Callable[[int], None]) -> Reference:
    """Run the sample through the checkpoint; ``progress`` is told of each layer."""
    config, read = checkpoint.config, checkpoint.tensor
    vision: list[Tensor] = []
    image_tokens = None
    if sample.pixels is not None:
        vision.append(embed_patches(config, read, sample.pixels))
        for patches in vision_layers(config, read, vision[0]):
            vision.append(patches)
            progress(1)
        image_tokens = project(config, read, vision[-1])
    hidden = embed_tokens(config.text, read, sample.token_ids)
    text = [insert_image_tokens(hidden, image_tokens, sample)]
    ranges = []
    for index in range(config.text.num_hidden_layers):
        output = decoder_layer(config.text, read, index, text[-1])
        text.append(output.hidden)
        ranges.append((float(output.cache.key.abs().max()), float(output.cache.value.abs().max())))
        progress(1)
    scores = logits(config.text, read, text[-1][:, sample.first_scored :])
    return Reference(sample.pixels, tuple(vision), image_tokens, tuple(text), scores, tuple(ranges))


def insert_image_tokens(embeddings: Tensor, image_tokens: Tensor | None, sample: Sample) -> Tensor:
    """Put image tokens [1, tokens per tile, hidden] where their placeholders stand in [1, tokens, hidden]."""
    if image_tokens is None or sample.image_token is None:
        return embeddings
    places = torch.eq(sample.token_ids, sample.image_token)[None, :, None]
    return embeddings.masked_scatter(places, image_tokens)
