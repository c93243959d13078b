"""Pictures of native resolution beside transformers: sizes, pixels, places, windows, tables and text positions."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.errors import ImageError
from pocketvlm.images.patches import axial_rope, interpolated, laid_over, places, sincos_rows, windows
from pocketvlm.images.positions import axis_of_pairs, positions_of
from pocketvlm.images.prepare import Preprocessing, cut_tiles, normalize
from pocketvlm.images.rules import check_tiling, plan_of
from pocketvlm.images.rules.smart_resize import most_tokens
from pocketvlm.images.tiling import Tiling, most_windows
from tests.images.test_tiles import noise
from tests.support.minicpmv import sincos
from tests.support.portable_native import GOLDEN, GRIDS, PROMPTS, ROPES, TABLE_GRIDS, golden, pictures_of

SMALL = Preprocessing(
    tile_size=12, strategy="smart-resize", candidates=((1, 1),), thumbnail="none", min_pixels=600, max_pixels=6000
)


def test_the_golden_places_are_what_their_generator_writes_and_have_variety() -> None:
    content = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert content == golden()
    assert {grid for grid, *_ in ROPES} | set(TABLE_GRIDS) <= set(GRIDS)
    assert {sum(one["mask"]) < len(one["mask"]) for one in content["windows"]} == {True, False}
    assert max(len(one["grids"]) for one in content["positions"]) == 3
    assert {one["interleaved"] for one in content["axes"]} == {True, False}


def thw(grid: tuple[int, int], ratio: int = 2) -> torch.Tensor:
    """transformers' grid_thw [1, 3] of a picture."""
    return torch.tensor([[1, grid[1] * ratio, grid[0] * ratio]])


# --- Sizes and pixels -------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([28, 32, 12]), st.integers(1, 100), st.integers(0, 3000)
)
def test_a_picture_is_resized_as_transformers_does(width: int, height: int, tile: int, least: int, more: int) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    fewest, most = least * 100, least * 100 + more * 500 + tile**2
    tiling = Tiling(tile, "smart-resize", ((1, 1),), thumbnail="none", min_pixels=fewest, max_pixels=most)
    check_tiling(tiling)
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(ImageError, match="too narrow"):
            plan_of((width, height), tiling)
        return
    plan = plan_of((width, height), tiling)
    wanted = smart_resize(height, width, tile, fewest, most)
    assert plan.resizes == (wanted[::-1],)
    assert plan.grid == (wanted[1] // tile, wanted[0] // tile)
    assert math.prod(plan.grid) <= most_tokens(tiling)


def test_a_resize_that_rounds_otherwise_is_seen() -> None:
    """14 of 28 are half a token: 42 pixels are the even multiple of it, two tokens, and not one."""
    tiling = Tiling(28, "smart-resize", ((1, 1),), thumbnail="none", min_pixels=1, max_pixels=28**2 * 100)
    assert plan_of((42, 70), tiling).grid == (2, 2)
    assert math.floor(42 / 28 + 0.5) == 2
    assert math.floor(70 / 28 + 0.5) == 3


def test_pixels_and_their_order_are_the_processors() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = {"shortest_edge": SMALL.min_pixels, "longest_edge": SMALL.max_pixels}
    theirs = Qwen2VLImageProcessorPil(size=size, patch_size=6, image_mean=SMALL.mean, image_std=SMALL.std)
    found = set()
    for shape in ((3, 2), (50, 30), (30, 64), (41, 40), (300, 20), (100, 100), (5, 200)):
        image = noise(*shape, seed=shape[0])
        wanted = theirs(image, return_tensors="np")
        tiled = cut_tiles(image, SMALL)
        assert wanted["image_grid_thw"].tolist() == thw(tiled.grid).tolist(), shape
        # [tiles, 3, 12, 12] -> [tiles, 3, 2, 6, 2, 6] -> [tiles, 2, 2, 3, 6, 6] -> [patches, 3, 6, 6]
        ours = normalize(tiled.pixels, SMALL).reshape(-1, 3, 2, 6, 2, 6).transpose(0, 2, 4, 1, 3, 5)
        # [patches, 3 * 2 * 6 * 6]: each pixel once a moment of a film, of which a picture has two alike
        moments = wanted["pixel_values"].reshape(-1, 3, 2, 6, 6)
        for moment in (0, 1):
            assert np.abs(ours.reshape(-1, 3, 6, 6) - moments[:, :, moment]).max() < 1e-6, shape
        found.add(tiled.grid)
    assert len(found) >= 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_pixels": None}, "min_pixels and max_pixels: smart-resize needs both"),
        ({"max_pixels": 100}, "min_pixels: 600 is not from 1 to max_pixels, 100"),
        ({"min_pixels": 1, "max_pixels": 100}, "max_pixels: 100 are less than a token's, 144"),
        ({"thumbnail": "first"}, "thumbnail: smart-resize has none"),
    ],
)
def test_bounds_that_the_rule_cannot_follow_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(**{**vars(SMALL), **changes})


