"""BlueLM-V-3B's rule: the aspect ratio matched, relaxed by a threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pocketvlm.images.tiling import Grid, PictureRule, fitted_size, padded


def choose(width: int, height: int, tile: int, candidates: Sequence[Grid], alpha: float) -> Grid:
    """Relaxed aspect-ratio matching, Algorithm 1 of BlueLM-V-3B (arXiv 2411.10640).

    A grid replaces the best one so far if it shows more than ``alpha`` more of the image's pixels, or nearly as many
    with less waste. The result hangs on the visiting order, which the paper gives: 3:3 down to 1:1.
    """
    best = (1, 1)
    best_effective, best_wasted = 0, math.inf
    for across, down in sorted(candidates, reverse=True):
        fitted_width, fitted_height = fitted_size(width, height, (across, down), tile)
        effective = min(fitted_width * fitted_height, width * height)
        wasted = tile * across * tile * down - effective
        gain = effective - best_effective
        if gain > alpha * best_effective or (-gain < alpha * best_effective and wasted < best_wasted):
            best, best_effective, best_wasted = (across, down), effective, wasted
    return best


RULE = PictureRule(padded(choose), "pad", thumbnail="first", thumbnail_of_single_tile=True)
