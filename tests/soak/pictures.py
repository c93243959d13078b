"""Small images of every format that pocketvlm opens, with what they can hold: palettes, 16 bits, alpha, frames."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageCms

WIDTH, HEIGHT = 61, 47
ORIENTATION = 0x0112
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def noise(channels: str = "RGB", width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> Image.Image:
    """Blocks of colour with noise over them."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 4)).repeat(8, axis=0).repeat(8, axis=1)
    values = blocks[:height, :width] + generator.integers(-20, 20, (height, width, 4))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8), "RGBA").convert(channels)


def encode(image: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG with its checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, bits: int, color: int, rows: bytes, *, interlaced: bool = False) -> bytes:
    """A PNG of what Pillow does not write: any depth, interlaced, rows that are not those of its size."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, int(interlaced))
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b""))
    return PNG_SIGNATURE + b"".join(parts)


def exif(orientation: int) -> bytes:
    """An EXIF block with an orientation and some text."""
    block = Image.Exif()
    block[ORIENTATION] = orientation
    block[0x010E] = "a description"
    return block.tobytes()


@functools.cache
def originals() -> dict[str, bytes]:
    """Name -> file. Each of them opens."""
    made = {**_png(), **_jpeg(), **_webp(), **_gif_and_bmp(), **_tiff(), **_ppm()}
    return {name: made[name] for name in sorted(made)}


def _frames(mode: str = "RGB") -> list[Image.Image]:
    return [noise(mode, seed=seed) for seed in range(3)]


def _png() -> dict[str, bytes]:
    first, *others = _frames()
    palette = noise("P")
    grey16 = Image.fromarray(np.arange(WIDTH * HEIGHT, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 20)
    row = np.random.default_rng(0).integers(0, 256, (HEIGHT, 1 + WIDTH * 6), dtype=np.uint8)
    row[:, 0] = np.arange(HEIGHT) % 5  # each of the five filters
    return {
        "png rgb": encode(first, "PNG"),
        "png large": encode(noise(width=400, height=300), "PNG"),
        "png rgba": encode(noise("RGBA"), "PNG"),
        "png grey alpha": encode(noise("LA"), "PNG"),
        "png one bit": encode(noise("1"), "PNG"),
        "png palette": encode(palette, "PNG"),
        "png transparent palette": encode(palette, "PNG", transparency=bytes(range(0, 256, 2))),
        "png transparent colour": encode(first, "PNG", transparency=(1, 2, 3)),
        "png 16 bit": encode(grey16, "PNG"),
        "png 16 bit rgb": png(WIDTH, HEIGHT, 16, 2, row.tobytes()),
        "png interlaced": png(8, 8, 8, 0, _interlaced_rows(), interlaced=True),
        "png animated": encode(first, "PNG", save_all=True, append_images=others, duration=50),
        "png exif": encode(first, "PNG", exif=exif(6)),
        "png profile": encode(first, "PNG", icc_profile=_profile()),
    }


def _interlaced_rows() -> bytes:
    """The seven passes over 8 x 8 grey pixels, rows of (width, count), each with the filter "none" before it."""
    passes = ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4))
    return b"".join(b"\0" + bytes(range(100, 100 + width)) for width, count in passes for _ in range(count))


def _profile() -> bytes:
    """An sRGB profile without the time at which it was made."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + bytes(12) + profile[36:]


def _jpeg() -> dict[str, bytes]:
    first = noise()
    return {
        "jpeg": encode(first, "JPEG"),
        "jpeg large": encode(noise(width=400, height=300), "JPEG"),
        "jpeg progressive": encode(first, "JPEG", progressive=True),
        "jpeg grey": encode(noise("L"), "JPEG"),
        "jpeg cmyk": encode(noise("CMYK"), "JPEG"),
        "jpeg exif": encode(first, "JPEG", exif=exif(5)),
        "jpeg restarts": encode(first, "JPEG", restart_marker_blocks=2),
        "jpeg profile": encode(first, "JPEG", icc_profile=_profile(), comment=b"a comment"),
        "jpeg two pictures": encode(first, "MPO", save_all=True, append_images=[noise(seed=1)]),
    }


