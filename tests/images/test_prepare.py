"""Images: hostile files are read right or refused in one line."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from pocketvlm.errors import ImageError
from pocketvlm.images.open import MAX_FILE_BYTES, MAX_PIXELS, MAX_SIDE, open_image
from pocketvlm.images.prepare import Preprocessing, cut_tiles
from pocketvlm.images.rules import RULES

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encode(image: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    assert image.mode == "RGB"
    return np.asarray(image)


def png(width: int, height: int, bit_depth: int, color_type: int, rows: bytes) -> bytes:
    """A PNG written chunk by chunk, for what Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    data = zlib.compress(rows, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def refused(source: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message) as error:
        open_image(source)
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 400


# --- what can be read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_name", FORMATS)
def test_each_format_from_path_and_bytes(tmp_path: Path, format_name: str) -> None:
    image = noise(12, 7)
    options = {"lossless": True} if format_name == "WEBP" else {}
    data = encode(image, format_name, **options)
    path = tmp_path / "no-suffix"
    path.write_bytes(data)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    for source in (path, str(path), data, bytearray(data)):
        assert np.array_equal(pixels(open_image(source)), expected)
    if format_name not in ("JPEG", "GIF"):
        assert np.array_equal(expected, np.asarray(image))


def test_arrays_and_pillow_images_are_read_and_not_shared() -> None:
    image = noise(5, 4)
    array = np.asarray(image).copy()
    for source in (image, array, np.asfortranarray(array), array[::-1][::-1]):
        opened = open_image(source)
        assert np.array_equal(pixels(opened), array)
        opened.putpixel((0, 0), (1, 2, 3))
    assert np.array_equal(np.asarray(image), array)
    grey = array[:, :, 0]
    assert np.array_equal(pixels(open_image(grey)), np.stack([grey] * 3, axis=2))
    assert np.array_equal(pixels(open_image(grey[:, :, None])), np.stack([grey] * 3, axis=2))


def test_cmyk() -> None:
    image = Image.new("CMYK", (4, 3), (0, 255, 255, 0))
    assert np.array_equal(pixels(open_image(encode(image, "TIFF"))), np.full((3, 4, 3), (255, 0, 0)))
    red = pixels(open_image(encode(image, "JPEG", quality=95)))
    assert np.abs(red.astype(int) - (255, 0, 0)).max() < 8


def test_palette_and_transparent_palette() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    assert pixels(open_image(encode(image, "PNG"))).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert pixels(open_image(encode(image, "PNG", transparency=1))).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    half = encode(image, "PNG", transparency=bytes([255, 0]))
    assert pixels(open_image(half)).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_transparency_lies_over_white() -> None:
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([(0, 0, 0, 0), (0, 0, 0, 255), (0, 100, 200, 128)])
    expected = [[[255, 255, 255], [0, 0, 0], [127, 177, 227]]]
    for source in (rgba, encode(rgba, "PNG"), np.asarray(rgba)):
        assert np.abs(pixels(open_image(source)).astype(int) - expected).max() <= 1
    grey = Image.new("LA", (2, 1))
    grey.putdata([(0, 0), (7, 255)])
    assert pixels(open_image(encode(grey, "PNG"))).tolist() == [[[255] * 3, [7] * 3]]
    keyed = encode(Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], dtype=np.uint8)), "PNG", transparency=(1, 2, 3))
    assert pixels(open_image(keyed)).tolist() == [[[255] * 3, [9] * 3]]


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    values = np.array([[0, 128, 256, 257, 32768, 65407, 65535]], dtype=np.uint16)
    expected = np.round(values / 257).astype(np.uint8)
    data = encode(Image.fromarray(values), "PNG")
    assert Image.open(io.BytesIO(data)).mode == "I;16"
    assert np.array_equal(pixels(open_image(data))[:, :, 0], expected)
    # a TIFF of the other byte order
    tiff = encode(Image.frombytes("I;16B", (7, 1), values.astype(">u2").tobytes()), "TIFF")
    assert Image.open(io.BytesIO(tiff)).mode == "I;16B"
    assert np.array_equal(pixels(open_image(tiff))[:, :, 2], expected)
    # PGM with 65535 levels: Pillow's mode I
    pgm = b"P5 7 1 65535\n" + values.astype(">u2").tobytes()
    assert Image.open(io.BytesIO(pgm)).mode == "I"
    assert np.array_equal(pixels(open_image(pgm))[:, :, 1], expected)


