"""Images to image tokens: decoded, cut into tiles, encoded in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from pocketvlm.images.open import ImageSource, open_image
from pocketvlm.images.packing import PackedImage, pack, packed
from pocketvlm.images.prepare import Preprocessing, TiledImage, cut_tiles, normalize

if TYPE_CHECKING:
    from pocketvlm.bundle.open import Bundle
    from pocketvlm.bundle.vision import Vision
    from pocketvlm.images.tiling import Grid
    from pocketvlm.runtime.engines import Engine, NativeEngine
    from pocketvlm.runtime.native import NativeVision

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Picture:
    """An image cut into tiles. ``digest`` tells pictures apart by what the model sees of them."""

    tiled: TiledImage = field(repr=False, compare=False)
    digest: bytes


#: A picture and the tokens of its tiles, one after the other -> its image tokens; float32 [tokens, hidden] both.
Pack = Callable[[Picture, Floats], Floats]


def prepare(source: ImageSource | Picture, preprocessing: Preprocessing) -> Picture:
    """Open an image and cut it into tiles; a Picture stays as it is.

    :raises ImageError: the image cannot be opened
    """
    if isinstance(source, Picture):
        return source
    return picture_of(cut_tiles(open_image(source), preprocessing))


def picture_of(tiled: TiledImage) -> Picture:
    """An image that is cut already."""
    digest = hashlib.sha256(repr((tiled.grid, tiled.thumbnail_index, tiled.size, tiled.parts)).encode())
    digest.update(tiled.pixels.data)
    return Picture(tiled, digest.digest())


def packed_of(picture: Picture, settings: Vision) -> PackedImage | None:
    """How its tiles' tokens become one picture again; None where they follow one another."""
    tiled, packing = picture.tiled, settings.packing
    if packing is None or tiled.size is None:
        return None
    return packed(tiled.size, tiled.grid, settings.tokens_per_side, packing.most_tiles)


def count_tokens(picture: Picture, settings: Vision) -> int:
    """The image tokens that a picture becomes."""
    if settings.patches is not None:
        return sum(settings.patches.tokens_of(picture.tiled.seen))
    plan = packed_of(picture, settings)
    return len(picture.tiled.pixels) * settings.tokens_per_tile if plan is None else plan.tokens


def as_they_are(picture: Picture, tokens: Floats) -> Floats:
    """The tiles' tokens are the image's."""
    return tokens


def pack_of(bundle: Bundle) -> Pack:
    """What makes an image's tokens of its tiles' in this bundle."""
    settings = bundle.manifest.vision
    if settings is None or settings.packing is None:
        return as_they_are
    newline = np.frombuffer(bundle.read(settings.packing.newline), "<f4").astype(np.float32, copy=False)

    def packed_tokens(picture: Picture, tokens: Floats) -> Floats:
        plan = packed_of(picture, settings)
        return tokens if plan is None else pack(tokens, plan, newline)

    return packed_tokens


def encode(
    engine: Engine,
    picture: Picture,
    preprocessing: Preprocessing,
    batch: int,
    ahead: Executor | None = None,
    native: NativeVision | None = None,
) -> Floats:
    """float32 [image tokens, hidden], tiles in sequence order; at most ``batch`` tiles at a time (9 run as 4+4+1).

    ``ahead`` normalizes and patch-embeds the next tiles while the encoder runs these (paper, 3.3); without it all is
    done in turn. ``native``: of pictures that are encoded as a whole.
    """
    pixels = picture.tiled.pixels
    if native is not None:
        ends = np.cumsum([across * down for across, down in picture.tiled.seen])[:-1]
        parts = zip(np.split(pixels, ends), picture.tiled.seen, strict=True)
        engine = cast("NativeEngine", engine)
        return np.concatenate([_encode_part(engine, part, grid, preprocessing, batch, native) for part, grid in parts])

    def embed(first: int) -> Floats:
        return engine.patch_embed(normalize(pixels[first : first + batch], preprocessing))

    starts = range(0, len(pixels), batch)
    patches = map(embed, starts) if ahead is None else _one_ahead(ahead, embed, starts)
    # [tiles, tokens per tile, hidden] -> [tiles * tokens per tile, hidden]
    return np.concatenate([part.reshape(-1, part.shape[-1]) for part in map(engine.encode, patches)])


def _encode_part(
    engine: NativeEngine,
    pixels: npt.NDArray[np.uint8],
    grid: Grid,
    preprocessing: Preprocessing,
    batch: int,
    native: NativeVision,
) -> Floats:
    """float32 [tokens, hidden] of tiles that all see each other, which stand in ``grid``."""
    rows = native.rows(grid)

    def embed(first: int) -> Floats:
        tiles = normalize(pixels[first : first + batch], preprocessing)
        return engine.patch_embed(tiles) if rows is None else engine.patch_embed_at(tiles, rows[first : first + batch])

    whole = np.concatenate([embed(first) for first in range(0, len(pixels), batch)])
    # [tokens, 1, hidden] -> [tokens, hidden]
    return engine.encode_picture(whole, native.place(grid))[:, 0]


def _one_ahead(ahead: Executor, compute: Callable[[int], Floats], items: Sequence[int]) -> Iterator[Floats]:
    """``map(compute, items)``, where ``ahead`` is one item ahead."""
    upcoming = ahead.submit(compute, items[0])
    for item in items[1:]:
        done = upcoming.result()
        upcoming = ahead.submit(compute, item)
        yield done
    yield upcoming.result()
