"""Gemma 4's rule: both sides whole tokens, as many as the most allow in the picture's shape, nothing cut away.

A small picture is enlarged as a large one is made smaller. A tile is what one token sees, a block of patches.
"""

from __future__ import annotations

import math

from pocketvlm.images.rules.smart_resize import bounds, bounds_problem
from pocketvlm.images.tiling import PicturePlan, PictureRule, Tiling


def plan(width: int, height: int, tiling: Tiling) -> PicturePlan:
    """``get_aspect_ratio_preserving_size`` of transformers' Gemma4ImageProcessor, in double precision and its order."""
    tile, (_, most) = tiling.tile_size, bounds(tiling)
    factor = math.sqrt(most / (height * width))
    down, across = (math.floor(factor * pixels / tile) for pixels in (height, width))
    if down == 0:
        down, across = 1, min(math.floor(width / height), most // tile**2)
    elif across == 0:
        down, across = min(math.floor(height / width), most // tile**2), 1
    return PicturePlan((across, down), ((across * tile, down * tile),))


def most_tokens(tiling: Tiling) -> int:
    """Of any picture."""
    return bounds(tiling)[1] // tiling.tile_size**2


def check(tiling: Tiling) -> str | None:
    """Whether there are bounds of which the upper is whole tokens, and no thumbnail."""
    problem = bounds_problem(tiling)
    if problem is None and (tiling.max_pixels or 0) % tiling.tile_size**2:
        problem = f"max_pixels: {tiling.max_pixels} are no whole tokens of {tiling.tile_size**2}"
    return problem or (None if tiling.thumbnail == "none" else "thumbnail: gemma4 has none")


RULE = PictureRule(plan, "stretch", thumbnail="none", thumbnail_of_single_tile=False, check=check)
