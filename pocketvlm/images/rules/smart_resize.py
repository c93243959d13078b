"""Qwen2-VL's rule (arXiv 2409.12191): both sides whole tokens, as many pixels as the bounds allow, nothing cut away.

A tile is what one token sees: a block of patches. So the grid is that of the picture's tokens, and follows from its
size, not from candidates.
"""

from __future__ import annotations

import math

from pocketvlm.errors import ImageError
from pocketvlm.images.tiling import PicturePlan, PictureRule, Size, Tiling

#: The longer side by the shorter one, at most (transformers: smart_resize).
MOST_ASPECT = 200


def plan(width: int, height: int, tiling: Tiling) -> PicturePlan:
    """``smart_resize`` of transformers' Qwen2VLImageProcessor.

    :raises ImageError: the picture is too narrow
    """
    tile = tiling.tile_size
    size = resized(width, height, tile, *bounds(tiling))
    return PicturePlan((size[0] // tile, size[1] // tile), (size,))


def bounds(tiling: Tiling) -> tuple[int, int]:
    """Least and most pixels of a picture.

    :raises ValueError: the tiling has none
    """
    if tiling.min_pixels is None or tiling.max_pixels is None:
        raise ValueError("min_pixels and max_pixels: smart-resize needs both")
    return tiling.min_pixels, tiling.max_pixels


def most_tokens(tiling: Tiling) -> int:
    """Of any picture: those of the most pixels, or of a narrow one's longer side where the other is a token whatever it
    was to be, or of the least pixels where both sides were rounded up."""
    least, most = (pixels / tiling.tile_size**2 for pixels in bounds(tiling))
    rounded_up = least + math.sqrt(least) * (math.sqrt(MOST_ASPECT) + 1 / math.sqrt(MOST_ASPECT)) + 1
    return max(int(most), math.ceil(math.sqrt(most * MOST_ASPECT)), math.ceil(rounded_up))


def most_filled(tokens: int, side: int) -> int:
    """Tiles of a picture of at most so many ``tokens`` where its squares of ``side`` tiles a side are filled up, those
    at its right and bottom too. (Rounded, a side is less than a tile more or less than the other's share.)"""
    shorter = range(1, math.isqrt(tokens) + 1)
    shapes = ((one, min(tokens // one, MOST_ASPECT * (one + 1))) for one in shorter)
    return side**2 * max(-(-one // side) * -(-other // side) for one, other in shapes)


def check(tiling: Tiling) -> str | None:
    """Whether there are bounds that can be followed, and no thumbnail."""
    none = None if tiling.thumbnail == "none" else "thumbnail: smart-resize has none"
    return bounds_problem(tiling) or none


def bounds_problem(tiling: Tiling) -> str | None:
    """Whether there are bounds, and a token has room between them."""
    if tiling.min_pixels is None or tiling.max_pixels is None:
        return f"min_pixels and max_pixels: {tiling.strategy} needs both"
    if not 0 < tiling.min_pixels <= tiling.max_pixels:
        return f"min_pixels: {tiling.min_pixels} is not from 1 to max_pixels, {tiling.max_pixels}"
    if tiling.max_pixels < tiling.tile_size**2:
        return f"max_pixels: {tiling.max_pixels} are less than a token's, {tiling.tile_size**2}"
    return None


def resized(width: int, height: int, tile: int, least: int, most: int, side: int = 0) -> Size:
    """In double precision, halves to the even multiple, in the order of the source: rows first. ``side``: least pixels
    of one, before the bounds are looked at.

    :raises ImageError: the picture is too narrow
    """
    if max(height, width) / min(height, width) > MOST_ASPECT:
        raise ImageError(
            f"a picture of {width} x {height} pixels is too narrow: one side is at most {MOST_ASPECT} times the other"
        )
    down, across = (max(side, round(pixels / tile) * tile) for pixels in (height, width))
    if down * across > most:
        share = math.sqrt((height * width) / most)
        down = max(tile, math.floor(height / share / tile) * tile)
        across = max(tile, math.floor(width / share / tile) * tile)
    elif down * across < least:
        share = math.sqrt(least / (height * width))
        down = math.ceil(height * share / tile) * tile
        across = math.ceil(width * share / tile) * tile
    return across, down


RULE = PictureRule(plan, "stretch", thumbnail="none", thumbnail_of_single_tile=False, check=check)
