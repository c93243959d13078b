"""Idefics3's and SmolVLM's rule: the longer side as long as a row of tiles, the rest stretched up to whole tiles."""

from __future__ import annotations

import math

from pocketvlm.images.tiling import Grid, PicturePlan, PictureRule, Size, Tiling, thumbnail_index

#: what the processor clips to (transformers: MAX_IMAGE_SIZE)
MAX_EDGE = 4096


def plan(width: int, height: int, tiling: Tiling) -> PicturePlan:
    """``resize``, ``resize_for_vision_encoder`` and ``split_images`` of transformers' Idefics3ImageProcessor.

    With the one candidate 1x1 the image is not split (``do_image_splitting``), but squashed to a tile. The thumbnail is
    of the stretched image, and one tile alone gets none.
    """
    tile = tiling.tile_size
    first = _with_longest(width, height, longest_edge(tiling))
    second = (tile, tile) if _most(tiling) == 1 else _in_tiles(*first, tile)
    grid = (second[0] // tile, second[1] // tile)
    return PicturePlan(grid, (first, second), (0, 0), thumbnail_index(grid, tiling), thumbnail_of=2)


def grids(most: int) -> tuple[Grid, ...]:
    """All that there can be where the longer side has ``most`` tiles, the widest first."""
    wide = [(most, down) for down in range(most, 0, -1)]
    return (*wide, *((down, most) for _, down in wide[1:]))


def longest_edge(tiling: Tiling) -> int:
    """What the longer side is resized to first, pixels: where nothing is said the largest grid's, made even."""
    if tiling.longest_edge is not None:
        return tiling.longest_edge
    whole = min(_most(tiling) * tiling.tile_size, MAX_EDGE)
    return max(whole - whole % 2, 2)


def check(tiling: Tiling) -> str | None:
    """Whether a longer side of that many pixels gives no other grids than the candidates."""
    longest = longest_edge(tiling)
    if not 2 <= longest <= MAX_EDGE or longest % 2:
        return f"longest_edge: {longest} is not an even number of pixels up to {MAX_EDGE}"
    if _most(tiling) > 1:
        missing = set(grids(math.ceil(longest / tiling.tile_size))).difference(tiling.candidates)
        if missing:
            across, down = max(missing)
            return f"candidates: a picture can get {across}x{down} tiles, which they lack"
    return None


def _most(tiling: Tiling) -> int:
    return max(max(grid) for grid in tiling.candidates)


def _with_longest(width: int, height: int, longest: int) -> Size:
    """The longer side ``longest`` pixels, the other rounded down and then up to an even number."""
    ratio = width / height
    if width >= height:
        other = int(longest / ratio)
        return longest, max(other + other % 2, 1)
    other = int(longest * ratio)
    return max(other + other % 2, 1), longest


def _in_tiles(width: int, height: int, tile: int) -> Size:
    """Both sides stretched up to whole tiles, the longer one first, whose stretch the other has before its own."""
    ratio = width / height
    if width >= height:
        width = math.ceil(width / tile) * tile
        return width, math.ceil(int(width / ratio) / tile) * tile
    height = math.ceil(height / tile) * tile
    return math.ceil(int(height * ratio) / tile) * tile, height


RULE = PictureRule(
    plan, "stretch", thumbnail="last", thumbnail_of_single_tile=False, check=check, resize_filter="lanczos"
)