def test_16_bit_color_is_scaled_and_not_clipped() -> None:
    rows = b"\0" + struct.pack(">6H", 0, 32768, 65535, 300, 65535, 0)
    values = pixels(open_image(png(2, 1, 16, 2, rows)))
    assert np.abs(values.astype(int) - [[[0, 128, 255], [1, 255, 0]]]).max() <= 1


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        (np.int32, [0, 32768, 65535], [0, 128, 255]),
        (np.int32, [-100, 0, 100], [0, 128, 255]),
        (np.int32, [-(2**31), 0, 2**31 - 1], [0, 128, 255]),
        (np.int32, [0, 65536, 131072], [0, 128, 255]),
        (np.float32, [0.0, 0.5, 1.0], [0, 128, 255]),
        (np.float32, [0.0, 100.0, 255.0], [0, 100, 255]),
        (np.float32, [-1.0, 0.0, 3.0], [0, 64, 255]),
        (np.float32, [float("nan"), 1.0, float("inf")], [0, 255, 255]),
        (np.float32, [float("nan")] * 3, [0, 0, 0]),
        (np.float32, [-5.0, -5.0, -5.0], [0, 0, 0]),
    ],
)
def test_32_bit_grey_is_scaled(dtype: type, values: list[float], expected: list[int]) -> None:
    data = encode(Image.fromarray(np.array([values], dtype=dtype)), "TIFF")
    assert Image.open(io.BytesIO(data)).mode in ("I", "F")
    assert pixels(open_image(data))[0, :, 0].tolist() == expected