def _webp() -> dict[str, bytes]:
    first, *others = _frames()
    return {
        "webp": encode(first, "WEBP"),
        "webp lossless": encode(first, "WEBP", lossless=True),
        "webp alpha": encode(noise("RGBA"), "WEBP"),
        "webp exif": encode(first, "WEBP", exif=exif(8)),
        "webp animated": encode(first, "WEBP", save_all=True, append_images=others),
    }


def _gif_and_bmp() -> dict[str, bytes]:
    first, *others = _frames()
    small = noise("RGBA", 20, 20)
    return {
        "gif": encode(first, "GIF"),
        "gif interlaced": encode(first, "GIF", interlace=1),
        "gif transparent": encode(noise("P"), "GIF", transparency=3),
        "gif animated": encode(first, "GIF", save_all=True, append_images=[*others, small], disposal=2),
        "bmp": encode(first, "BMP"),
        "bmp palette": encode(noise("P"), "BMP"),
        "bmp one bit": encode(noise("1"), "BMP"),
        "bmp alpha": encode(noise("RGBA"), "BMP"),
        "bmp run lengths": _bmp_run_lengths(),
    }


def _bmp_run_lengths() -> bytes:
    """16 x 8 pixels of two colours in BI_RLE8, which Pillow reads and does not write."""
    runs = b"".join(bytes((16, row % 2)) + b"\0\0" for row in range(8)) + b"\0\1"
    palette = bytes((0, 0, 0, 0, 255, 255, 255, 0))
    offset = 14 + 40 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, 16, 8, 1, 8, 1, len(runs), 2835, 2835, 2, 0)
    return struct.pack("<2sIHHI", b"BM", offset + len(runs), 0, 0, offset) + header + palette + runs


def _tiff() -> dict[str, bytes]:
    first, *others = _frames()
    grey = np.asarray(noise("L"))
    compressed = {
        name: encode(first, "TIFF", compression=name)
        for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "tiff_deflate")
    }
    return {
        "tiff": encode(first, "TIFF"),
        "tiff big": encode(first, "TIFF", big_tiff=True),
        "tiff fax": encode(noise("1"), "TIFF", compression="group4"),
        "tiff pages": encode(first, "TIFF", save_all=True, append_images=others),
        "tiff 16 bit": encode(Image.fromarray(grey.astype(np.uint16) * 257), "TIFF"),
        "tiff 32 bit": encode(Image.fromarray(grey.astype(np.int32) * 1000 - 5000), "TIFF"),
        "tiff float": encode(Image.fromarray(grey.astype(np.float32) / 255), "TIFF"),
        "tiff cmyk": encode(noise("CMYK"), "TIFF"),
        "tiff alpha": encode(noise("RGBA"), "TIFF"),
        "tiff orientation": encode(first, "TIFF", exif=exif(7)),
        **{f"tiff {name.removeprefix('tiff_')}": data for name, data in compressed.items()},
    }


def _ppm() -> dict[str, bytes]:
    grey = np.asarray(noise("L"))
    deep, real = (grey.astype(">u2") * 257).tobytes(), (grey / np.float32(255)).astype("<f4").tobytes()
    plain = " ".join(map(str, grey[:20, :30].ravel().tolist()))
    return {
        "ppm": encode(noise(), "PPM"),
        "ppm grey": encode(noise("L"), "PPM"),
        "ppm bits": encode(noise("1"), "PPM"),
        "ppm 16 bit": f"P5\n# a comment\n{WIDTH} {HEIGHT}\n65535\n".encode() + deep,
        "ppm float": f"Pf\n{WIDTH} {HEIGHT}\n-1.0\n".encode() + real,
        "ppm plain": f"P2\n30 20\n255\n{plain}\n".encode(),
    }
