"""Positions of tokens along three axes, which Qwen2-VL calls M-RoPE (arXiv 2409.12191, section 2.1).

A token of text has one position on all axes, one more than the largest before it; the tokens of a picture have the
text's on the first, and beside it their row on the second and their column on the third.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pocketvlm.images.tiling import Grid

Integers = npt.NDArray[np.int64]
AXES = 3


def positions_of(picture_index: Integers, grids: Sequence[Grid]) -> Integers:
    """int64 [3, tokens] of a prompt whose tokens are of the picture with that index, -1: of text.

    ``grids``: (across, down) in tokens, whose product are a picture's tokens. The text behind a picture goes on at its
    longer side (transformers: ``get_rope_index``), so that a position is never larger than the token's place.
    """
    found = np.empty((AXES, len(picture_index)), np.int64)
    at = first = 0
    while first < len(picture_index):
        index = int(picture_index[first])
        if index < 0:
            behind = np.flatnonzero(picture_index[first:] >= 0)
            count = int(behind[0]) if len(behind) else len(picture_index) - first
            found[:, first : first + count] = at + np.arange(count)
            at += count
        else:
            across, down = grids[index]
            count = across * down
            place = np.arange(count)
            found[:, first : first + count] = at + np.stack([np.zeros_like(place), place // across, place % across])
            at += max(across, down)
        first += count
    return found


def axis_of_pairs(sections: Sequence[int], *, interleaved: bool) -> Integers:
    """int64 [pairs]: the axis by which each pair of a head's channels turns.

    ``sections``: how many pairs each axis has. They lie one axis after the other, or ``interleaved``: axis 1 at 1, 4,
    7 and so on, axis 2 at 2, 5, 8, and the rest axis 0's (Qwen3-VL).
    """
    if not interleaved:
        return np.repeat(np.arange(len(sections)), sections)
    axes = np.zeros(sum(sections), np.int64)
    for axis in range(1, len(sections)):
        axes[axis : len(sections) * sections[axis] : len(sections)] = axis
    return axes
