"""Images in, tiles out: resized, cut and normalized with numpy and Pillow, by one of the rules of ``images/rules``.

Sizes are (width, height) in pixels, grids (across, down) in tiles. Pillow's filters are the reference that the other
platforms are measured against.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.errors import BundleError, ImageError
from pocketvlm.images.open import MAX_PIXELS, MAX_SIDE, open_image
from pocketvlm.images.rules import RULES_OF_PARTS, check_tiling, plan_of
from pocketvlm.images.tiling import Grid, PicturePlan, ResizeFilter, Size, Tiling, thumbnail_index

if TYPE_CHECKING:
    from pocketvlm.bundle.vision import Vision

#: most tiles a candidate grid may have
MAX_TILES = 1024
#: most that means, and factors and their inverses, may be: what they make of a byte is finite in float32
MAX_SCALE = 1e6

RESIZE_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
}


@dataclass(frozen=True)
class Preprocessing(Tiling):
    """How a model family turns an image into tiles; a bundle's manifest carries these fields.

    The defaults are BlueLM-V-3B's (arXiv 2411.10640) with SigLIP's normalization.

    :raises ValueError: a field is out of range; the line names the field and the value.
    """

    resize_filter: ResizeFilter = "bicubic"
    """Pillow's filter of this name"""
    pad_color: tuple[int, int, int] = (0, 0, 0)
    """red, green, blue of the canvas around an image that is padded"""
    rescale: float = 1 / 255
    """factor from a byte to the values that mean and std refer to"""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """subtracted from each channel after rescaling"""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """each channel is divided by it"""

    def __post_init__(self) -> None:
        check_tiling(self)
        for across, down in self.candidates:
            side = self.tile_size * (self.part or 1)
            canvas_width, canvas_height = across * side, down * side
            too_large = max(canvas_width, canvas_height) > MAX_SIDE or canvas_width * canvas_height > MAX_PIXELS
            _require(
                not too_large and across * down <= MAX_TILES,
                f"candidates: {across}x{down} tiles of {side} px are more than {MAX_TILES} tiles, "
                f"{MAX_SIDE} px a side or {MAX_PIXELS} px",
            )
        _require(self.thumbnail in ("first", "last", "none"), f"thumbnail: {self.thumbnail!r} is not first, last, none")
        single = self.thumbnail_of_single_tile
        _require(isinstance(single, bool), f"thumbnail_of_single_tile: {single!r} is not true or false")
        _require(
            self.resize_filter in RESIZE_FILTERS,
            f"resize_filter: {self.resize_filter!r} is not one of {', '.join(RESIZE_FILTERS)}",
        )
        _require(
            len(self.pad_color) == 3 and all(isinstance(x, int) and 0 <= x <= 255 for x in self.pad_color),
            f"pad_color: {self.pad_color!r} is not three whole numbers from 0 to 255",
        )
        factor = f"from {1 / MAX_SCALE:g} to {MAX_SCALE:g}"
        _require(_is_factor(self.rescale), f"rescale: {self.rescale!r} is not a number {factor}")
        mean_fits = len(self.mean) == 3 and all(abs(x) <= MAX_SCALE for x in self.mean)
        _require(mean_fits, f"mean: {self.mean!r} is not three numbers of at most {MAX_SCALE:g}")
        std_fits = len(self.std) == 3 and all(map(_is_factor, self.std))
        _require(std_fits, f"std: {self.std!r} is not three numbers {factor}")


def preprocessing_of(vision: Vision) -> Preprocessing:
    """The preprocessing that a manifest describes.

    :raises BundleError: it is out of this module's bounds.
    """
    try:
        return Preprocessing(**{item.name: getattr(vision, item.name) for item in fields(Preprocessing)})
    except ValueError as error:
        raise BundleError(f"the manifest's vision is not valid: {error}") from error


