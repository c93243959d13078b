"""Images: hostile files are read right or refused in one line; tiles agree with transformers' Pillow processors."""

from __future__ import annotations

import dataclasses
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

from pocketvlm import images
from pocketvlm.errors import ImageError
from pocketvlm.images import (
    MAX_PIXELS,
    MAX_SIDE,
    Preprocessing,
    cut_tiles,
    draw_grid,
    normalize,
    open_image,
    select,
    sequence_length,
)
from pocketvlm.tiling import STRATEGIES, grid_candidates

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


def test_one_by_nine_thousand() -> None:
    opened = open_image(encode(noise(1, 9000), "PNG"))
    assert opened.size == (1, 9000)
    for strategy in STRATEGIES:
        tiled = cut_tiles(opened, Preprocessing(tile_size=16, strategy=strategy))
        assert tiled.pixels.shape[1:] == (16, 16, 3)


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
        file.truncate(images.MAX_FILE_BYTES + 1)
    refused(path, "more than the")
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 10)
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


# --- tiles -----------------------------------------------------------------------------------------------------------

SIZES = [(96, 48), (97, 53), (50, 131), (200, 200), (33, 20), (300, 100), (144, 144), (13, 200), (64, 48), (141, 94)]


def llava_next_reference(image: Image.Image, tile: int) -> npt.NDArray[np.float32]:
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": tile},
        crop_size={"height": tile, "width": tile},
        image_grid_pinpoints=[[down * tile, across * tile] for across, down in grid_candidates(3, 3)],
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    output: npt.NDArray[np.float32] = processor(image, return_tensors="np")["pixel_values"][0]
    return output


def test_llava_next_tiles_agree_with_transformers() -> None:
    """Its padding is black, so ``pad_color`` is here."""
    tile = 48
    preprocessing = Preprocessing(tile_size=tile, strategy="llava-next", mean=MEAN, std=STD, pad_color=(0, 0, 0))
    for width, height in SIZES:
        image = noise(width, height, seed=width)
        tiled = cut_tiles(image, preprocessing)
        ours, reference = normalize(tiled.pixels, preprocessing), llava_next_reference(image, tile)
        assert tiled.thumbnail_index == 0
        assert ours.shape == reference.shape
        assert np.abs(ours - reference).max() < 1e-6, (width, height)


