"""The token ids of an image: what a layout puts around the tiles, and a placeholder for each image token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pocketvlm.bundle.vision import ImageLayout
from pocketvlm.errors import CapacityError
from pocketvlm.images.tiling import Grid


def image_tokens(
    grid: Grid,
    thumbnail_index: int | None,
    layout: ImageLayout,
    *,
    placeholder: int,
    tokens_per_tile: int | Sequence[int],
    packed: int | None = None,
    number: int = 0,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Token ids of an image cut into ``grid``, and the image row that replaces each (-1: none), both int64 [tokens].

    Rows count the image tokens of all tiles in sequence order; ``thumbnail_index`` is the thumbnail's place among the
    tiles, first or last. ``tokens_per_tile``: of all, or each one's in sequence order. Of an image that is ``packed``
    (``pocketvlm.images.packing``) they are so many, and nothing stands between them. ``number``: of images before it in
    the conversation.

    :raises CapacityError: the layout has no number for it
    """
    ids: list[int] = [*layout.image_start, *_numbered(layout, number)]
    is_image = [False] * len(ids)

    def add(around: Sequence[int], tokens: int = 0) -> None:
        ids.extend([*around, *[placeholder] * tokens])
        is_image.extend([False] * len(around) + [True] * tokens)

    across, down = grid
    tiles = across * down + (thumbnail_index is not None)
    counts = iter([tokens_per_tile] * tiles if isinstance(tokens_per_tile, int) else tokens_per_tile)
    alone = thumbnail_index is None and grid == (1, 1)
    if packed is not None:
        add((), packed)
        thumbnail_index, down = None, 0
    if thumbnail_index == 0:
        add(layout.thumbnail, next(counts))
        add(layout.thumbnail_end or ())
    if alone and layout.lone is not None and packed is None:
        add(layout.lone, next(counts))
        add(layout.thumbnail_end or ())
        down = 0
    for row in range(down):
        for column in range(across):
            add(layout.tile[row][column], next(counts))
            add(layout.tile_end or ())
        last = layout.last_row_end if row == down - 1 else None
        add(layout.row_end if last is None else last)
    if thumbnail_index is not None and thumbnail_index > 0:
        add(layout.thumbnail, next(counts))
        add(layout.thumbnail_end or ())
    add(layout.image_end)
    mask = np.array(is_image)
    return np.array(ids, np.int64), np.where(mask, np.cumsum(mask) - 1, -1)


def _numbered(layout: ImageLayout, number: int) -> Sequence[int]:
    if layout.numbers is None:
        return ()
    if number >= len(layout.numbers):
        raise CapacityError(f"this bundle has numbers for {len(layout.numbers)} images of a conversation, not for more")
    return layout.numbers[number]
