"""Attention, and what turns queries and keys."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketvlm.models.operators.operator import Operator
from pocketvlm.models.operators.places import KvCache, PicturePlace, Step


class Attend(Operator):
    """Full attention within a tile: query, key and value [tiles, patches, width] -> [tiles, patches, width].

    ``patches``: of a tile, where back ends whose values have no axis of tiles are given several.
    """

    def __init__(self, heads: int, head_dim: int, patches: int | None = None) -> None:
        super().__init__()
        self.heads, self.head_dim, self.patches, self.scale = heads, head_dim, patches, 1 / math.sqrt(head_dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # [tiles, patches, width] -> [tiles, heads, patches, head_dim]
        query, key, value = (states.unflatten(-1, (self.heads, -1)).transpose(1, 2) for states in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value)
        # [tiles, heads, patches, head_dim] -> [tiles, patches, width]
        return mixed.transpose(1, 2).flatten(-2)


class AttendPicture(Operator):
    """Full attention among the patches of a picture, or of each of its windows, turned by row and column.

    query, key and value [tiles, patches, width] -> [tiles, patches, width]. ``merged``: so many patches of a tile, of
    those that its place has rows for, are left, and nothing turns.
    """

    def __init__(self, heads: int, head_dim: int, *, windowed: bool, merged: int | None = None) -> None:
        super().__init__()
        self.heads, self.head_dim, self.windowed, self.merged = heads, head_dim, windowed, merged

    def forward(self, query: Tensor, key: Tensor, value: Tensor, place: PicturePlace) -> Tensor:
        # [tiles, patches, width] -> [tiles, patches, heads, head_dim]
        query, key, value = (states.unflatten(-1, (self.heads, -1)) for states in (query, key, value))
        if self.merged is None:
            # [tiles, patches, head_dim / 2] -> [tiles, patches, 1, head_dim / 2]
            cos, sin = place.cos[:, :, None], place.sin[:, :, None]
            query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        if not self.windowed:
            return self._mix(query[None], key[None], value[None], None)[0]
        assert place.window_tiles is not None and place.window_mask is not None and place.window_positions is not None
        # [tiles, ...] -> [windows, tiles of a window, ...]
        query, key, value = (states[place.window_tiles] for states in (query, key, value))
        mixed = self._mix(query, key, value, place.window_mask[:, None, None])
        # [windows, tiles of a window, patches, width] -> [windows * tiles of a window, ...] -> [tiles, patches, width]
        return mixed.flatten(0, 1)[place.window_positions]

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """[windows, tiles, patches, heads, head_dim] -> [windows, tiles, patches, width]"""
        tiles, patches = query.shape[1:3]
        # -> [windows, heads, tiles * patches, head_dim]
        query, key, value = (states.flatten(1, 2).transpose(1, 2) for states in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        # -> [windows, tiles * patches, width] -> [windows, tiles, patches, width]
        return mixed.transpose(1, 2).flatten(-2).unflatten(1, (tiles, patches))


class AttendLearned(Operator):
    """Learned queries, [queries, width], attend to all patches of a picture or of a part of one, however many: key and
    value [tiles, 1, width] -> [queries, 1, width]."""

    def __init__(self, queries: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.queries, self.heads, self.head_dim = queries, heads, head_dim
        self.weight = nn.Parameter(torch.empty(queries, heads * head_dim))
        nn.init.normal_(self.weight)

    def forward(self, key: Tensor, value: Tensor) -> Tensor:
        # [queries, width] and [tiles, 1, width] -> [rows, heads, head_dim] -> [heads, rows, head_dim]
        query, key, value = (
            states.flatten(0, -2).unflatten(-1, (self.heads, -1)).transpose(0, 1)
            for states in (self.weight, key, value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        # [heads, queries, head_dim] -> [queries, width] -> [queries, 1, width]
        return mixed.transpose(0, 1).flatten(1)[:, None]


class Rotate(Operator):
    """Rotary embeddings (arXiv 2104.09864) on [batch, tokens, heads * head_dim], heads side by side; ``local``: at the
    base of layers that see a window."""

    def __init__(self, heads: int, head_dim: int, *, local: bool = False) -> None:
        super().__init__()
        self.heads, self.head_dim, self.local = heads, head_dim, local

    def forward(self, states: Tensor, step: Step) -> Tensor:
        cos, sin = (step.cos, step.sin) if step.local is None or not self.local else step.local
        # [batch, tokens, heads * head_dim] -> [batch, heads, tokens, head_dim]
        by_head = states.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
        # and back
        return rotate(by_head, cos, sin).transpose(1, 2).flatten(-2)


class CachedAttend(Operator):
    """Grouped-query attention over a layer's cache, which it extends: causal, but for tokens that see further.

    query [batch, tokens, heads * head_dim], key and value [batch, tokens, kv_heads * head_dim] -> the query's shape.
    ``scale``: factor on the products of queries and keys; ``window``: how many tokens up to itself one sees at most,
    itself among them (None: all); it does not end what is behind a token. ``softcap``: what bounds the scores, as
    ``Softcap`` does.
    """

    def __init__(
        self,
        heads: int,
        kv_heads: int,
        head_dim: int,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.scale = heads, kv_heads, head_dim, scale
        self.window, self.softcap = window, softcap

    def forward(self, query: Tensor, key: Tensor, value: Tensor, step: Step) -> Tensor:
        # [batch, tokens, heads * head_dim] -> [batch, heads, tokens, head_dim]
        query, key, value = (
            states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for states in (query, key, value)
        )
        if step.cache is not None:
            assert isinstance(step.cache, KvCache)
            step.cache.append(key, value)
            key, value = step.cache.key, step.cache.value
        return self._mix(query, key, value, step)

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, step: Step) -> Tensor:
        """query [batch, heads, tokens, head_dim], key and value [batch, kv_heads, past + tokens, head_dim]"""
        tokens = query.shape[2]
        past = key.shape[2] - tokens
        # token i sees the past and itself, of them those in its window: [tokens, past + tokens]
        mask = torch.ones(tokens, past + tokens, dtype=torch.bool).tril(past)
        if step.last_seen is not None:
            mask = torch.arange(past + tokens) <= step.last_seen[:, None]
        if self.window is not None:
            mask = mask.triu(past - self.window + 1)
        mixed = self._mixed(query, key, value, mask)
        # [batch, heads, tokens, head_dim] -> [batch, tokens, heads * head_dim]
        return mixed.transpose(1, 2).flatten(-2)

    def _mixed(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """[batch, heads or KV heads, ...] -> [batch, heads, tokens, head_dim]"""
        shared = self.heads // self.kv_heads
        if self.softcap is None:
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, scale=self.scale, enable_gqa=shared > 1
            )
        key, value = (states.repeat_interleave(shared, dim=1) for states in (key, value))
        scores = torch.tanh(query @ key.transpose(-1, -2) * (self.scale / self.softcap)) * self.softcap
        return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value


class SharedAttend(CachedAttend):
    """The same over the cache of an earlier layer, the ``source``, which that has extended by these tokens already.

    query [batch, tokens, heads * head_dim] -> its shape.
    """

    def __init__(
        self, heads: int, kv_heads: int, head_dim: int, scale: float, window: int | None = None, *, source: int
    ) -> None:
        super().__init__(heads, kv_heads, head_dim, scale, window)
        self.source = source

    def forward(self, query: Tensor, step: Step) -> Tensor:  # type: ignore[override]
        assert isinstance(step.cache, KvCache)
        # [batch, tokens, heads * head_dim] -> [batch, heads, tokens, head_dim]
        by_head = query.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        return self._mix(by_head, step.cache.key, step.cache.value, step)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply RoPE to [batch, heads, tokens, head_dim]; the halves are pairs (Llama's layout, not interleaved)."""
    first, second = states.chunk(2, dim=-1)  # two of [batch, heads, tokens, head_dim / 2]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
