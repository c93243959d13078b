"""MiniCPM-V's rule (arXiv 2408.01800, section 3.1): the whole picture, and where it is larger the slices of one behind
it, each of about as many pixels as the tower was trained on and of any aspect ratio.

A tile is a patch, and those of a slice see one another. All sizes follow from the side of a square of ``max_pixels``.
"""

from __future__ import annotations

import math

from pocketvlm.errors import ImageError
from pocketvlm.images.rules.smart_resize import MOST_ASPECT, bounds, bounds_problem
from pocketvlm.images.tiling import Grid, PicturePlan, PictureRule, Size, Tiling


def plan(width: int, height: int, tiling: Tiling) -> PicturePlan:
    """``slice_image`` of the image processor that MiniCPM-V 2.6 and its heirs come with.

    :raises ImageError: the picture is too narrow, which that processor does not ask
    """
    if max(height, width) > MOST_ASPECT * min(height, width):
        raise ImageError(
            f"a picture of {width} x {height} pixels is too narrow: one side is at most {MOST_ASPECT} times the other"
        )
    patch, side = tiling.tile_size, side_of_slice(tiling)
    size = _resized(width, height, side, patch)
    whole = (size[0] // patch, size[1] // patch)
    grid = _grid(width, height, side, tiling)
    if grid == (1, 1):
        return PicturePlan(grid, (size,), part=whole)
    share = (_whole_times(width, grid[0]) / grid[0], _whole_times(height, grid[1]) / grid[1])
    slice_size = _resized(*share, side, patch)
    canvas = (slice_size[0] * grid[0], slice_size[1] * grid[1])
    part = (slice_size[0] // patch, slice_size[1] // patch)
    return PicturePlan(grid, (canvas,), thumbnail_index=0, part=part, thumbnail_part=whole)


def side_of_slice(tiling: Tiling) -> int:
    """Of the square that has as many pixels as a slice is to have (``scale_resolution``)."""
    return math.isqrt(bounds(tiling)[1])


def most_tokens(tiling: Tiling) -> int:
    """Patches of any slice: sides are rounded to half a patch more at most, or a narrow one's to the only patch."""
    along, aspect = side_of_slice(tiling) / tiling.tile_size, math.sqrt(MOST_ASPECT)
    longest, narrowest = along * aspect, along / aspect
    return math.ceil(max((longest + 0.5) * (narrowest + 0.5), longest + 0.5))


def grids(most: int) -> tuple[Grid, ...]:
    """One, and all of 2 slices and at most so many: the fewest first, and of as many those of fewer columns. Of two
    that fit a picture as well the first is taken."""
    found = (
        (across, number // across) for number in range(2, most + 1) for across in range(1, number + 1)
        if number % across == 0
    )  # fmt: skip
    return ((1, 1), *found)


def check(tiling: Tiling) -> str | None:
    """Whether slices have a size, and which grids there are."""
    if tiling.thumbnail != "first" or tiling.thumbnail_of_single_tile:
        return "thumbnail: minicpmv has it first, and none of a picture that is not cut"
    problem = bounds_problem(tiling)
    if problem is not None:
        return problem
    if tiling.min_pixels != tiling.max_pixels or side_of_slice(tiling) ** 2 != tiling.max_pixels:
        return f"max_pixels: {tiling.max_pixels} is no square of a side, or not min_pixels"
    if tiling.part is not None:
        return f"part: {tiling.part}, and minicpmv has slices of any size"
    if tuple(tiling.candidates) != grids(max(across * down for across, down in tiling.candidates)):
        return "candidates: minicpmv has all grids of its most slices, in its order"
    return None


def _whole_times(pixels: float, count: int) -> int:
    """The nearest multiple, halves to the even one, that is not zero (``ensure_divide``)."""
    return max(round(pixels / count) * count, count)


def _resized(width: float, height: float, side: int, patch: int) -> Size:
    """As many pixels as the square of this side has, whole patches a side (``find_best_resize``). In double precision,
    in the order of the source."""
    ratio = width / height
    down = int(side / math.sqrt(ratio))
    across = int(down * ratio)
    return _whole_times(across, patch), _whole_times(down, patch)


def _grid(width: int, height: int, side: int, tiling: Tiling) -> Grid:
    """``get_sliced_grid``: of about as many slices as the picture has squares, the nearest ratio by logarithm."""
    most = max(across * down for across, down in tiling.candidates)
    wanted = min(math.ceil(width * height / (side * side)), most)
    if wanted <= 1:
        return (1, 1)
    ratio, best, nearest = math.log(width / height), (1, 1), math.inf
    for across, down in tiling.candidates:
        difference = abs(ratio - math.log(across / down))
        if across * down > 1 and abs(across * down - wanted) <= 1 and difference < nearest:
            best, nearest = (across, down), difference
    return best


RULE = PictureRule(plan, "stretch", thumbnail="first", thumbnail_of_single_tile=False, check=check)
