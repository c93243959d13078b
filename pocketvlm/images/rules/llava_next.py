"""LLaVA-NeXT's rule: the resolution that keeps the most pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pocketvlm.images.tiling import Grid, PictureRule, padded


def choose(width: int, height: int, tile: int, candidates: Sequence[Grid], alpha: float) -> Grid:
    """LLaVA-NeXT's ``select_best_resolution``: the most effective pixels, then the fewest wasted ones.

    Of two that are equal in both the first one: a checkpoint's ``image_grid_pinpoints`` have an order. ``alpha`` is not
    used.
    """
    best = (1, 1)
    best_effective, best_wasted = -1, math.inf
    for across, down in candidates:
        scale = min(tile * across / width, tile * down / height)
        # The reference does not clamp: a side that rounds to 0 makes the whole grid worth nothing.
        effective = min(int(width * scale) * int(height * scale), width * height)
        wasted = tile * across * tile * down - effective
        if effective > best_effective or (effective == best_effective and wasted < best_wasted):
            best, best_effective, best_wasted = (across, down), effective, wasted
    return best


RULE = PictureRule(padded(choose, round_up=True), "pad", thumbnail="first", thumbnail_of_single_tile=True)
