"""The golden file of tiles: what resizing, cutting and normalizing make of some pictures, on every platform.

Run as ``python -m tests.support.portable_tiles`` it writes ``tests/golden/tiles.json`` from this version of Pillow.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.images.open import open_image
from pocketvlm.images.prepare import Preprocessing, cut_tiles, normalize
from pocketvlm.images.rules import RULES_OF_PARTS
from pocketvlm.images.rules.idefics3 import grids
from pocketvlm.images.rules.lfm2 import grids as lfm2_grids
from pocketvlm.images.rules.minicpmv import grids as minicpmv_grids
from pocketvlm.images.rules.smart_resize import MOST_ASPECT
from pocketvlm.images.tiling import grid_candidates

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "tiles.json"
DESCRIPTION = (
    "Tiles of pictures (pocketvlm/images). The pixel at column x and row y of a picture has red = (37 x + 11 y + "
    "x y / 7) mod 256, green = (5 x + 53 y) mod 256, blue = (x * x / 3 + 29 y) mod 256 (divisions rounded down) and "
    "alpha = 255, or where 'transparent' is true (13 x + 7 y) mod 256. sha256: of the tiles' bytes [tiles, tile, tile, "
    "3] in sequence order; normalized_sha256: of the float32 values [tiles, 3, tile, tile], little-endian. parts: "
    "tiles (across, down) of each part in sequence order, where there are parts."
)
PAPER, SCREEN = ((3, 3), (3, 2), (3, 1), (2, 3), (2, 2), (2, 1), (1, 3), (1, 2), (1, 1)), grid_candidates(4, 4, 8)
SIGLIP = {"rescale": 1 / 255, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
CLIP = {
    "rescale": 0.00392156862745098,
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
FORMS: tuple[dict[str, Any], ...] = (
    {"tile_size": 72, "strategy": "relaxed", "candidates": SCREEN, "thumbnail": "first", **SIGLIP},
    {"tile_size": 56, "strategy": "llava-next", "candidates": PAPER, "pad_color": (127, 3, 250), **CLIP},
    {"tile_size": 64, "strategy": "internvl", "candidates": grid_candidates(6, 6, 6), "thumbnail": "last",
     "thumbnail_of_single_tile": False, **CLIP},
    {"tile_size": 384, "strategy": "relaxed", "candidates": PAPER, "thumbnail": "none", **SIGLIP},
    {"tile_size": 48, "strategy": "idefics3", "candidates": grids(4), "longest_edge": 192, "thumbnail": "last",
     "thumbnail_of_single_tile": False, "resize_filter": "lanczos", **SIGLIP},
    {"tile_size": 60, "strategy": "idefics3", "candidates": ((1, 1),), "longest_edge": 256, "thumbnail": "last",
     "thumbnail_of_single_tile": False, "resize_filter": "lanczos", **SIGLIP},
    {"tile_size": 45, "strategy": "center-crop", "candidates": ((1, 1),), "thumbnail": "none", **CLIP},
    {"tile_size": 56, "strategy": "internvl", "candidates": ((1, 1),), "thumbnail": "none",
     "resize_filter": "bilinear", **SIGLIP},
    {"tile_size": 12, "strategy": "lfm2", "candidates": lfm2_grids(2, 6), "part": 4, "min_pixels": 4 * 144,
     "max_pixels": 30 * 144, "thumbnail": "last", "thumbnail_of_single_tile": False, "resize_filter": "bilinear",
     **SIGLIP},
    {"tile_size": 44, "strategy": "pad-square", "candidates": ((1, 1),), "thumbnail": "none", "pad_color": (3, 90, 255),
     **CLIP},
    {"tile_size": 5, "strategy": "minicpmv", "candidates": minicpmv_grids(4), "min_pixels": 40**2, "max_pixels": 40**2,
     "thumbnail": "first", "thumbnail_of_single_tile": False, **SIGLIP},
)  # fmt: skip
SIZES = ((1, 1), (1, 300), (72, 72), (71, 73), (144, 143), (500, 37), (333, 512), (640, 480), (1080, 2400))


def pixels(width: int, height: int, *, transparent: bool) -> npt.NDArray[np.uint8]:
    """uint8 [height, width, 4]: what the description says."""
    # [height, 1], [1, width]
    y, x = np.mgrid[:height, :width]
    alpha = 13 * x + 7 * y if transparent else np.full_like(x, 255)
    channels = (37 * x + 11 * y + x * y // 7, 5 * x + 53 * y, x * x // 3 + 29 * y, alpha)
    return (np.stack(channels, axis=-1) % 256).astype(np.uint8)


def case(size: tuple[int, int], form: dict[str, Any], *, transparent: bool) -> dict[str, Any]:
    """A picture, how it is cut, and what comes out."""
    preprocessing = Preprocessing(**form)
    tiled = cut_tiles(open_image(pixels(*size, transparent=transparent)), preprocessing)
    names = (
        "tile_size", "strategy", "candidates", "alpha", "longest_edge", "thumbnail", "thumbnail_of_single_tile",
        "resize_filter", "pad_color", "rescale", "mean", "std",
    )  # fmt: skip
    own = () if tiled.parts is None else ("min_pixels", "max_pixels", "part")
    return {
        "width": size[0],
        "height": size[1],
        "transparent": transparent,
        **{name: getattr(preprocessing, name) for name in names + own},
        **({} if tiled.parts is None else {"parts": tiled.parts}),
        "grid": tiled.grid,
        "tiles": len(tiled.pixels),
        "thumbnail_index": tiled.thumbnail_index,
        "sha256": hashlib.sha256(tiled.pixels.tobytes()).hexdigest(),
        "normalized_sha256": hashlib.sha256(normalize(tiled.pixels, preprocessing).astype("<f4").tobytes()).hexdigest(),
    }


def golden() -> dict[str, Any]:
    """The content of the golden file, as JSON gives it back."""
    cases = [
        case(size, form, transparent=(index + at) % 3 == 0)
        for index, form in enumerate(FORMS)
        for at, size in enumerate(SIZES)
        if form["tile_size"] < 384 or size in ((333, 512), (1080, 2400))
        if form["strategy"] not in RULES_OF_PARTS or max(size) <= MOST_ASPECT * min(size)
    ]
    content: dict[str, Any] = json.loads(json.dumps({"description": DESCRIPTION, "cases": cases}))
    return content


def write() -> None:
    """One line a case."""
    content = golden()
    lines = ",\n  ".join(json.dumps(one) for one in content["cases"])
    GOLDEN.write_text(
        f'{{\n "description": {json.dumps(content["description"])},\n "cases": [\n  {lines}\n ]\n}}\n', encoding="utf-8"
    )


if __name__ == "__main__":
    write()
