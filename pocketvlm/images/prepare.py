"""Images in, tiles out: hostile files opened or refused, then resized, cut and normalized with numpy and Pillow.

Sizes are (width, height) in pixels, grids (across, down) in tiles. Pillow's bicubic filter is the reference that the
other platforms are measured against.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from pocketvlm.errors import BundleError, ImageError, one_line
from pocketvlm.images.tiling import PAPER_CANDIDATES, STRATEGIES, Grid, fitted_size, select_grid

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Vision

#: most pixels of an image or a canvas: 256 MiB decoded, as Pillow keeps four bytes a pixel
MAX_PIXELS = 64 * 1024 * 1024
#: longest side of an image or a canvas, pixels
MAX_SIDE = 16384
#: largest file that is opened, bytes
MAX_FILE_BYTES = 256 * 1024 * 1024
#: most tiles a candidate grid may have
MAX_TILES = 1024
#: most that means, and factors and their inverses, may be: what they make of a byte is finite in float32
MAX_SCALE = 1e6
#: what Pillow may decode; left out are the formats that start other programs (EPS) or that nobody's camera writes
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

RESIZE_FILTERS = {"bicubic": Image.Resampling.BICUBIC}
WHITE = (255, 255, 255)

#: a drawn grid: longest side aimed at and never exceeded, pixels; colours
DRAWN_CANVAS = 640
DRAWN_LIMIT = 4096
TILE_COLOR = "#e8590c"
THUMBNAIL_COLOR = "#1c6dd0"
BACKGROUND_COLOR = "#ffffff"

#: EXIF orientation -> the operation that sets the image upright
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION_TAG = 0x0112

ImageSource = str | os.PathLike[str] | bytes | bytearray | Image.Image | npt.NDArray[Any]

# warnings.catch_warnings swaps a list that all threads share: they decode one after the other
_WARNINGS_LOCK = threading.Lock()


@dataclass(frozen=True)
class Preprocessing:
    """How a model family turns an image into tiles; a bundle's manifest carries these fields.

    The defaults are BlueLM-V-3B's (arXiv 2411.10640) with SigLIP's normalization.

    Raises:
        ValueError: a field is out of range; the line names the field and the value.
    """

    tile_size: int = 384
    """side of the square tiles, pixels"""
    strategy: str = "relaxed"
    """a key of ``pocketvlm.images.tiling.STRATEGIES``; it also says whether the image is padded or stretched"""
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

    Raises:
        BundleError: it is out of this module's bounds.
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


def open_image(source: ImageSource) -> Image.Image:
    """Decode an image to RGB: upright, first frame, transparency over white, 16 bits scaled to 8.

    ``source`` is a path, an encoded file as bytes, a Pillow image, or a uint8 array [height, width],
    [height, width, 1 | 3 | 4] (grey, RGB, RGBA). Grey images of 32-bit integers are read as 16-bit values (Pillow's
    convention), those of floats as 0 to 1 or 0 to 255; beyond that range they are stretched from their minimum to
    their maximum.

    Raises:
        ImageError: the source is missing, damaged, too large (MAX_PIXELS, MAX_SIDE, MAX_FILE_BYTES) or no image.
    """
    if isinstance(source, Image.Image):
        return _to_rgb(source, "the image")
    if isinstance(source, np.ndarray):
        return _to_rgb(_from_array(source), "the array")
    if isinstance(source, bytes | bytearray):
        _check_file_size(len(source), "the image's bytes")
        return _decode(io.BytesIO(source), "the image's bytes")
    if isinstance(source, str | os.PathLike):
        return _open_file(Path(os.fsdecode(source)))
    raise ImageError(f"an image must be a path, bytes, a Pillow image or a uint8 array, not {type(source).__name__}")


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

    Raises:
        ImageError: the image is not RGB and cannot be made so.
    """
    image = image if image.mode == "RGB" else open_image(image)
    grid = select(image.size, preprocessing)
    across, down = grid
    tile = preprocessing.tile_size
    pixels = np.asarray(_canvas(image, grid, preprocessing))
    # [down * tile, across * tile, 3] -> [down, tile, across, tile, 3] -> [down, across, tile, tile, 3]
    pixels = pixels.reshape(down, tile, across, tile, 3).swapaxes(1, 2)
    # [down, across, tile, tile, 3] -> [down * across, tile, tile, 3]
    pixels = pixels.reshape(down * across, tile, tile, 3)
    index = thumbnail_index(grid, preprocessing)
    if index is not None:
        pixels = np.insert(pixels, index, np.asarray(_resize(image, (tile, tile), preprocessing)), axis=0)
    return TiledImage(grid, np.ascontiguousarray(pixels), index)