def test_of_an_animation_the_first_frame() -> None:
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "lime", "blue")]
    for format_name, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        data = encode(frames[0], format_name, save_all=True, append_images=frames[1:], **options)
        assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
        assert np.array_equal(pixels(open_image(data)), np.full((4, 6, 3), (255, 0, 0)))


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(format_name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format_name == "WEBP" else {}
    data = encode(noise(9, 5), format_name, exif=exif.tobytes(), **options)
    stored = Image.open(io.BytesIO(data))
    upright = ImageOps.exif_transpose(stored).convert("RGB")
    opened = open_image(data)
    assert opened.size == ((5, 9) if orientation >= 5 else (9, 5))
    assert np.array_equal(pixels(opened), np.asarray(upright))
    assert np.array_equal(pixels(open_image(opened)), np.asarray(upright))


def test_a_damaged_exif_block_does_not_hide_the_picture() -> None:
    data = encode(noise(9, 5), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f\x12\x01garbage")
    assert np.array_equal(pixels(open_image(data)), np.asarray(noise(9, 5)))


def test_a_phone_jpeg_with_several_pictures() -> None:
    data = encode(noise(9, 5), "MPO", save_all=True, append_images=[noise(9, 5, seed=1)])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert open_image(data).size == (9, 5)


def test_pillows_warnings_stay_inside(capfd: pytest.CaptureFixture[str]) -> None:
    """Of a tag that lies beyond the file, which is found when the image is decoded."""
    tiff = bytearray(encode(noise(9, 5), "TIFF"))
    (directory,) = struct.unpack_from("<I", tiff, 4)
    entries = [directory + 2 + 12 * index for index in range(*struct.unpack_from("<H", tiff, directory))]
    planar = next(at for at in entries if struct.unpack_from("<H", tiff, at) == (284,))
    struct.pack_into("<I", tiff, planar + 4, 0xFFFFFFFE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(pixels(open_image(bytes(tiff))), np.asarray(noise(9, 5)))
    assert capfd.readouterr().err == ""


def test_one_by_nine_thousand() -> None:
    opened = open_image(encode(noise(1, 9000), "PNG"))
    assert opened.size == (1, 9000)
    for strategy in RULES.keys() - {"pad-square"}:
        tiled = cut_tiles(opened, Preprocessing(tile_size=16, strategy=strategy))
        assert tiled.pixels.shape[1:] == (16, 16, 3)
    with pytest.raises(ImageError, match="1 x 9000 pixels is too narrow for a square around it"):
        cut_tiles(opened, Preprocessing(tile_size=16, strategy="pad-square"))


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_name", FORMATS)
def test_truncated_files(tmp_path: Path, format_name: str) -> None:
    data = encode(noise(64, 64), format_name)
    path = tmp_path / f"cut.{format_name.lower()}"
    for keep in (1, 10, 30, len(data) // 2):
        path.write_bytes(data[:keep])
        refused(path, "not an image in a known format|damaged or cut off")


def test_empty_missing_directory_text_and_special_files(tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    refused(empty, r"empty\.png: empty \(0 bytes\)")
    refused(b"", r"bytes: empty")
    refused(tmp_path / "missing.png", r"missing\.png: no such file")
    refused(tmp_path, "is a directory")
    refused("", "is a directory")
    text = tmp_path / "text.png"
    text.write_text("hello\n" * 100)
    refused(text, "not an image in a known format")
    refused("nul\0byte.png", "cannot be read")
    refused("x" * 5000, "cannot be read")
    refused("https://example.com/a.png\nsecond line", "no such file")
    refused(text / "below.png", "cannot be read")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    refused(pipe, "is not a regular file")
    refused("/dev/zero", "is not a regular file")


def test_a_name_and_a_reason_of_any_length_are_one_short_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: ImageFile.ImageFile) -> None:
        raise OSError("reason " * 1000)

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    path = tmp_path / ("\n" + "y" * 250)
    path.write_bytes(encode(noise(2, 2), "PNG"))
    with pytest.raises(ImageError, match="damaged or cut off") as error:
        open_image(path)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 300


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encode(noise(2, 2), "PNG"))

    def denied(*arguments: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    refused(path, r"secret\.png: cannot be read \(Permission denied\)")


@pytest.mark.parametrize("side", [9000, 12000, 20000])
def test_bombs_are_refused_from_the_header(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # All zeros, one bit a pixel: 400 million pixels in 50 KB, a complete and valid file.
    bomb = png(side, side, 1, 0, bytes((side // 8 + 1) * side))
    assert len(bomb) < 100_000
    decoded: list[object] = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded.append)
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(bomb, "pixels.*scale it down first")
    assert decoded == []
    assert before == Image.MAX_IMAGE_PIXELS


def test_long_sides_are_refused() -> None:
    refused(encode(Image.new("1", (MAX_SIDE + 1, 1)), "PNG"), f"{MAX_SIDE + 1} x 1 pixels is more than")
    assert open_image(encode(Image.new("1", (1, MAX_SIDE)), "PNG")).size == (1, MAX_SIDE)
    webp = bytearray(encode(noise(4, 4), "WEBP", lossless=True))
    webp[21:25] = struct.pack("<I", 16382 | 16382 << 14)
    refused(bytes(webp), "pixels")
    refused(np.broadcast_to(np.uint8(0), (20000, 20000)), "20000 x 20000 pixels")
    refused(Image.new("1", (1, MAX_SIDE + 1)), "pixels is more than")
    refused(Image.new("RGB", (0, 5)), "0 x 5 pixels is no image")


def test_large_files_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sparse.tiff"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    refused(path, "more than the")
    monkeypatch.setattr("pocketvlm.images.open.MAX_FILE_BYTES", 10)
    refused(encode(noise(4, 4), "PNG"), "more than the 10 that are read")


def test_formats_that_start_programs_or_are_unknown_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.Popen", started)
    refused(encode(noise(4, 4), "EPS"), "not an image in a known format")
    for format_name in ("ICO", "PDF", "TGA"):
        refused(encode(noise(4, 4), format_name), "not an image in a known format")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "holds float32: give uint8"),
        (np.zeros((4, 4), np.uint16), "holds uint16"),
        (np.zeros((4, 4), bool), "holds bool"),
        (np.array([[None]]), "holds object"),
        (np.zeros((3, 4, 4), np.uint8)[None], r"shape \[1, 3, 4, 4\]"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \[4, 4, 2\]"),
        (np.zeros(4, np.uint8), r"shape \[4\]"),
        (np.uint8(3) + np.zeros((), np.uint8), "an image must be"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \[0, 4, 3\]"),
    ],
)
def test_arrays_of_other_shapes_and_types_are_refused(array: Any, message: str) -> None:
    refused(array, message)


def test_other_sources_are_refused() -> None:
    refused(None, "not NoneType")
    refused(17, "not int")
    closed = Image.open(io.BytesIO(encode(noise(4, 4), "PNG")))
    closed.close()
    refused(closed, "damaged or cut off")


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=12),
    st.integers(0, 4000),
)
def test_damage_is_an_image_or_an_image_error(format_name: str, edits: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(encode(noise(16, 12), format_name))
    for position, value in edits:
        # Half of the edits land in the header, where they do the most.
        data[position % (len(data) if position % 2 else min(64, len(data)))] = value
    if cut < len(data) and cut % 3 == 0:
        del data[cut:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            opened = open_image(bytes(data))
        except ImageError:
            return
    assert opened.mode == "RGB"
    assert opened.width * opened.height <= MAX_PIXELS


def test_threads_leave_the_warning_filters_alone() -> None:
    data = encode(noise(8, 8), "PNG")
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [open_image(data) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before
