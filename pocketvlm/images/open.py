"""Hostile image files opened or refused: whatever a source is, an upright RGB image or one line that says why not."""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from pocketvlm.errors import ImageError, one_line

#: most pixels of an image or a canvas: 256 MiB decoded, as Pillow keeps four bytes a pixel
MAX_PIXELS = 64 * 1024 * 1024
#: longest side of an image or a canvas, pixels
MAX_SIDE = 16384
#: largest file that is opened, bytes
MAX_FILE_BYTES = 256 * 1024 * 1024
#: what Pillow may decode; left out are the formats that start other programs (EPS) or that nobody's camera writes
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

WHITE = (255, 255, 255)

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


def open_image(source: ImageSource) -> Image.Image:
    """Decode an image to RGB: upright, first frame, transparency over white, 16 bits scaled to 8.

    ``source`` is a path, an encoded file as bytes, a Pillow image, or a uint8 array [height, width],
    [height, width, 1 | 3 | 4] (grey, RGB, RGBA). Grey images of 32-bit integers are read as 16-bit values (Pillow's
    convention), those of floats as 0 to 1 or 0 to 255; beyond that range they are stretched from their minimum to
    their maximum.

    :raises ImageError: the source is missing, damaged, too large (MAX_PIXELS, MAX_SIDE, MAX_FILE_BYTES) or no image.
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
