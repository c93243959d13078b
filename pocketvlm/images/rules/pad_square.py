"""LLaVA's rule for pictures that keep their middle (``image_aspect_ratio`` pad): a square around them, then one tile.

The square is filled first and resized as a whole, so that the filter sees its colour beside the picture's edges.
"""

from __future__ import annotations

from pocketvlm.images.rules.center_crop import check
from pocketvlm.images.tiling import PicturePlan, PictureRule, Tiling, thumbnail_index

GRID = (1, 1)


def plan(width: int, height: int, tiling: Tiling) -> PicturePlan:
    """``expand2square`` of LLaVA's ``mm_utils``, and ``resize`` of CLIP's processor, whose crop then takes all."""
    tile = tiling.tile_size
    return PicturePlan(GRID, ((tile, tile),), (0, 0), thumbnail_index(GRID, tiling), square=max(width, height))


RULE = PictureRule(plan, "square", thumbnail="none", thumbnail_of_single_tile=False, check=check)
