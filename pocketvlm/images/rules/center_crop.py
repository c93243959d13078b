"""CLIP's rule, which LLaVA 1.5 has: the shorter side as long as a tile, and of the longer one its middle."""

from __future__ import annotations

from pocketvlm.images.tiling import PicturePlan, PictureRule, Tiling, thumbnail_index

GRID = (1, 1)


def plan(width: int, height: int, tiling: Tiling) -> PicturePlan:
    """``get_resize_output_image_size`` and ``center_crop`` of transformers' ``image_transforms``."""
    tile, short, long = tiling.tile_size, min(width, height), max(width, height)
    longer = int(tile * long / short)
    size = (tile, longer) if width <= height else (longer, tile)
    # what lies before the tile is cut away: half of what is too long, rounded down
    place = -((size[0] - tile) // 2), -((size[1] - tile) // 2)
    return PicturePlan(GRID, (size,), place, thumbnail_index(GRID, tiling))


def check(tiling: Tiling) -> str | None:
    """Whether the one grid that there is is a candidate."""
    return None if GRID in tiling.candidates else "candidates: a picture gets 1x1 tiles, which they lack"


RULE = PictureRule(plan, "crop", thumbnail="none", thumbnail_of_single_tile=False, check=check)
