"""How a picture of some size is cut, for whoever draws it: the plan by which it is cut for the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pocketvlm.errors import one_line
from pocketvlm.images.open import MAX_PIXELS, MAX_SIDE
from pocketvlm.images.packing import packed
from pocketvlm.images.prepare import preprocessing_of
from pocketvlm.images.rules import plan_of
from pocketvlm.serve.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pocketvlm.bundle.vision import Vision
    from pocketvlm.serve.forms import PictureTiling


def _digits(given: Any) -> Any:
    """A whole number as text; pydantic alone would take spaces, signs and 5.0 too."""
    return int(given) if given.isascii() and given.isdecimal() and len(given) <= 5 else None


Side = Annotated[int, BeforeValidator(_digits), Field(ge=1, le=MAX_SIDE)]


class TilingQuery(BaseModel):
    """Of a picture, pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: Side
    height: Side


def tiling_of(query: Iterable[tuple[str, str]], vision: Vision) -> PictureTiling:
    """Of a picture of ``width`` and ``height`` pixels: the canvas that it is laid on, where, in tiles of which size.

    :raises RequestError: the sizes are none, or more than is opened
    """
    width, height = _sides(list(query))
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
    side, resized, (left, top) = plan.square, plan.resizes[-1], plan.place
    if side:
        scale = resized[0] / side
        left, top = (round(pixels * scale) for pixels in plan.inset((width, height)))
        resized = (max(round(width * scale), 1), max(round(height * scale), 1))
    return {
        "across": across,
        "down": down,
        "tile": preprocessing.tile_size,
        "place": {"left": left, "top": top},
        "size": {"width": resized[0], "height": resized[1]},
        "pad_color": list(preprocessing.pad_color),
        "thumbnail_index": plan.thumbnail_index,
        "tiles": tiles,
        "tokens": tokens,
    }


def _sides(query: list[tuple[str, str]]) -> tuple[int, int]:
    try:
        asked = TilingQuery.model_validate(dict(query))
    except ValidationError as error:
        name = one_line(error.errors(include_url=False)[0]["loc"][0], 40)
        if name in TilingQuery.model_fields:
            what = f"{name} must be a whole number of pixels from 1 to {MAX_SIDE}"
        else:
            what = f"{name}: unknown parameter"
        raise RequestError(400, what, name, "invalid_value") from None
    if len(query) > len(TilingQuery.model_fields):
        raise RequestError(400, "width and height are one number each", "width", "invalid_value")
    return asked.width, asked.height
