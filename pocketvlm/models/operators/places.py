"""What operators are told of tokens and patches: where they stand, and what a layer keeps of those before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pocketvlm.models.config import DecoderConfig


@dataclass
class KvCache:
    """Keys (after RoPE) and values of one layer: [batch, kv heads, positions, head_dim]."""

    key: Tensor
    value: Tensor

    @classmethod
    def empty(cls, config: DecoderConfig, batch: int = 1, *, head_size: int | None = None) -> KvCache:
        shape = (batch, config.num_key_value_heads, 0, head_size or config.head_dim)
        return cls(torch.zeros(shape), torch.zeros(shape))

    def append(self, key: Tensor, value: Tensor) -> None:
        self.key = torch.cat([self.key, key], dim=2)
        self.value = torch.cat([self.value, value], dim=2)


@dataclass
class RowCache:
    """What entered the convolution of one layer: [batch, positions, width]."""

    rows: Tensor

    @classmethod
    def empty(cls, config: DecoderConfig, batch: int = 1) -> RowCache:
        return cls(torch.zeros(batch, 0, config.hidden_size))

    def append(self, rows: Tensor) -> None:
        self.rows = torch.cat([self.rows, rows], dim=1)


@dataclass
class DeltaCache:
    """Of a layer with linear attention: what entered its convolution, [batch, positions, width], and a matrix a value
    head, float32 [batch, heads, key width, value width]."""

    rows: RowCache
    matrix: Tensor

    @classmethod
    def empty(cls, config: DecoderConfig, batch: int = 1) -> DeltaCache:
        sizes = config.linear_num_value_heads, config.linear_key_head_dim, config.linear_value_head_dim
        return cls(RowCache(torch.zeros(batch, 0, config.state_width)), torch.zeros(batch, *sizes))


LayerCache = KvCache | RowCache | DeltaCache


def empty_cache(config: DecoderConfig, layer: int) -> LayerCache:
    """The cache of a layer, of the kind that it has; of one that reads another's, as that has it."""
    if config.is_state(layer):
        return DeltaCache.empty(config)
    if config.is_convolution(layer):
        return RowCache.empty(config)
    return KvCache.empty(config, head_size=config.head_size(layer))


@dataclass
class Step:
    """Where the tokens of a decoder's step stand: RoPE's rows of them, the layer's cache (None: they are all) or that
    of the layer whose it reads, and the
    rows for layers that see a window, where there are some; ``last_seen``: the last place of the cache that each may
    see, int64 [tokens], where that is not its own (``pocketvlm.images.spans``)."""

    cos: Tensor
    sin: Tensor
    cache: LayerCache | None = None
    local: tuple[Tensor, Tensor] | None = None
    last_seen: Tensor | None = None


@dataclass
class PicturePlace:
    """Where the patches of one picture stand (``pocketvlm.images.patches``): RoPE's rows of them, [tiles, patches,
    head_dim / 2]; of windows, which tiles are in each, [windows, tiles of a window], which of their patches there are,
    bool [windows, tiles of a window * patches], and where among all of them each tile stands, [tiles]; ``rows`` are
    added to the patches at the beginning, [tiles, patches, width], ``key_rows`` to a resampler's keys, [tiles, 1, its
    width].
    """

    cos: Tensor
    sin: Tensor
    window_tiles: Tensor | None = None
    window_mask: Tensor | None = None
    window_positions: Tensor | None = None
    rows: Tensor | None = None
    key_rows: Tensor | None = None
