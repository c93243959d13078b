"""Images in, tiles out: resized, cut and normalized with numpy and Pillow, by one of the rules of ``images/rules``.

Sizes are (width, height) in pixels, grids (across, down) in tiles. Pillow's bicubic filter is the reference that the
other platforms are measured against.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.errors import BundleError
from pocketvlm.images.open import MAX_PIXELS, MAX_SIDE, open_image
from pocketvlm.images.rules import RULES, select_grid
from pocketvlm.images.tiling import PAPER_CANDIDATES, Grid, fitted_size

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Vision

#: most tiles a candidate grid may have
MAX_TILES = 1024
#: most that means, and factors and their inverses, may be: what they make of a byte is finite in float32
MAX_SCALE = 1e6

RESIZE_FILTERS = {"bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocessing:
    """How a model family turns an image into tiles; a bundle's manifest carries these fields.

    The defaults are BlueLM-V-3B's (arXiv 2411.10640) with SigLIP's normalization.

    :raises ValueError: a field is out of range; the line names the field and the value.
    """

    tile_size: int = 384
    """side of the square tiles, pixels"""
    strategy: str = "relaxed"
    """a key of ``pocketvlm.images.rules.RULES``; it also says whether the image is padded or stretched"""
    candidates: tuple[Grid, ...] = PAPER_CANDIDATES
    """grids to choose from, (across, down)"""
    alpha: float = 0.1
    """threshold of the relaxed rule"""
    thumbnail: Literal["first", "last", "none"] = "first"
    """where the whole image, stretched to one tile, stands in the sequence"""
    thumbnail_of_single_tile: bool = True
    """whether a 1x1 grid gets a thumbnail as well"""
    resize_filter: Literal["bicubic"] = "bicubic"
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
        # select_grid checks tile size, strategy, candidates and alpha, each with its own line.
        select((1, 1), self)
        for across, down in self.candidates:
            canvas_width, canvas_height = across * self.tile_size, down * self.tile_size
            too_large = max(canvas_width, canvas_height) > MAX_SIDE or canvas_width * canvas_height > MAX_PIXELS
            _require(
                not too_large and across * down <= MAX_TILES,
                f"candidates: {across}x{down} tiles of {self.tile_size} px are more than {MAX_TILES} tiles, "
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


def select(image_size: tuple[int, int], preprocessing: Preprocessing) -> Grid:
    """The grid (across, down) of an image of ``image_size`` (width, height) pixels."""
    return select_grid(
        *image_size,
        tile=preprocessing.tile_size,
        candidates=preprocessing.candidates,
        strategy=preprocessing.strategy,
        alpha=preprocessing.alpha,
    )


def thumbnail_index(grid: Grid, preprocessing: Preprocessing) -> int | None:
    """Position of the thumbnail in the sequence of an image cut into ``grid``; None if it gets none."""
    tiles = grid[0] * grid[1]
    if preprocessing.thumbnail == "none" or (tiles == 1 and not preprocessing.thumbnail_of_single_tile):
        return None
    return 0 if preprocessing.thumbnail == "first" else tiles


def sequence_length(grid: Grid, preprocessing: Preprocessing) -> int:
    """Number of tiles that an image cut into ``grid`` sends to the vision encoder, thumbnail included."""
    return grid[0] * grid[1] + (thumbnail_index(grid, preprocessing) is not None)


def cut_tiles(image: Image.Image, preprocessing: Preprocessing) -> TiledImage:
    """Resize an image to the grid that fits it and cut it into tiles, left to right and top to bottom.

    "pad" strategies keep the aspect ratio and centre the image on ``pad_color``; "stretch" fills the grid. The
    thumbnail is the whole image stretched to one tile.

    :raises ImageError: the image is not RGB and cannot be made so.
    """
    image = image if image.mode == "RGB" else open_image(image)
    grid = select(image.size, preprocessing)
    across, down = grid
    tile = preprocessing.tile_size
    pixels = np.asarray(canvas_of(image, grid, preprocessing))
    # [down * tile, across * tile, 3] -> [down, tile, across, tile, 3] -> [down, across, tile, tile, 3]
    pixels = pixels.reshape(down, tile, across, tile, 3).swapaxes(1, 2)
    # [down, across, tile, tile, 3] -> [down * across, tile, tile, 3]
    pixels = pixels.reshape(down * across, tile, tile, 3)
    index = thumbnail_index(grid, preprocessing)
    if index is not None:
        pixels = np.insert(pixels, index, np.asarray(resized(image, (tile, tile), preprocessing)), axis=0)
    return TiledImage(grid, np.ascontiguousarray(pixels), index)


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


def resized(image: Image.Image, size: tuple[int, int], preprocessing: Preprocessing) -> Image.Image:
    """The image at ``size`` by the preprocessing's filter."""
    return image.resize(size, RESIZE_FILTERS[preprocessing.resize_filter])


def image_box(size: tuple[int, int], grid: Grid, preprocessing: Preprocessing) -> tuple[int, int, int, int]:
    """Where the image lies on the canvas of ``grid``: (left, top, width, height), pixels."""
    canvas_width, canvas_height = (count * preprocessing.tile_size for count in grid)
    rule = RULES[preprocessing.strategy]
    if rule.fit == "stretch":
        return 0, 0, canvas_width, canvas_height
    width, height = fitted_size(*size, grid, preprocessing.tile_size, round_up=rule.round_up)
    return (canvas_width - width) // 2, (canvas_height - height) // 2, width, height


def canvas_of(image: Image.Image, grid: Grid, preprocessing: Preprocessing) -> Image.Image:
    """The image resized onto its grid, padded or stretched."""
    left, top, width, height = image_box(image.size, grid, preprocessing)
    fitted = resized(image, (width, height), preprocessing)
    canvas_size = (grid[0] * preprocessing.tile_size, grid[1] * preprocessing.tile_size)
    if fitted.size == canvas_size:
        return fitted
    canvas = Image.new("RGB", canvas_size, preprocessing.pad_color)
    canvas.paste(fitted, (left, top))
    return canvas


def _is_factor(value: float) -> bool:
    return 1 / MAX_SCALE <= value <= MAX_SCALE


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
