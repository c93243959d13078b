"""What a page draws of a picture is what the model gets of it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pocketvlm.images.prepare import cut_tiles, preprocessing_of
from pocketvlm.serve.preview import tiling_of
from tests.support.bundles import manifest


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (64, 64), (31, 200)])
@pytest.mark.parametrize("strategy", ["pad-square", "internvl"])
def test_a_picture_of_one_tile_is_drawn_where_it_lies(strategy: str, size: tuple[int, int]) -> None:
    own = manifest().vision
    assert own is not None
    changes = {"strategy": strategy, "candidates": ((1, 1),), "thumbnail": "none", "thumbnail_of_single_tile": False}
    vision = own.model_copy(update={**changes, "tile_size": 60, "pad_color": (0, 0, 255)})
    found = tiling_of([("width", str(size[0])), ("height", str(size[1]))], vision)
    cut = cut_tiles(Image.new("RGB", size, (255, 0, 0)), preprocessing_of(vision)).pixels[0]
    # uint8 [tile, tile, 3] -> the rows and columns that are more red than blue
    red = cut[..., 0] > cut[..., 2]
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    place, drawn = found["place"], found["size"]
    assert abs(rows[0] - place["top"]) <= 1 and abs(columns[0] - place["left"]) <= 1
    assert abs(len(rows) - drawn["height"]) <= 1 and abs(len(columns) - drawn["width"]) <= 1
