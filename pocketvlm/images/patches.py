"""Where the patches of a picture stand that goes through its tower as a whole: what graphs take beside its pixels.

A tile is a block of ``ratio`` x ``ratio`` patches, which become one token; tiles go along the rows of the picture, and
patches along those of their tile. So a graph need not know how many rows and columns a picture has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from pocketvlm.images.tiling import Grid

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
#: How a learned table of positions is laid over a picture: from corner to corner, as an image is resized, or each patch
#: takes the row and column that its upper left corner falls into; or there are two, of columns and of rows.
Laid = Literal["stretched", "resized", "bucketed", "by_axis"]


def places(grid: Grid, ratio: int) -> Integers:
    """int64 [tiles, ratio * ratio, 2]: row and column of each patch of a picture of ``grid`` (across, down) tiles."""
    across, down = grid
    rows, columns = np.mgrid[: down * ratio, : across * ratio]
    both = np.stack([rows, columns], axis=-1)
    # [down * ratio, across * ratio, 2] -> [down, ratio, across, ratio, 2] -> [down, across, ratio, ratio, 2]
    blocks = both.reshape(down, ratio, across, ratio, 2).swapaxes(1, 2)
    # -> [down * across, ratio * ratio, 2]
    return blocks.reshape(down * across, ratio * ratio, 2).astype(np.int64)


def axial_rope(grid: Grid, ratio: int, head_dim: int, theta: float | None) -> tuple[Floats, Floats]:
    """cos and sin, float32 [tiles, ratio * ratio, head_dim / 2]: the first half turns with the row, the second with
    the column (transformers: ``compute_axial_rope_parameters``). Without ``theta`` nothing turns."""
    half = head_dim // 2
    if theta is None:
        shape = (grid[0] * grid[1], ratio * ratio, half)
        return np.ones(shape, np.float32), np.zeros(shape, np.float32)
    frequencies = theta ** (-np.arange(0, half, 2) / half)
    # [tiles, patches, 2, 1] * [half / 2] -> [tiles, patches, half]
    angles = (places(grid, ratio)[..., None] * frequencies).reshape(grid[0] * grid[1], ratio * ratio, half)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


@dataclass(frozen=True)
class Windows:
    """Squares of tiles whose patches see each other alone. Those at the right and the bottom may lack tiles."""

    tiles: Integers
    """int64 [windows, side * side]: the tile at each place, 0 where there is none"""
    mask: npt.NDArray[np.int32]
    """int32 [windows, side * side * ratio * ratio]: 1 where there is a patch"""
    positions: Integers
    """int64 [tiles]: where in ``tiles``, read on from window to window, each stands"""


def windows(grid: Grid, side: int, ratio: int) -> Windows:
    """Of a picture of ``grid`` (across, down) tiles, ``side`` x ``side`` of them each (transformers:
    ``get_vision_window_index``)."""
    across, down = grid
    columns, rows = -(-across // side), -(-down // side)
    whole = np.full((rows * side, columns * side), -1, np.int64)
    whole[:down, :across] = np.arange(down * across).reshape(down, across)
    # [rows * side, columns * side] -> [rows, side, columns, side] -> [rows, columns, side, side] -> [windows, tiles]
    index = whole.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(rows * columns, side * side)
    is_there = index >= 0
    positions = np.empty(down * across, np.int64)
    positions[index[is_there]] = np.flatnonzero(is_there)
    mask = np.repeat(is_there, ratio * ratio, axis=1).astype(np.int32)
    return Windows(np.where(is_there, index, 0), mask, positions)


def window_by_window(values: Floats, tiles: Integers) -> Floats:
    """[tiles, ...] as ``Windows.tiles`` has them, one window after the other: [windows * side * side, ...]

    What graphs give that gather nothing is read back at ``Windows.positions``.
    """
    return values[tiles.reshape(-1)]


def interpolated(grid: Grid, ratio: int, table: Floats) -> Floats:
    """A learned table of positions [side, side, width] stretched over a picture: float32 [tiles, ratio * ratio, width].

    Bilinear with aligned corners: the table's corners are the picture's (transformers:
    ``get_vision_interpolation_indices_and_weights``).
    """
    side, at = table.shape[0], places(grid, ratio)
    rows, columns = (_taps(at[..., axis], count * ratio, side) for axis, count in ((0, grid[1]), (1, grid[0])))
    found = np.zeros((*at.shape[:2], table.shape[-1]), np.float32)
    for row, share_down in rows:
        for column, share_across in columns:
            found += table[row, column] * (share_down * share_across)[..., None]
    return found


def antialiased(grid: Grid, ratio: int, table: Floats) -> Floats:
    """A learned table of positions [side, side, width] resized to a picture: float32 [tiles, ratio * ratio, width].

    As an image is: a triangle as wide as a patch is in the table, and no less than a row (``F.interpolate`` of PyTorch
    with ``antialias``, which SigLIP 2 has, arXiv 2502.14786).
    """
    side, at = table.shape[0], places(grid, ratio)
    down, across = (_triangles(side, count * ratio) for count in (grid[1], grid[0]))
    # [rows, side] x [columns, side] x [side, side, width] -> [rows, columns, width]
    whole = np.tensordot(down, np.tensordot(across, table, axes=(1, 1)), axes=(1, 1))
    found: Floats = whole[at[..., 0], at[..., 1]].astype(np.float32)
    return found


def bucketed(grid: Grid, ratio: int, table: Floats) -> Floats:
    """Of a learned table of positions [side, side, width] the entry that each patch of a picture falls into, float32
    [tiles, ratio * ratio, width] (Patch n' Pack, arXiv 2307.06304; transformers: ``get_vision_nearest_position_ids``).

    In whole numbers: where a patch begins exactly at an entry, code that compares fractions in float32 takes that one
    or the one before, as its processor rounds.
    """
    side, at = table.shape[0], places(grid, ratio)
    rows, columns = (at[..., axis] * side // (count * ratio) for axis, count in ((0, grid[1]), (1, grid[0])))
    found: Floats = table[rows, columns].astype(np.float32, copy=False)
    return found


def by_axis(grid: Grid, ratio: int, table: Floats) -> Floats:
    """Of two learned tables of positions [2, side, width] the sum of each patch's rows, by its column in the first and
    by its row in the second: float32 [tiles, ratio * ratio, width] (transformers: ``Gemma4VisionPatchEmbedder``)."""
    at = places(grid, ratio)
    found: Floats = table[0, at[..., 1]] + table[1, at[..., 0]]
    return found


def laid_over(grid: Grid, ratio: int, table: Floats, laid: Laid) -> Floats:
    """A table over a picture, float32 [tiles, ratio * ratio, width]."""
    return {"stretched": interpolated, "resized": antialiased, "bucketed": bucketed, "by_axis": by_axis}[laid](
        grid, ratio, table
    )


@lru_cache(maxsize=4)
def sincos_rows(grid: Grid, width: int) -> Floats:
    """What a resampler adds to its keys, float32 [tiles, 1, width], of tiles that are a patch each.

    A quarter of the channels each are sines and cosines of the column, then of the row, at frequencies from 1 down to
    1 / 10,000 (MiniCPM-V, arXiv 2408.01800, section 3.1; Masked Autoencoders, arXiv 2111.06377), in float32.
    """
    quarter = width // 4
    share = np.arange(quarter, dtype=np.float32) / np.float32(quarter)
    frequencies = (1.0 / 10000**share).astype(np.float32)
    at = places(grid, 1)[:, 0].astype(np.float32)
    # [tiles, 1] * [quarter] -> [tiles, quarter], of columns and of rows
    angles = [at[:, axis, None] * frequencies for axis in (1, 0)]
    found = np.concatenate([wave(one) for one in angles for wave in (np.sin, np.cos)], axis=1).astype(np.float32)
    # [tiles, width] -> [tiles, 1, width]
    rows: Floats = found[:, None]
    rows.flags.writeable = False
    return rows


def _triangles(side: int, count: int) -> npt.NDArray[np.float64]:
    """The share that each row of a table of ``side`` has in each of ``count`` places: float64 [count, side]"""
    scale = side / count
    width = max(scale, 1.0)
    shares = np.zeros((count, side))
    for place in range(count):
        middle = (place + 0.5) * scale
        first, last = max(int(middle - width + 0.5), 0), min(int(middle + width + 0.5), side)
        near = np.maximum(0.0, 1 - np.abs((np.arange(first, last) - middle + 0.5) / width))
        shares[place, first:last] = near / near.sum()
    return shares


def _taps(index: Integers, count: int, side: int) -> tuple[tuple[Integers, Floats], ...]:
    """The two neighbours in a table of ``side`` of each of ``count`` places, with their shares."""
    at = index.astype(np.float32) * np.float32(side - 1) / np.float32(max(count - 1, 1))
    first = at.astype(np.int64)
    share = at - first.astype(np.float32)
    return (first, 1 - share), (np.minimum(first + 1, side - 1), share)
