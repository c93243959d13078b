"""LLaVA-NeXT's rule: the resolution that keeps the most pixels."""

from __future__ import annotations

import math

from pocketvlm.images.tiling import Grid, PictureRule, padded


def choose(width: int, height: int, tile: int, candidates: frozenset[Grid], alpha: float) -> Grid:
    """LLaVA-NeXT's ``select_best_resolution``: the most effective pixels, then the fewest wasted ones.

    The reference takes the first of two equal candidates and has no order of its own; here the wider one is first.
    ``alpha`` is not used.
    """
    best = (1, 1)
    best_effective, best_wasted = -1, math.inf
    for across, down in sorted(candidates, reverse=True):
        scale = min(tile * across / width, tile * down / height)
        # The reference does not clamp: a side that rounds to 0 makes the whole grid worth nothing.
        effective = min(int(width * scale) * int(height * scale), width * height)
        wasted = tile * across * tile * down - effective
        if effective > best_effective or (effective == best_effective and wasted < best_wasted):
            best, best_effective, best_wasted = (across, down), effective, wasted
    return best


RULE = PictureRule(padded(choose, round_up=True), "pad", thumbnail="first", thumbnail_of_single_tile=True)
