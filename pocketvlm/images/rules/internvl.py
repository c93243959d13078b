"""InternVL's rule: the nearest aspect ratio, to which the image is stretched."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pocketvlm.images.tiling import Grid, PictureRule, grid_candidates, stretched


def choose(width: int, height: int, tile: int, candidates: Sequence[Grid], alpha: float) -> Grid:
    """InternVL 1.5's ``find_closest_aspect_ratio``: the nearest aspect ratio, smaller grids first.

    Among equal ratios a larger grid wins if the image has more than half of its pixels. ``alpha`` is not used.
    """
    best = (1, 1)
    best_difference = math.inf
    for across, down in sorted(candidates, key=lambda grid: (grid[0] * grid[1], grid)):
        difference = abs(width / height - across / down)
        large_enough = width * height > 0.5 * tile * tile * across * down
        if difference < best_difference or (difference == best_difference and large_enough):
            best, best_difference = (across, down), difference
    return best


def grids(least: int, most: int) -> tuple[Grid, ...]:
    """All of at least so many tiles and at most so many, the widest first."""
    return tuple(grid for grid in grid_candidates(most, most, most) if grid[0] * grid[1] >= least)


RULE = PictureRule(stretched(choose), "stretch", thumbnail="last", thumbnail_of_single_tile=False)
