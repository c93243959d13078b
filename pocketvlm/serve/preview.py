"""How a picture of some size is cut, for whoever draws it: the plan by which it is cut for the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pocketvlm.images.open import MAX_PIXELS, MAX_SIDE
from pocketvlm.images.packing import packed
from pocketvlm.images.prepare import preprocessing_of
from pocketvlm.images.rules import plan_of
from pocketvlm.serve.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pocketvlm.bundle.vision import Vision


def tiling_of(query: Mapping[str, str], vision: Vision) -> dict[str, Any]:
    """Of a picture of ``width`` and ``height`` pixels: the canvas that it is laid on, where, in tiles of which size.

    :raises RequestError: the sizes are none, or more than is opened
    """
    width, height = (_side(query, name) for name in ("width", "height"))
    if width * height > MAX_PIXELS:
        raise RequestError(400, f"{width} x {height} pixels are more than the {MAX_PIXELS} that are opened", "width")
    preprocessing = preprocessing_of(vision)
    plan = plan_of((width, height), preprocessing)
    across, down = plan.canvas
    tiles = plan.tiles
    tokens = vision.tokens_of(plan)
    if vision.packing is not None:
        tokens = packed((width, height), plan.grid, vision.tokens_per_side, vision.packing.most_tiles).tokens
    # What is resized is the picture, or a square in whose middle it lies.
    side, resized, place = plan.square, plan.resizes[-1], plan.place
    if side:
        scale = resized[0] / side
        left, top = plan.inset((width, height))
        place = (round(left * scale), round(top * scale))
        resized = (max(round(width * scale), 1), max(round(height * scale), 1))
    return {
        "across": across,
        "down": down,
        "tile": preprocessing.tile_size,
        "place": dict(zip(("left", "top"), place, strict=True)),
        "size": dict(zip(("width", "height"), resized, strict=True)),
        "pad_color": list(preprocessing.pad_color),
        "thumbnail_index": plan.thumbnail_index,
        "tiles": tiles,
        "tokens": tokens,
    }


def _side(query: Mapping[str, str], name: str) -> int:
    given = query.get(name, "")
    if not (given.isascii() and given.isdecimal() and len(given) <= 5 and 1 <= int(given) <= MAX_SIDE):
        raise RequestError(400, f"{name} must be a whole number of pixels from 1 to {MAX_SIDE}", name, "invalid_value")
    return int(given)