@dataclass(frozen=True)
class TiledImage:
    """An image as its model sees it, in sequence order."""

    grid: Grid
    """tiles (across, down), thumbnail not counted"""
    pixels: npt.NDArray[np.uint8]
    """uint8 [tiles, tile, tile, 3]: row-major tiles, with the thumbnail where the family wants it"""
    thumbnail_index: int | None
    """position of the thumbnail in ``pixels``; None without one"""
    size: Size | None = None
    """of the image that was cut, pixels; None where it is a tile of one"""
    parts: tuple[Grid, ...] | None = None
    """by a rule of parts: each one's tiles (across, down), the thumbnail's among them; None: there is one, ``grid``"""

    @property
    def seen(self) -> tuple[Grid, ...]:
        """Of native resolution: the grids whose tiles see each other, in sequence order."""
        return (self.grid,) if self.parts is None else self.parts


def select(image_size: tuple[int, int], preprocessing: Preprocessing) -> Grid:
    """The grid (across, down) of an image of ``image_size`` (width, height) pixels."""
    return plan_of(image_size, preprocessing).grid


def sequence_length(grid: Grid, preprocessing: Preprocessing) -> int:
    """Number of tiles that an image cut into ``grid`` sends to the vision encoder, thumbnail included."""
    return grid[0] * grid[1] + (thumbnail_index(grid, preprocessing) is not None)


def cut_tiles(image: Image.Image, preprocessing: Preprocessing) -> TiledImage:
    """Resize an image as its rule plans and cut it into tiles, left to right and top to bottom.

    :raises ImageError: the image is not RGB and cannot be made so, or is too narrow to be cropped
    """
    image = image if image.mode == "RGB" else open_image(image)
    plan = plan_of(image.size, preprocessing)
    tile = preprocessing.tile_size
    canvas, thumbnail = laid_out(image, plan, preprocessing)
    if preprocessing.strategy in RULES_OF_PARTS:
        return _tiled(image.size, plan, preprocessing, _in_parts(plan, canvas, thumbnail, tile))
    pixels = _cut(np.asarray(canvas), tile)
    if thumbnail is not None and plan.thumbnail_index is not None:
        pixels = np.insert(pixels, plan.thumbnail_index, np.asarray(thumbnail), axis=0)
    return _tiled(image.size, plan, preprocessing, np.ascontiguousarray(pixels))


