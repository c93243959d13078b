"""Images to image tokens: decoded, cut into tiles, encoded in batches."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pocketvlm.images import ImageSource, Preprocessing, TiledImage, cut_tiles, normalize, open_image

if TYPE_CHECKING:
    from pocketvlm.runtime.engines import Engine


@dataclass(frozen=True)
class Picture:
    """An image cut into tiles. ``digest`` tells pictures apart by what the model sees of them."""

    tiled: TiledImage = field(repr=False, compare=False)
    digest: bytes


def prepare(source: ImageSource | Picture, preprocessing: Preprocessing) -> Picture:
    """Open an image and cut it into tiles; a Picture stays as it is.

    Raises:
        ImageError: the image cannot be opened.
    """
    if isinstance(source, Picture):
        return source
    tiled = cut_tiles(open_image(source), preprocessing)
    digest = hashlib.sha256(repr((tiled.grid, tiled.thumbnail_index)).encode())
    digest.update(tiled.pixels.data)
    return Picture(tiled, digest.digest())


def encode(engine: Engine, picture: Picture, preprocessing: Preprocessing, batch: int) -> npt.NDArray[np.float32]:
    """float32 [image tokens, hidden], tiles in sequence order; at most ``batch`` tiles at a time (9 run as 4+4+1)."""
    pixels = picture.tiled.pixels
    parts = []
    for first in range(0, len(pixels), batch):
        normalized = normalize(pixels[first : first + batch], preprocessing)
        encoded = engine.encode(engine.patch_embed(normalized))
        # [tiles, tokens per tile, hidden] -> [tiles * tokens per tile, hidden]
        parts.append(encoded.reshape(-1, encoded.shape[-1]))
    return np.concatenate(parts)
