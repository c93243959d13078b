"""The tokens of an image's tiles as one picture again: LLaVA's packing, which is called "anyres".

As ``pack_image_features`` of transformers' ``models/llava_next`` and ``models/llava_onevision``: the thumbnail's tokens
come first; then those of the tiles, which lie side by side as in the picture, without the rows or columns that show
padding alone, and a learned token ends each row. What is more than ``most_tiles`` tiles have is made smaller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pocketvlm.images.tiling import Grid, Size

Floats = npt.NDArray[np.float32]

#: How much larger than ``most_tiles`` tiles a side may be before it is made smaller.
LENIENCE = 1.1


@dataclass(frozen=True)
class PackedImage:
    """What becomes of the tokens of ``grid`` tiles, which have ``side`` x ``side`` each. Sizes are (across, down).

    Those from ``corner`` on are kept, ``kept`` of them, and resized to ``size``.
    """

    side: int
    grid: Grid
    corner: tuple[int, int]
    kept: Size
    size: Size

    @property
    def tokens(self) -> int:
        """Those of the whole image: of its thumbnail, and of each row with the one that ends it."""
        across, down = self.size
        return self.side**2 + down * (across + 1)


def packed(size: Size, grid: Grid, side: int, most_tiles: int | None = None) -> PackedImage:
    """Of an image of ``size`` pixels (width, height) that was cut into ``grid`` tiles of ``side`` x ``side`` tokens.

    In double precision, in the order of ``unpad_image``; ``most_tiles``: the N of OneVision's ``anyres_max_N``.
    """
    (width, height), across, down = size, grid[0] * side, grid[1] * side
    left = top = 0
    if width / height > across / down:
        top = (down - _whole(height * (across / width))) // 2
    else:
        left = (across - _whole(width * (down / height))) // 2
    kept = shown = (across - 2 * left, down - 2 * top)
    if most_tiles is not None:
        ratio = math.sqrt(kept[0] * kept[1] / (most_tiles * side**2))
        if ratio > LENIENCE:
            shown = (int(kept[0] // ratio), int(kept[1] // ratio))
    return PackedImage(side, grid, (left, top), kept, shown)


def most_tokens(grid: Grid, side: int, most_tiles: int | None = None) -> int:
    """That an image which is cut into ``grid`` tiles has at most."""
    across, down = grid[0] * side, grid[1] * side
    limit = across * down if most_tiles is None else int(LENIENCE**2 * most_tiles * side**2)
    return side**2 + min(across * down, limit) + down


def _whole(tokens: float) -> int:
    """Rounded down, but for what is a whole number up to rounding."""
    return int(round(tokens, 7))


def pack(tokens: Floats, plan: PackedImage, newline: Floats) -> Floats:
    """[tiles * side * side, hidden], the thumbnail's first, and the token [hidden] that ends a row ->
    [plan.tokens, hidden]"""
    (across, down), side, hidden = plan.grid, plan.side, tokens.shape[-1]
    thumbnail, tiles = tokens[: side**2], tokens[side**2 :]
    # [down * across * side * side, hidden] -> [down, across, side, side, hidden] -> [down, side, across, side, hidden]
    rows = tiles.reshape(down, across, side, side, hidden).swapaxes(1, 2)
    # -> [down * side, across * side, hidden] -> [rows, columns, hidden]
    plane = rows.reshape(down * side, across * side, hidden)
    (left, top), (columns, lines) = plan.corner, plan.kept
    plane = plane[top : top + lines, left : left + columns]
    plane = _resized(_resized(plane, 0, plan.size[1]), 1, plan.size[0])
    ends = np.broadcast_to(newline, (len(plane), 1, hidden))
    # [rows, columns + 1, hidden] -> [rows * (columns + 1), hidden]
    return np.concatenate([thumbnail, np.concatenate([plane, ends], axis=1).reshape(-1, hidden)])


def _resized(plane: Floats, axis: int, count: int) -> Floats:
    """Bilinear, an axis at a time, as PyTorch's ``interpolate`` without aligned corners: each of two neighbours."""
    length = plane.shape[axis]
    if count == length:
        return plane
    places = np.maximum((np.arange(count) + 0.5) * (length / count) - 0.5, 0.0)
    first = places.astype(np.int64)
    # [count], along the axis
    share = (places - first).astype(np.float32).reshape((-1,) + (1,) * (plane.ndim - 1 - axis))
    before, behind = plane.take(first, axis), plane.take(np.minimum(first + 1, length - 1), axis)
    mixed: Floats = before * (np.float32(1) - share) + behind * share
    return mixed