def put_together(size: Size, pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> TiledImage:
    """An image of ``size`` pixels of which ``cut_tiles`` made ``pixels`` before.

    :raises ImageError: it cannot have made so many of them
    """
    tile = preprocessing.tile_size
    if min(size) < 1 or max(size) > MAX_SIDE or size[0] * size[1] > MAX_PIXELS:
        raise ImageError(f"no picture has {size[0]} x {size[1]} pixels")
    plan = plan_of(size, preprocessing)
    wanted = (plan.tiles, tile, tile, 3)
    if pixels.dtype != np.uint8 or pixels.shape != wanted:
        raise ImageError(
            f"a picture of {size[0]} x {size[1]} pixels is cut into {list(wanted)}, not {list(pixels.shape)}"
        )
    return _tiled(size, plan, preprocessing, pixels)


def _tiled(size: Size, plan: PicturePlan, preprocessing: Preprocessing, pixels: npt.NDArray[np.uint8]) -> TiledImage:
    parts = plan.parts if preprocessing.strategy in RULES_OF_PARTS else None
    return TiledImage(plan.grid, pixels, plan.thumbnail_index, size, parts)


def _cut(pixels: npt.NDArray[np.uint8], tile: int) -> npt.NDArray[np.uint8]:
    """uint8 [down * tile, across * tile, 3] -> [down * across, tile, tile, 3]"""
    down, across = pixels.shape[0] // tile, pixels.shape[1] // tile
    # [down * tile, across * tile, 3] -> [down, tile, across, tile, 3] -> [down, across, tile, tile, 3]
    pixels = pixels.reshape(down, tile, across, tile, 3).swapaxes(1, 2)
    # [down, across, tile, tile, 3] -> [down * across, tile, tile, 3]
    return pixels.reshape(down * across, tile, tile, 3)


def _in_parts(
    plan: PicturePlan, canvas: Image.Image, thumbnail: Image.Image | None, tile: int
) -> npt.NDArray[np.uint8]:
    """The tiles of each part, one part after the other, the thumbnail where the plan says."""
    across, down = plan.grid
    width, height = plan.part[0] * tile, plan.part[1] * tile
    pixels = np.asarray(canvas)
    parts = [
        _cut(pixels[row * height : (row + 1) * height, column * width : (column + 1) * width], tile)
        for row in range(down)
        for column in range(across)
    ]
    if thumbnail is not None and plan.thumbnail_index is not None:
        parts.insert(plan.thumbnail_index, _cut(np.asarray(thumbnail), tile))
    # (parts of one row of tiles are views of the canvas, and what is concatenated keeps their order in memory)
    return np.ascontiguousarray(np.concatenate(parts))


def normalize(pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """(x * rescale - mean) / std in float32: uint8 [tiles, H, W, 3] -> contiguous float32 [tiles, 3, H, W].

    :raises ValueError: ``pixels`` has another shape or type.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise ValueError(f"pixels must be uint8 [tiles, H, W, 3], not {pixels.dtype} {list(pixels.shape)}")
    # [tiles, H, W, 3] -> [tiles, 3, H, W]
    channels_first = pixels.transpose(0, 3, 1, 2)
    output: npt.NDArray[np.float32] = np.empty(channels_first.shape, dtype=np.float32)
    np.multiply(channels_first, np.float32(preprocessing.rescale), out=output)
    # [3] -> [3, 1, 1]
    output -= np.asarray(preprocessing.mean, dtype=np.float32)[:, None, None]
    output /= np.asarray(preprocessing.std, dtype=np.float32)[:, None, None]
    return output


def laid_out(
    image: Image.Image, plan: PicturePlan, preprocessing: Preprocessing
) -> tuple[Image.Image, Image.Image | None]:
    """The image on the canvas of its grid, and its thumbnail where it gets one.

    :raises ImageError: it would be resized or padded to more than MAX_PIXELS
    """
    tile = preprocessing.tile_size
    small = (plan.thumbnail_part[0] * tile, plan.thumbnail_part[1] * tile)
    if any(width * height > MAX_PIXELS for width, height in (*plan.resizes, small)):
        raise ImageError(f"a picture of {image.width} x {image.height} pixels is too narrow for a crop of it")
    if plan.square**2 > MAX_PIXELS:
        raise ImageError(f"a picture of {image.width} x {image.height} pixels is too narrow for a square around it")
    stages = [_squared(image, plan, preprocessing) if plan.square else image]
    for size in plan.resizes:
        stages.append(_resized(stages[-1], size, preprocessing))
    canvas_size = (plan.canvas[0] * tile, plan.canvas[1] * tile)
    canvas = stages[-1]
    if canvas.size != canvas_size:
        canvas = Image.new("RGB", canvas_size, preprocessing.pad_color)
        canvas.paste(stages[-1], plan.place)
    if plan.thumbnail_index is None:
        return canvas, None
    return canvas, _resized(stages[plan.thumbnail_of], small, preprocessing)


def _resized(image: Image.Image, size: tuple[int, int], preprocessing: Preprocessing) -> Image.Image:
    return image.resize(size, RESIZE_FILTERS[preprocessing.resize_filter])


def _squared(image: Image.Image, plan: PicturePlan, preprocessing: Preprocessing) -> Image.Image:
    side = plan.square
    if image.size == (side, side):
        return image
    square = Image.new("RGB", (side, side), preprocessing.pad_color)
    square.paste(image, plan.inset(image.size))
    return square


def _is_factor(value: float) -> bool:
    return 1 / MAX_SCALE <= value <= MAX_SCALE


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
