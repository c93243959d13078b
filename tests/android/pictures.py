"""Pictures in the formats that phones have, and what Pillow reads in them: for the Android module's tests."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from pocketvlm.images.open import ORIENTATION_TAG, open_image

#: Of bytes that decoders may differ by where the rounding is their own: lossy formats, 16 bits, WebP's alpha.
NEAR = 1
#: Sides in pixels: odd, and more rows than columns.
SIZE = (37, 53)


def write_pictures(folder: Path) -> int:
    """Writes files, ``NAME.rgb`` beside each that Pillow reads, and ``list.txt``: name, width, height, tolerance.

    Those that Pillow refuses have 0 for all three. Returns the number of files.
    """
    folder.mkdir(parents=True)
    lines = []
    for name, content in [*readable(), *refused()]:
        (folder / name).write_bytes(content)
        if name.startswith("refused"):
            lines.append(f"{name} 0 0 0")
            continue
        image = open_image(content)
        (folder / f"{name}.rgb").write_bytes(image.tobytes())
        lines.append(f"{name} {image.width} {image.height} {NEAR if 'near' in name else 0}")
    (folder / "list.txt").write_text("".join(f"{line}\n" for line in lines))
    return len(lines)


def readable() -> Iterator[tuple[str, bytes]]:
    """Pictures of all modes and of all eight orientations."""
    noise = np.random.default_rng(27)
    rgba = Image.fromarray(noise.integers(0, 256, (SIZE[1], SIZE[0], 4), dtype=np.uint8))
    rgb = rgba.convert("RGB")
    smooth = Image.fromarray(gradient())
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        yield f"mode-{mode}.png", encoded(rgba.convert(mode), "PNG")
    clear = rgb.quantize(16)
    yield "clear-index.png", encoded(clear, "PNG", transparency=3)
    yield "clear-color.png", encoded(rgb, "PNG", transparency=rgb.getpixel((0, 0)))
    deep = noise.integers(0, 65536, (SIZE[1], SIZE[0]), dtype=np.uint16)
    yield "near-16-bits.png", encoded(Image.fromarray(deep), "PNG")
    yield "one.png", encoded(rgba.crop((0, 0, 1, 1)), "PNG")
    yield "still.gif", encoded(clear, "GIF")
    yield "near-alpha.webp", encoded(rgba, "WEBP", lossless=True, exact=True)
    yield "near.webp", encoded(smooth, "WEBP", quality=90)
    yield "near-gray.jpg", encoded(smooth.convert("L"), "JPEG", quality=90)
    yield "near-progressive.jpg", encoded(smooth, "JPEG", quality=90, progressive=True)
    yield "near-420.jpg", encoded(smooth, "JPEG", quality=90, subsampling=2)
    for orientation in range(10):  # 0 and 9 are none
        exif = Image.Exif()
        exif[ORIENTATION_TAG] = orientation
        yield f"turned-{orientation}-near.jpg", encoded(smooth, "JPEG", quality=90, subsampling=0, exif=exif)
        yield f"turned-{orientation}.png", encoded(rgba, "PNG", exif=exif)
        yield f"turned-{orientation}.webp", encoded(rgb, "WEBP", lossless=True, exif=exif)


def refused() -> Iterator[tuple[str, bytes]]:
    """What is no picture, is cut, or would take too much memory."""
    whole = encoded(Image.fromarray(gradient()), "PNG")
    jpeg = encoded(Image.fromarray(gradient()), "JPEG")
    chance = random.Random(27)
    yield "refused-empty", b""
    yield "refused-text.png", b"not a picture\n" * 40
    yield "refused-noise.jpg", chance.randbytes(4096)
    yield "refused-start.jpg", jpeg[:2]
    yield "refused-header.png", whole[:30]
    yield "refused-cut.png", whole[: len(whole) // 2]
    yield "refused-cut.jpg", jpeg[: len(jpeg) * 2 // 3]
    yield "refused-bomb.png", bomb(60000, 60000)
    yield "refused-wide.png", bomb(2**31 - 1, 1)
    yield "refused-nothing.png", bomb(0, 0)


def gradient() -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """Smooth, and no two corners alike: [height, width, 3]."""
    width, height = SIZE
    down, across = np.mgrid[0:height, 0:width]
    return np.stack([down * 255 // height, across * 255 // width, (down + across) * 2], axis=2).astype(np.uint8)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel whose header says this size, and which ends after some rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 16))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def write_large(path: Path, width: int, height: int) -> None:
    """White above, black below, of one bit a pixel: kilobytes."""
    rows = np.zeros((height, width), dtype=bool)
    rows[: height // 2] = True
    Image.fromarray(rows).save(path)