def normalize(pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """(x * rescale - mean) / std in float32: uint8 [tiles, H, W, 3] -> contiguous float32 [tiles, 3, H, W].

    Raises:
        ValueError: ``pixels`` has another shape or type.
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


def drawn_tile_size(grids: Iterable[Grid]) -> int:
    """Side at which to draw the tiles of these grids in one picture, pixels: large enough to read, never huge."""
    longest = max(max(grid) for grid in grids)
    return min(max(DRAWN_CANVAS // longest, 48), DRAWN_CANVAS // 2, max(1, DRAWN_LIMIT // longest))


def draw_grid(image: Image.Image, preprocessing: Preprocessing, *, tile_pixels: int | None = None) -> Image.Image:
    """A picture of what the model gets: the padded or stretched canvas with its tiles numbered in sequence order.

    The thumbnail stands before or after it as in the sequence; padding is hatched. ``tile_pixels`` is the side at
    which a tile is drawn (default: about 640 px for the whole canvas).

    Raises:
        ImageError: the image is not RGB and cannot be made so.
    """
    image = image if image.mode == "RGB" else open_image(image)
    grid = select(image.size, preprocessing)
    side = tile_pixels or drawn_tile_size([grid])
    across, down = grid
    index = thumbnail_index(grid, preprocessing)
    first = 1 if index == 0 else 0
    canvas = _canvas(image, grid, preprocessing).resize((across * side, down * side), Image.Resampling.LANCZOS)
    _hatch_padding(canvas, image.size, grid, preprocessing)
    for number in range(across * down):
        row, column = divmod(number, across)
        _frame_tile(canvas, (column * side, row * side), side, [str(number + first)], TILE_COLOR)
    if index is None:
        return canvas
    tile_size = (preprocessing.tile_size, preprocessing.tile_size)
    thumbnail = _resize(image, tile_size, preprocessing).resize((side, side), Image.Resampling.LANCZOS)
    _frame_tile(thumbnail, (0, 0), side, [f"{index} thumbnail", str(index)], THUMBNAIL_COLOR)
    gap = max(6, side // 12)
    drawing = Image.new("RGB", (canvas.width + gap + side, canvas.height), BACKGROUND_COLOR)
    drawing.paste(canvas, ((side + gap) * first, 0))
    drawing.paste(thumbnail, (0 if first else canvas.width + gap, 0))
    return drawing


def _hatch_padding(canvas: Image.Image, size: tuple[int, int], grid: Grid, preprocessing: Preprocessing) -> None:
    """Hatch what of the drawn canvas is padding, so that it cannot be taken for part of the image."""
    shrink = canvas.width / (grid[0] * preprocessing.tile_size)
    left, top, width, height = _image_box(size, grid, preprocessing)
    padding = Image.new("1", canvas.size, 1)
    box = [round(x * shrink) for x in (left, top, left + width, top + height)]
    padding.paste(0, (box[0], box[1], max(box[2], box[0] + 1), max(box[3], box[1] + 1)))
    lighter = sum(preprocessing.pad_color) < 384
    line_color = tuple(min(max(x + (48 if lighter else -48), 0), 255) for x in preprocessing.pad_color)
    hatching = Image.new("RGB", canvas.size, preprocessing.pad_color)
    pen = ImageDraw.Draw(hatching)
    for x in range(-canvas.height, canvas.width, 12):
        pen.line((x, canvas.height, x + canvas.height, 0), fill=line_color, width=2)
    canvas.paste(hatching, mask=padding)


def _frame_tile(picture: Image.Image, corner: tuple[int, int], side: int, labels: list[str], color: str) -> None:
    """A border around a drawn tile, and the first of ``labels`` that there is room for."""
    left, top = corner
    pen = ImageDraw.Draw(picture)
    pen.rectangle((left, top, left + side - 1, top + side - 1), outline=color, width=2 if side > 100 else 1)
    font_size = min(max(side // 9, 11), 22)
    font = ImageFont.load_default(size=font_size)
    height = font_size + 4
    for label in labels:
        width = max(round(font.getlength(label)) + 10, height)
        if width <= side and height <= side:
            pen.rectangle((left, top, left + width, top + height), fill=color)
            pen.text((left + width / 2, top + height / 2), label, font=font, fill="white", anchor="mm")
            break


def _is_factor(value: float) -> bool:
    return 1 / MAX_SCALE <= value <= MAX_SCALE


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _resize(image: Image.Image, size: tuple[int, int], preprocessing: Preprocessing) -> Image.Image:
    return image.resize(size, RESIZE_FILTERS[preprocessing.resize_filter])


def _image_box(size: tuple[int, int], grid: Grid, preprocessing: Preprocessing) -> tuple[int, int, int, int]:
    """Where the image lies on the canvas of ``grid``: (left, top, width, height), pixels."""
    canvas_width, canvas_height = (count * preprocessing.tile_size for count in grid)
    strategy = STRATEGIES[preprocessing.strategy]
    if strategy.fit == "stretch":
        return 0, 0, canvas_width, canvas_height
    width, height = fitted_size(*size, grid, preprocessing.tile_size, round_up=strategy.round_up)
    return (canvas_width - width) // 2, (canvas_height - height) // 2, width, height


def _canvas(image: Image.Image, grid: Grid, preprocessing: Preprocessing) -> Image.Image:
    """The image resized onto its grid, padded or stretched."""
    left, top, width, height = _image_box(image.size, grid, preprocessing)
    resized = _resize(image, (width, height), preprocessing)
    canvas_size = (grid[0] * preprocessing.tile_size, grid[1] * preprocessing.tile_size)
    if resized.size == canvas_size:
        return resized
    canvas = Image.new("RGB", canvas_size, preprocessing.pad_color)
    canvas.paste(resized, (left, top))
    return canvas


# --- opening ---------------------------------------------------------------------------------------------------------


def _open_file(path: Path) -> Image.Image:
    label = one_line(path, 160)
    try:
        status = path.stat()
        # Before opening: a pipe would block, a device might never end.
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{label}: is a directory, not an image file")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{label}: is not a regular file")
        _check_file_size(status.st_size, label)
        with path.open("rb") as file:
            return _decode(file, label)
    except FileNotFoundError:
        raise ImageError(f"{label}: no such file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ImageError(f"{label}: cannot be read ({one_line(reason, 100)})") from error


def _decode(file: IO[bytes], label: str) -> Image.Image:
    try:
        with _no_warnings():
            image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{label}: more than {MAX_PIXELS} pixels; scale it down first") from error
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise ImageError(f"{label}: not an image in a known format ({known}), or cut off in its header") from error
    except Exception as error:  # decoders raise nearly anything on damaged input
        raise _damaged(label, error) from error
    with image:
        return _to_rgb(image, label)


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8:
        raise ImageError(f"the array holds {array.dtype}: give uint8 values from 0 to 255")
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        shape = list(array.shape)
        raise ImageError(f"the array has shape {shape}: give [height, width] or [height, width, 1, 3 or 4 channels]")
    _check_size((array.shape[1], array.shape[0]), "the array")
    # [height, width, 1] -> [height, width]
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.ndim == 3 and channels == 1 else array))


def _to_rgb(image: Image.Image, label: str) -> Image.Image:
    """A new RGB image, upright, that shares nothing with ``image`` and carries none of its metadata."""
    _check_size(image.size, label)
    try:
        with _no_warnings():
            image.load()
            # Some decoders learn the true size only now.
            _check_size(image.size, label)
            rgb = _flatten(image)
            orientation = _orientation(image)
            if orientation in UPRIGHT:
                rgb = rgb.transpose(UPRIGHT[orientation])
    except ImageError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged input
        raise _damaged(label, error) from error
    # A leftover EXIF block would turn the image a second time.
    rgb.info = {}
    return rgb


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Pillow warns of large or odd headers, and of damaged tags while it decodes.

    What is too large is refused by this module's own limits; the rest is a picture or an ImageError.
    """
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - a damaged EXIF block does not make the picture unreadable
        return 1
    return value if isinstance(value, int) else 1


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    flat = Image.new("RGB", image.size, WHITE)
    flat.paste(rgba, mask=rgba.getchannel("A"))
    return flat


def _to_8_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Grey values of more than 8 bits [height, width] -> uint8 of the same shape, scaled and never clipped."""
    if values.dtype.kind == "u":
        # A table costs a fraction of the memory of arithmetic in a wider type.
        table: npt.NDArray[np.uint8] = np.round(np.arange(65536) / 257).astype(np.uint8)
        return np.take(table, values)
    start, end = _grey_range(values)
    scaled = np.empty(values.shape, dtype=np.uint8)
    # Row by row: a float64 copy of the largest image would take half a gigabyte.
    for row, output in zip(values, scaled, strict=True):
        share = (np.nan_to_num(row.astype(np.float64), nan=start) - start) / ((end - start) or 1.0)
        output[:] = np.round(np.clip(share, 0.0, 1.0) * 255)
    return scaled


def _grey_range(values: npt.NDArray[Any]) -> tuple[float, float]:
    """The values that become black and white: the range usual for the type, or the image's own where it is larger."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    usual = (65535.0,) if values.dtype.kind == "i" else (1.0, 255.0)
    for white in usual:
        if low >= 0 and high <= white:
            return 0.0, white
    return low, high


def _check_file_size(size: int, label: str) -> None:
    if size == 0:
        raise ImageError(f"{label}: empty (0 bytes)")
    if size > MAX_FILE_BYTES:
        raise ImageError(f"{label}: {size} bytes, more than the {MAX_FILE_BYTES} that are read")


def _check_size(size: tuple[int, int], label: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{label}: {width} x {height} pixels is no image")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        limits = f"{MAX_SIDE} pixels a side or {MAX_PIXELS} in all"
        raise ImageError(f"{label}: {width} x {height} pixels is more than {limits}; scale it down first")


def _damaged(label: str, error: Exception) -> ImageError:
    detail = one_line(error, 100) or type(error).__name__
    return ImageError(f"{label}: damaged or cut off ({detail})")
