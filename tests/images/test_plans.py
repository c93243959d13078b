"""Plans: the golden files, transformers' own resizing and splitting, and what a tiling may not be."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pocketvlm.errors import ImageError
from pocketvlm.images.draw import draw_grid
from pocketvlm.images.prepare import Preprocessing, cut_tiles
from pocketvlm.images.rules import NATIVE_RULES, RULES, check_tiling, lfm2, minicpmv, plan_of
from pocketvlm.images.rules.idefics3 import grids
from pocketvlm.images.rules.smart_resize import MOST_ASPECT
from pocketvlm.images.tiling import Tiling
from tests.images.test_tiles import noise
from tests.support.portable_plans import FORMS, LAST, SIZES, golden, path_of, sizes_of

PARTS = replace(FORMS["lfm2"][0], strategy="lfm2")
SLICES = replace(FORMS["minicpmv"][0], strategy="minicpmv")

SMALL = Preprocessing(
    **{
        **vars(LAST),
        "tile_size": 32,
        "strategy": "idefics3",
        "candidates": grids(4),
        "longest_edge": 128,
        "resize_filter": "lanczos",
    }
)


@pytest.mark.parametrize("rule", [*RULES, *NATIVE_RULES])
def test_the_golden_plans_are_what_their_generator_writes_and_have_variety(rule: str) -> None:
    content = json.loads(path_of(rule).read_text(encoding="utf-8"))
    assert content == golden(rule)
    assert len(SIZES) >= 60
    for form in content:
        settings = {key: value for key, value in form.items() if key != "plans"}
        check_tiling(Tiling(**{**settings, "candidates": tuple(map(tuple, form["candidates"]))}))
        cut = {tuple(plan["grid"]) for plan in form["plans"]}
        assert len(cut) >= (1 if form["candidates"] == [[1, 1]] and rule in RULES else 5)


def processor(tile: int, longest: int, *, split: bool = True) -> Any:
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    return Idefics3ImageProcessorPil(
        size={"longest_edge": longest},
        max_image_size={"longest_edge": tile},
        do_image_splitting=split,
        do_rescale=False,
        do_normalize=False,
        return_row_col_info=True,
    )


def reference(width: int, height: int, tile: int, longest: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The two sizes to which transformers resizes, by its own functions."""
    from transformers.models.idefics3 import image_processing_pil_idefics3 as theirs

    class Noted(theirs.Idefics3ImageProcessorPil):  # type: ignore[misc]
        def resize(self, image: Any, size: Any, resample: Any = None, **_: Any) -> Any:
            return size

    first = theirs.get_resize_output_image_size(np.empty((3, height, width), np.uint8), longest)
    empty = np.broadcast_to(np.uint8(0), (3, *first))
    second = Noted().resize_for_vision_encoder(empty, tile)
    return (first[1], first[0]), (second.width, second.height)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(2, 600), st.integers(1, 2048).map(lambda half: 2 * half))