# --- The tower's places -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
def test_places_and_rope_are_transformers(grid: tuple[int, int]) -> None:
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionRotaryEmbedding
    from transformers.vision_utils import get_vision_position_ids

    wanted = get_vision_position_ids(thw(grid), 2)
    assert places(grid, 2).reshape(-1, 2).tolist() == wanted.tolist()
    config = Qwen2_5_VLConfig(vision_config={"hidden_size": 64, "num_heads": 4}).vision_config
    tables = Qwen2_5_VLVisionRotaryEmbedding(config)(torch.zeros(1), wanted)
    for found, theirs in zip(axial_rope(grid, 2, 16, 10000.0), tables, strict=True):
        # theirs has each angle twice, [patches, head size]
        assert np.abs(found.reshape(-1, 8) - theirs[:, :8].numpy()).max() < 1e-6
        assert torch.equal(theirs[:, :8], theirs[:, 8:])


@pytest.mark.parametrize("side", [1, 2, 4])
@pytest.mark.parametrize("grid", GRIDS)
def test_windows_are_transformers(grid: tuple[int, int], side: int) -> None:
    from transformers.vision_utils import get_vision_window_index

    order, ends = get_vision_window_index(thw(grid), 2, window_size=side * 2 * 7, patch_size=7)
    found = windows(grid, side, 2)
    is_there = found.mask[:, ::4].astype(bool)
    assert found.tiles[is_there].tolist() == order.tolist()
    assert (4 * is_there.sum(axis=1)).tolist() == ends.diff().tolist()
    assert found.tiles.reshape(-1)[found.positions].tolist() == list(range(grid[0] * grid[1]))
    assert found.mask.sum() == 4 * grid[0] * grid[1]
    assert len(found.tiles) <= most_windows(grid[0] * grid[1], side)


def test_the_most_windows_are_those_of_some_shape() -> None:
    for tokens in (1, 16, 17, 40):
        shapes = [(across, down) for across in range(1, 41) for down in range(1, 41) if across * down <= tokens]
        assert most_windows(tokens, 4) == max(len(windows(shape, 4, 2).tiles) for shape in shapes)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_table_is_stretched_as_transformers_does(grid: tuple[int, int]) -> None:
    from transformers.vision_utils import get_vision_interpolation_indices_and_weights

    side, width = 6, 5
    table = np.random.default_rng(0).normal(size=(side, side, width)).astype(np.float32)
    taps, shares = get_vision_interpolation_indices_and_weights(thw(grid), side, "bilinear", True, 2)
    wanted = (table.reshape(-1, width)[taps.numpy()] * shares.numpy()[..., None]).sum(axis=1)
    assert np.abs(interpolated(grid, 2, table).reshape(-1, width) - wanted).max() < 1e-6


# --- The text's positions ---------------------------------------------------------------------------------------------

IMAGE = 9


