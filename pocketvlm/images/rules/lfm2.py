"""LFM2-VL's rule (arXiv 2511.23404): a picture as a whole between two bounds, a large one in square parts before it.

A tile is what one token sees. A part is a square of them, and the tiles of a part see each other; so do those of the
whole, which is the only part of a picture that is not large.
"""

from __future__ import annotations

import math

from pocketvlm.images.rules.smart_resize import bounds, bounds_problem, resized
from pocketvlm.images.rules.smart_resize import most_tokens as most_tokens_of_whole
from pocketvlm.images.tiling import Grid, PicturePlan, PictureRule, Tiling

#: A picture is large beyond so many times the most pixels (``max_pixels_tolerance``).
TOLERANCE = 2.0
#: Least pixels of a side, where it is asked whether a picture is large: a patch's, of which a tile has two a side.
PATCHES_OF_A_SIDE = 2
MOST_PART = 64


def plan(width: int, height: int, tiling: Tiling) -> PicturePlan:
    """``resize_and_split`` of transformers' Lfm2VlImageProcessor.

    :raises ImageError: the picture is too narrow
    """
    tile, (least, most), part = tiling.tile_size, bounds(tiling), side_of_part(tiling)
    size = resized(width, height, tile, least, most, side=tile)
    whole = (size[0] // tile, size[1] // tile)
    grid = _grid(width, height, tiling) if _is_large(width, height, tile, most) else (1, 1)
    if grid == (1, 1):
        return PicturePlan(grid, (size,), part=whole)
    canvas = (grid[0] * part * tile, grid[1] * part * tile)
    return PicturePlan(grid, (canvas,), thumbnail_index=grid[0] * grid[1], part=(part, part), thumbnail_part=whole)


def side_of_part(tiling: Tiling) -> int:
    """Tiles along a side of a part.

    :raises ValueError: the tiling says none
    """
    if tiling.part is None:
        raise ValueError("part: lfm2 needs it")
    return tiling.part


def most_tokens(tiling: Tiling) -> int:
    """Of any part of a picture."""
    return max(most_tokens_of_whole(tiling), side_of_part(tiling) ** 2)


def grids(least: int, most: int) -> tuple[Grid, ...]:
    """All of at least so many parts and at most so many, the fewest first: the order, among those of as many parts, is
    that in which the processor's set of them is iterated (``_target_ratios``), and counts where two are as near."""
    found = {
        (across, down)
        for number in range(least, most + 1)
        for across in range(1, number + 1)
        for down in range(1, number + 1)
        if least <= across * down <= most
    }
    return tuple(sorted(found, key=lambda grid: grid[0] * grid[1]))


def check(tiling: Tiling) -> str | None:
    """Whether there are bounds, and a part."""
    if tiling.part is None or not 0 < tiling.part <= MOST_PART:
        return f"part: lfm2 needs it, from 1 to {MOST_PART}"
    if tiling.thumbnail != "last" or tiling.thumbnail_of_single_tile:
        return "thumbnail: lfm2 has it last, and none of a whole picture"
    return bounds_problem(tiling)


def _is_large(width: int, height: int, tile: int, most: int) -> bool:
    across, down = (max(tile // PATCHES_OF_A_SIDE, round(pixels / tile) * tile) for pixels in (width, height))
    return across * down > most * TOLERANCE


def _grid(width: int, height: int, tiling: Tiling) -> Grid:
    """``find_closest_aspect_ratio``: as InternVL's, in the candidates' own order."""
    best, nearest = (1, 1), math.inf
    side = side_of_part(tiling) * tiling.tile_size
    for across, down in tiling.candidates:
        difference = abs(width / height - across / down)
        large_enough = width * height > 0.5 * side * side * across * down
        if difference < nearest or (difference == nearest and large_enough):
            best, nearest = (across, down), difference
    return best


RULE = PictureRule(
    plan, "stretch", thumbnail="last", thumbnail_of_single_tile=False, check=check, resize_filter="bilinear"
)