def test_idefics3_resizes_as_transformers_does(width: int, height: int, tile: int, longest: int) -> None:
    most = math.ceil(longest / tile)
    tiling = replace(LAST, strategy="idefics3", tile_size=tile, candidates=grids(max(most, 2)), longest_edge=longest)
    plan = plan_of((width, height), tiling)
    assert plan.resizes == reference(width, height, tile, longest)
    assert plan.grid in grids(most)
    assert tuple(side * tile for side in plan.grid) == plan.resizes[-1]


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 64), st.sampled_from([70, 140, 280, 560, 1120]))
def test_gemma4_resizes_as_transformers_does(width: int, height: int, patch: int, most: int) -> None:
    from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size

    tile = 3 * patch
    tiling = Tiling(
        tile_size=tile,
        strategy="gemma4",
        candidates=((1, 1),),
        thumbnail="none",
        min_pixels=tile**2,
        max_pixels=most * tile**2,
    )
    plan = plan_of((width, height), tiling)
    down, across = get_aspect_ratio_preserving_size(height, width, patch, 9 * most, 3)
    assert plan.resizes == ((across, down),)
    assert math.prod(plan.grid) <= most


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 600))
def test_a_crop_is_as_transformers_has_it(width: int, height: int, tile: int) -> None:
    from transformers.image_transforms import get_resize_output_image_size

    plan = plan_of((width, height), Tiling(tile_size=tile, strategy="center-crop", candidates=((1, 1),)))
    empty = np.broadcast_to(np.uint8(0), (3, height, width))
    wanted = get_resize_output_image_size(empty, size=tile, default_to_square=False)
    assert plan.resizes == (wanted[::-1],)
    assert plan.place == tuple(-((side - tile) // 2) for side in plan.resizes[0])


def test_a_picture_that_is_too_narrow_for_a_crop_is_refused() -> None:
    """Its longer side would have 1,344,000 pixels."""
    crop = Preprocessing(tile_size=336, strategy="center-crop", candidates=((1, 1),), thumbnail="none")
    for size in ((1, 4000), (4000, 1)):
        with pytest.raises(ImageError, match="too narrow for a crop"):
            cut_tiles(noise(*size, seed=0), crop)
    assert draw_grid(noise(50, 20, seed=0), replace(crop, tile_size=16)).size == (320, 320)


SQUARE = Preprocessing(tile_size=45, strategy="pad-square", candidates=((1, 1),), thumbnail="none", pad_color=(9, 8, 7))


@pytest.mark.parametrize("size", [(50, 30), (31, 64), (45, 45), (1, 90), (90, 2), (46, 45)])
def test_a_square_around_a_picture_is_llavas(size: tuple[int, int]) -> None:
    """By transformers' own function and Pillow, channels first."""
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    image = noise(*size, seed=size[0])
    # [height, width, 3] -> [3, side, side] -> [side, side, 3]
    square = LlavaImageProcessorPil().pad_to_square(np.asarray(image).transpose(2, 0, 1), (9, 8, 7)).transpose(1, 2, 0)
    wanted = np.asarray(Image.fromarray(square).resize((45, 45), Image.Resampling.BICUBIC))
    assert np.array_equal(cut_tiles(image, SQUARE).pixels[0], wanted)
    other = cut_tiles(image, replace(SQUARE, pad_color=(9, 8, 200))).pixels[0]
    assert np.array_equal(other, wanted) == (size[0] == size[1])


def test_a_square_of_too_many_pixels_is_refused() -> None:
    with pytest.raises(ImageError, match="too narrow for a square around it"):
        cut_tiles(Image.new("RGB", (16384, 1)), SQUARE)


@pytest.mark.parametrize("form", FORMS["idefics3"][:3])
def test_the_golden_plans_of_idefics3_are_transformers(form: Tiling) -> None:
    tiling = replace(form, strategy="idefics3")
    longest = form.longest_edge or max(max(grid) for grid in form.candidates) * form.tile_size
    for size in SIZES:
        assert plan_of(size, tiling).resizes == reference(*size, form.tile_size, longest), size


@pytest.mark.parametrize("split", [True, False])
def test_idefics3_tiles_are_transformers_to_the_byte(split: bool) -> None:
    theirs = processor(32, 128, split=split)
    ours = SMALL if split else replace(SMALL, candidates=((1, 1),))
    found = set()
    for size in [*(size for size in SIZES if size[0] * size[1] < 300_000), (4000, 40)]:
        image = noise(*size, seed=size[0])
        wanted = theirs(image, return_tensors="np")
        tiled = cut_tiles(image, ours)
        rows_and_columns = (wanted["rows"][0][0], wanted["cols"][0][0])
        assert rows_and_columns == ((0, 0) if len(tiled.pixels) == 1 else tiled.grid[::-1]), size
        # [tiles, tile, tile, 3] -> [tiles, 3, tile, tile]
        assert np.array_equal(tiled.pixels.transpose(0, 3, 1, 2), wanted["pixel_values"][0]), size
        found.add(tiled.grid)
    assert len(found) >= (6 if split else 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"longest_edge": 127}, "longest_edge: 127 is not an even number of pixels up to 4096"),
        ({"longest_edge": 4098, "tile_size": 2000}, "longest_edge: 4098"),
        ({"longest_edge": 130}, "candidates: a picture can get 5x5 tiles, which they lack"),
        ({"candidates": ((2, 2), (1, 1)), "longest_edge": None}, "candidates: a picture can get 2x1 tiles"),
    ],
)
def test_a_tiling_that_idefics3_cannot_follow_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


