"""How large a layer's keys and values get, channel by channel: what an INT8 cache's scales are made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pocketvlm.models.config import DecoderConfig
from pocketvlm.models.operators import KvCache, rotate
from pocketvlm.models.rope import rope_tables

#: The part of a layer's mean square in a channel's range: in one that hardly moved a wider step costs nothing.
SHARED = 0.5
#: Tokens after which ranges hardly grow any more: the calibration text that ships.
ENOUGH_TOKENS = 16384


def kv_ranges(
    config: DecoderConfig, layer: int, cache: KvCache, length: int, positions: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Largest |key| and |value| of each channel of a layer, float32 [KV heads, head size] each.

    ``cache`` has conversations from position 0 on, or at ``positions``. Its keys count at every position of a
    cache of ``length``: the largest of a channel that turns slowly may come long after the last position that was seen.
    """
    local = config.is_local(layer)
    keys = cache.key.abs()
    if config.is_rotary(layer):
        keys = _largest_turned(config, cache.key, length, positions, local=local)
    # [1, KV heads, tokens, head size] -> [KV heads, head size]
    return keys.amax(dim=(0, 2)), cache.value.abs().amax(dim=(0, 2))


def for_unseen_text(largest: Tensor, tokens: int) -> Tensor:
    """The ranges of a layer's channels, [KV heads, head size], as other text may need them; ``tokens`` were looked at.

    The largest of n normal numbers grows as sqrt(2 ln n), and an export that does not calibrate sees some 100 tokens.
    What ranges as they were seen would cost is in docs/numerics.md ("KV cache").
    """
    squares = largest.square()
    least = ((1 - SHARED) * squares + SHARED * squares.mean()).sqrt()
    return torch.maximum(largest, least) * max(1.0, math.log(ENOUGH_TOKENS) / math.log(max(tokens, 2))) ** 0.5


def _largest_turned(
    config: DecoderConfig, keys: Tensor, length: int, positions: Tensor | None, *, local: bool
) -> Tensor:
    """The largest magnitudes of turned keys at positions 0 to ``length`` - 1, channel by channel, of the same shape.

    A pair of channels moves on a circle. Where its way is half of it or more, either channel gets the whole radius;
    on a shorter one it does where the way crosses its axis (the other channel changes its sign), and has its largest
    value at one of the ends otherwise.
    """
    tokens = keys.shape[2]
    cos, sin = rope_tables(config, torch.arange(max(tokens, length)), local=local)
    factor = cos[0]  # on all rotated keys
    cos, sin = cos / factor, sin / factor
    turned = cos, sin
    if positions is not None:
        there = rope_tables(config, positions, local=local)
        turned = there[0] / factor, there[1] / factor
    at_first = rotate(keys, turned[0][:tokens], -turned[1][:tokens])
    at_last = rotate(at_first, cos[length - 1], sin[length - 1])
    one, other = at_first.chunk(2, dim=-1)  # two of [1, KV heads, tokens, head size / 2]
    radius = torch.hypot(one, other).repeat(1, 1, 1, 2)
    swapped = at_first.roll(one.shape[-1], dims=-1) * at_last.roll(one.shape[-1], dims=-1)
    half_way = (sin[:length] < 0).any(dim=0).repeat(2)  # [head size]
    return torch.where(half_way | (swapped <= 0), radius, torch.maximum(at_first.abs(), at_last.abs()))