def test_internvl_tiles_agree_with_transformers() -> None:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    tile = 48
    processor = GotOcr2ImageProcessorPil(
        size={"height": tile, "width": tile},
        crop_to_patches=True,
        max_patches=6,
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    preprocessing = Preprocessing(
        tile_size=tile,
        strategy="internvl",
        candidates=grid_candidates(6, 6, 6),
        thumbnail="last",
        thumbnail_of_single_tile=False,
        mean=MEAN,
        std=STD,
    )
    grids = set()
    for width, height in [*SIZES, (40, 41), (20, 199)]:
        image = noise(width, height, seed=width)
        reference = np.stack(processor(image, return_tensors="np")["pixel_values"])
        tiled = cut_tiles(image, preprocessing)
        ours = normalize(tiled.pixels, preprocessing)
        assert ours.shape == reference.shape
        assert np.abs(ours - reference).max() < 1e-6, (width, height)
        grids.add(tiled.grid)
    assert (1, 1) in grids
    assert len(grids) >= 5


def test_tiles_are_row_major_and_padding_is_around_the_image() -> None:
    preprocessing = Preprocessing(
        tile_size=10, candidates=((3, 2),), thumbnail="none", pad_color=(9, 8, 7), strategy="relaxed"
    )
    # 20 x 20 on a canvas of 30 x 20: 5 columns of padding at the left and at the right
    image = noise(20, 20)
    tiled = cut_tiles(image, preprocessing)
    assert tiled.grid == (3, 2)
    assert tiled.thumbnail_index is None
    assert tiled.pixels.flags.c_contiguous
    canvas = np.full((20, 30, 3), (9, 8, 7), dtype=np.uint8)
    canvas[:, 5:25] = np.asarray(image)
    for number, tile in enumerate(tiled.pixels):
        row, column = divmod(number, 3)
        assert np.array_equal(tile, canvas[10 * row : 10 * row + 10, 10 * column : 10 * column + 10])


@pytest.mark.parametrize(
    ("thumbnail", "of_single", "size", "index", "length"),
    [
        ("first", True, (40, 20), 0, 3),
        ("last", True, (40, 20), 2, 3),
        ("none", True, (40, 20), None, 2),
        ("first", False, (40, 20), 0, 3),
        ("first", True, (20, 20), 0, 2),
        ("last", True, (20, 20), 1, 2),
        ("first", False, (20, 20), None, 1),
        ("last", False, (20, 20), None, 1),
    ],
)
def test_thumbnails(thumbnail: Any, of_single: bool, size: tuple[int, int], index: int | None, length: int) -> None:
    preprocessing = Preprocessing(
        tile_size=20, candidates=((2, 1), (1, 1)), thumbnail=thumbnail, thumbnail_of_single_tile=of_single
    )
    image = noise(*size)
    tiled = cut_tiles(image, preprocessing)
    assert tiled.thumbnail_index == index
    assert len(tiled.pixels) == length == sequence_length(tiled.grid, preprocessing)
    if index is not None:
        whole = np.asarray(image.resize((20, 20), Image.Resampling.BICUBIC))
        assert np.array_equal(tiled.pixels[index], whole)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, MAX_SIDE),
    st.integers(1, MAX_SIDE),
    st.sampled_from(sorted(STRATEGIES)),
    st.sampled_from(["first", "last", "none"]),
)
def test_every_image_size_makes_tiles(width: int, height: int, strategy: str, thumbnail: Any) -> None:
    # Of large images only the long thin ones: others differ in nothing but time.
    height = min(height, max(1, 200_000 // width))
    preprocessing = Preprocessing(tile_size=12, strategy=strategy, thumbnail=thumbnail)
    image = Image.new("RGB", (width, height), (255, 128, 0))
    tiled = cut_tiles(image, preprocessing)
    assert tiled.grid == select((width, height), preprocessing)
    assert tiled.pixels.shape == (sequence_length(tiled.grid, preprocessing), 12, 12, 3)
    assert tiled.pixels.dtype == np.uint8
    # The image is somewhere on its tiles, however thin it is.
    assert (tiled.pixels == (255, 128, 0)).all(axis=3).any()


def test_cut_tiles_takes_other_modes() -> None:
    preprocessing = Preprocessing(tile_size=8)
    transparent = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert (cut_tiles(transparent, preprocessing).pixels == 255).all()


def test_normalize() -> None:
    preprocessing = Preprocessing(mean=MEAN, std=STD, rescale=1 / 255)
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    result = normalize(tiles, preprocessing)
    assert result.shape == (2, 3, 3, 4)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    expected = ((tiles / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2)
    assert np.abs(result - expected).max() < 1e-6
    wrong: list[Any] = [tiles[0], tiles.astype(np.float32), tiles.transpose(0, 3, 1, 2)]
    for bad in wrong:
        with pytest.raises(ValueError, match="pixels must be uint8"):
            normalize(bad, preprocessing)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tile_size", 0, "tile must be"),
        ("strategy", "tight", "unknown tiling strategy 'tight'"),
        ("candidates", (), "no candidate grids"),
        ("candidates", ((0, 1),), "tiles across must be"),
        ("candidates", ((60, 1),), "60x1 tiles of 384 px"),
        ("alpha", -1.0, "alpha must be .*-1.0"),
        ("thumbnail", "middle", "thumbnail: 'middle'"),
        ("thumbnail_of_single_tile", 1, "thumbnail_of_single_tile: 1"),
        ("resize_filter", "nearest", "resize_filter: 'nearest' is not one of bicubic"),
        ("pad_color", (0, 0, 256), r"pad_color: \(0, 0, 256\)"),
        ("pad_color", (0, 0), r"pad_color: \(0, 0\)"),
        ("rescale", 0.0, "rescale: 0.0"),
        ("rescale", float("inf"), "rescale: inf"),
        ("mean", (0.5, 0.5), r"mean: \(0.5, 0.5\)"),
        ("mean", (0.5, 0.5, float("nan")), "mean: .*nan"),
        ("std", (0.5, 0.0, 0.5), r"std: \(0.5, 0.0, 0.5\)"),
    ],
)
def test_preprocessing_names_the_bad_value(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Preprocessing(), **{field: value})


def test_a_canvas_never_outgrows_memory() -> None:
    with pytest.raises(ValueError, match="px a side"):
        Preprocessing(tile_size=4096, candidates=((5, 4),))
    with pytest.raises(ValueError, match="1024 tiles"):
        Preprocessing(tile_size=8, candidates=((1025, 1),))


# --- drawing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thumbnail", ["first", "last"])
def test_draw_grid_shows_tiles_and_thumbnail(thumbnail: Any) -> None:
    preprocessing = Preprocessing(tile_size=20, candidates=((3, 2),), thumbnail=thumbnail)
    drawing = draw_grid(Image.new("RGB", (60, 40), (0, 200, 0)), preprocessing, tile_pixels=108)
    gap = 108 // 12
    assert drawing.size == (3 * 108 + gap + 108, 2 * 108)
    start = 0 if thumbnail == "first" else 3 * 108 + gap
    grid_start = 108 + gap if thumbnail == "first" else 0
    green = (0, 200, 0)
    assert drawing.getpixel((start + 54, 80)) == green
    assert drawing.getpixel((start + 54, 150)) == (255, 255, 255)
    for column in range(3):
        for row in range(2):
            assert drawing.getpixel((grid_start + 108 * column + 54, 108 * row + 80)) == green
            assert drawing.getpixel((grid_start + 108 * column, 108 * row + 80)) == (0xE8, 0x59, 0x0C)


def test_drawings_stay_small_and_padding_is_hatched() -> None:
    narrow = Image.new("RGB", (1, 5000), (255, 0, 0))
    for candidates in (((1, 1),), ((1, 40),), ((40, 1),), ((32, 32),)):
        drawing = draw_grid(narrow, Preprocessing(tile_size=16, candidates=candidates))
        assert max(drawing.size) <= images.DRAWN_LIMIT + 400
    drawn = np.asarray(draw_grid(narrow, Preprocessing(tile_size=16, candidates=((1, 1),), thumbnail="none")))
    assert len(np.unique(drawn[40:, 40:-40].reshape(-1, 3), axis=0)) > 3
