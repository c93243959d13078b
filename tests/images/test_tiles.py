"""Tiles: they agree with transformers' Pillow processors, and every image size makes the right number of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pocketvlm.images.draw import DRAWN_LIMIT, draw_grid
from pocketvlm.images.open import MAX_SIDE
from pocketvlm.images.prepare import Preprocessing, cut_tiles, normalize, select, sequence_length
from pocketvlm.images.rules import RULES, minicpmv
from pocketvlm.images.tiling import grid_candidates

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
SIZES = [(96, 48), (97, 53), (50, 131), (200, 200), (33, 20), (300, 100), (144, 144), (13, 200), (64, 48), (141, 94)]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


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


def test_a_picture_squashed_by_the_bilinear_filter_is_gemma3s() -> None:
    """By its own processor, to the byte; another filter is not it."""
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    tile = 56
    form = Preprocessing(
        tile_size=tile, strategy="internvl", candidates=((1, 1),), thumbnail="none", resize_filter="bilinear"
    )
    bicubic = dataclasses.replace(form, resize_filter="bicubic")
    processor = Gemma3ImageProcessorPil(size={"height": tile, "width": tile}, do_normalize=False, do_rescale=False)
    for width, height in SIZES:
        image = noise(width, height, seed=width)
        wanted = processor(image, return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1).astype(np.uint8)
        np.testing.assert_array_equal(cut_tiles(image, form).pixels, wanted)
        assert not np.array_equal(cut_tiles(image, bicubic).pixels, wanted)


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
    st.sampled_from(sorted(RULES.keys() - {"pad-square"})),  # which refuses some, and in which thin ones vanish
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


def test_parts_of_one_row_lie_in_memory_as_others_do() -> None:
    slices: dict[str, Any] = {"candidates": minicpmv.grids(4), "thumbnail_of_single_tile": False}
    small = Preprocessing(12, strategy="minicpmv", min_pixels=400, max_pixels=400, thumbnail="first", **slices)
    tiled = cut_tiles(noise(50, 30, seed=1), small)
    assert set(tiled.seen) == {(2, 1)}
    assert tiled.pixels.flags.c_contiguous


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
        ("rescale", 1e-7, "rescale: 1e-07 is not a number from 1e-06 to 1e\\+06"),
        ("mean", (0.5, 0.5), r"mean: \(0.5, 0.5\)"),
        ("mean", (0.5, 0.5, float("nan")), "mean: .*nan"),
        ("mean", (0.5, 0.5, -1e7), "mean: .* at most 1e\\+06"),
        ("std", (0.5, 0.0, 0.5), r"std: \(0.5, 0.0, 0.5\)"),
        ("std", (0.5, 1e7, 0.5), "std: .* from 1e-06"),
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
        assert max(drawing.size) <= DRAWN_LIMIT + 400
    drawn = np.asarray(draw_grid(narrow, Preprocessing(tile_size=16, candidates=((1, 1),), thumbnail="none")))
    assert len(np.unique(drawn[40:, 40:-40].reshape(-1, 3), axis=0)) > 3