def parts_of_transformers(width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The grid of a picture, and its size as a whole, by the processor of LFM2-VL."""
    from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor

    own = Lfm2VlImageProcessor()
    large = own._is_image_too_large(height, width, 256, 16, 2, 2.0)
    grid = own._get_grid_layout(height, width, 2, 10, 512)[:2] if large else (1, 1)
    return (int(grid[0]), int(grid[1])), own.smart_resize(height, width, 2, 64, 256, 16)


def test_parts_are_cut_as_transformers_does() -> None:
    """Sizes at which it changes whether a picture is large, and which of two grids is as near, are among them."""
    sides = [*range(1, 3000, 73), 512, 723, 724, 725, 1024, 1448]
    sizes = [size for size in itertools.product(sides, sides) if max(size) <= MOST_ASPECT * min(size)]
    found = set()
    for width, height in [*sizes_of("lfm2"), *sizes]:
        plan, (grid, whole) = plan_of((width, height), PARTS), parts_of_transformers(width, height)
        assert plan.grid == grid, (width, height)
        thumbnail = plan.part if grid == (1, 1) else plan.thumbnail_part
        assert tuple(side * 32 for side in thumbnail) == whole, (width, height)
        assert max(math.prod(plan.part), math.prod(plan.thumbnail_part)) <= lfm2.most_tokens(PARTS)
        found.add(grid)
    assert len(found) > 20


def test_grids_stand_in_the_processors_order() -> None:
    from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor

    assert PARTS.candidates == tuple(Lfm2VlImageProcessor()._target_ratios(2, 10))
    other = replace(PARTS, candidates=PARTS.candidates[::-1])
    assert any(plan_of(size, other) != plan_of(size, PARTS) for size in sizes_of("lfm2"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part": None}, "part: lfm2 needs it, from 1 to 64"),
        ({"part": 65}, "part: lfm2 needs it"),
        ({"thumbnail": "first"}, "thumbnail: lfm2 has it last"),
        ({"thumbnail_of_single_tile": True}, "none of a whole picture"),
        ({"min_pixels": None}, "min_pixels and max_pixels: lfm2 needs both"),
        ({"part": 64, "candidates": ((1, 10),)}, "candidates: 1x10 tiles of 2048 px"),
    ],
)
def test_parts_that_cannot_be_cut_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(**{**vars(PARTS), **changes})


def slices_of_transformers(
    width: int, height: int, patch: int, side: int, most: int
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """The grid of a picture, its size as a whole and that of a slice, by the processor of MiniCPM-V 4.6, whose sizes
    are multiples of 4 patches: of a quarter of a patch they are those of the versions before it."""
    from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil

    own, size = MiniCPMV4_6ImageProcessorPil(), (height, width)
    found = own.get_sliced_grid(size, most, side)
    down, across = found or (1, 1)
    whole = own.find_best_resize(size, side, patch / 4, "16x", allow_upscale=found is None)
    canvas = whole
    if found is not None:
        canvas = own.get_refine_size(size, found, side, patch / 4, "16x", allow_upscale=True)
    return (across, down), (int(whole[1]), int(whole[0])), (int(canvas[1]) // across, int(canvas[0]) // down)


@given(
    st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([(14, 448, 9), (14, 448, 1), (8, 100, 12), (4, 24, 4)])
)
def test_slices_are_cut_as_transformers_does(width: int, height: int, settings: tuple[int, int, int]) -> None:
    patch, side, most = settings
    tiling = replace(SLICES, tile_size=patch, candidates=minicpmv.grids(most), min_pixels=side**2, max_pixels=side**2)
    check_tiling(tiling)
    if max(width, height) > MOST_ASPECT * min(width, height):
        with pytest.raises(ImageError, match="too narrow"):
            plan_of((width, height), tiling)
        return
    plan, (grid, whole, one) = plan_of((width, height), tiling), slices_of_transformers(width, height, *settings)
    assert plan.grid == grid
    small = plan.part if grid == (1, 1) else plan.thumbnail_part
    assert tuple(patches * patch for patches in small) == whole
    assert tuple(patches * patch for patches in plan.part) == one
    assert plan.thumbnail_index == (None if grid == (1, 1) else 0)
    assert max(math.prod(plan.part), math.prod(plan.thumbnail_part)) <= minicpmv.most_tokens(tiling)


def test_of_the_narrowest_pictures_no_slice_has_more_patches_than_graphs_take() -> None:
    assert minicpmv.most_tokens(SLICES) == 1252
    most = 0
    for long in range(200, 20_001, 200):
        for size in ((long, long // MOST_ASPECT), (long // MOST_ASPECT, long)):
            plan = plan_of(size, SLICES)
            most = max(most, math.prod(plan.part), math.prod(plan.thumbnail_part))
    assert 1024 < most <= 1252


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part": 4}, "part: 4, and minicpmv has slices of any size"),
        ({"thumbnail": "last"}, "thumbnail: minicpmv has it first"),
        ({"thumbnail_of_single_tile": True}, "none of a picture that is not cut"),
        ({"max_pixels": None}, "min_pixels and max_pixels: minicpmv needs both"),
        ({"min_pixels": 448}, "max_pixels: 200704 is no square of a side, or not min_pixels"),
        ({"min_pixels": 448 * 449, "max_pixels": 448 * 449}, "is no square of a side"),
        ({"candidates": minicpmv.grids(4)[::-1]}, "candidates: minicpmv has all grids of its most slices"),
    ],
)
def test_slices_that_cannot_be_cut_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(**{**vars(SLICES), **changes})