def their_positions(kinds: list[int], grids: list[tuple[int, int]]) -> torch.Tensor:
    """``get_rope_index`` [3, tokens] of tokens that are of text (0) or of a picture (1)."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

    class Bare:
        config = Qwen2_5_VLConfig()
        get_vision_position_ids = Qwen2_5_VLModel.get_vision_position_ids

    sizes = torch.cat([thw(grid) for grid in grids]) if grids else None
    ids = torch.tensor([[IMAGE if kind else 1 for kind in kinds]])
    found, _ = Qwen2_5_VLModel.get_rope_index(Bare(), ids, torch.tensor([kinds]), sizes)
    return found[:, 0]


@pytest.mark.parametrize("prompt", [one for one in PROMPTS if not isinstance(one[0], tuple) or len(one) == 1])
def test_positions_are_transformers(prompt: Any) -> None:
    """Where text stands between pictures, as it does in each chat template; theirs takes two in a row for one."""
    index, grids = pictures_of(prompt)
    found = positions_of(np.array(index, np.int64), grids)
    assert found.tolist() == their_positions([int(at >= 0) for at in index], grids).tolist()
    # the table of RoPE need not be longer than the cache
    assert (found.max(axis=0) <= np.arange(len(index))).all()


def test_axes_of_pairs_are_transformers() -> None:
    from transformers import Qwen3VLTextConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

    assert axis_of_pairs((2, 3, 3), interleaved=False).tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    for sections in ((4, 2, 2), (24, 20, 20)):
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections), "mrope_interleaved": True}
        config = Qwen3VLTextConfig(head_dim=2 * sum(sections), rope_parameters=rope)
        positions = torch.tensor([[[1]], [[10]], [[100]]])
        cos, _ = Qwen3VLTextRotaryEmbedding(config)(torch.zeros(1), positions)
        pairs, frequency = sum(sections), 1e4 ** (-np.arange(sum(sections)) / sum(sections))
        wanted = np.cos(positions.flatten().numpy()[axis_of_pairs(sections, interleaved=True)] * frequency)
        assert np.abs(cos[0, 0, :pairs].numpy() - wanted).max() < 1e-5


@pytest.mark.parametrize("grid", [(6, 4), (1, 1), (2, 8), (5, 1), (1, 3)])
def test_a_table_is_resized_as_pytorch_resizes_an_image(grid: tuple[int, int]) -> None:
    """To more rows than it has and to fewer; stretched from corner to corner it is another."""
    table = np.random.default_rng(0).standard_normal((5, 5, 7)).astype(np.float32)
    across, down = grid
    # [5, 5, 7] -> [1, 7, 5, 5] -> [1, 7, rows, columns] -> [rows, columns, 7]
    image = torch.from_numpy(table).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(image, (down * 2, across * 2), mode="bilinear", antialias=True)
    wanted = resized[0].permute(1, 2, 0).numpy()
    at = places(grid, 2)
    assert np.abs(laid_over(grid, 2, table, "resized") - wanted[at[..., 0], at[..., 1]]).max() < 1e-6
    assert np.abs(laid_over(grid, 2, table, "stretched") - wanted[at[..., 0], at[..., 1]]).max() > 1e-2


@pytest.mark.parametrize("side", [70, 7])
def test_each_patch_takes_the_entry_that_transformers_takes(side: int) -> None:
    from transformers.vision_utils import get_vision_nearest_position_ids

    table = np.arange(side * side, dtype=np.float32).reshape(side, side, 1)
    for grid in [(1, 1), (32, 32), (25, 41), (49, 20), (1, 700), (90, 11), (33, 31)]:
        sizes = torch.tensor([[grid[1], grid[0]]])
        found = laid_over(grid, 1, table, "bucketed")
        assert found.flatten().tolist() == get_vision_nearest_position_ids(sizes, side).tolist(), grid
    assert laid_over((2, 1), 1, table, "bucketed").tolist() != laid_over((1, 2), 1, table, "bucketed").tolist()


@pytest.mark.parametrize("grid", [(3, 2), (1, 1), (40, 26)])
def test_sines_and_cosines_of_keys_are_those_of_an_oracle(grid: tuple[int, int]) -> None:
    wanted = sincos(64, grid[1], grid[0]).numpy()
    assert np.abs(sincos_rows(grid, 64)[:, 0] - wanted).max() < 1e-5
    # half the channels are of the column: another place in a row changes them alone
    assert grid != (3, 2) or not np.array_equal(sincos_rows(grid, 64), sincos_rows((2, 3), 64))
