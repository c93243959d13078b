"""Packing: the golden file, transformers' own counting and packing of features."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.images.packing import most_tokens, pack, packed
from pocketvlm.images.rules import plan_of
from pocketvlm.images.tiling import Size, Tiling
from tests.support.portable_packing import (
    CASES,
    GOLDEN,
    NEXT,
    ONEVISION,
    PACKED,
    PACKED_SIZES,
    case,
    golden,
    golden_packed,
)
from tests.support.portable_plans import SIZES

sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


def test_the_golden_packing_is_what_its_generator_writes_and_has_variety() -> None:
    content = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert content == golden()
    assert any(case["kept"] != case["shown"] for case in content)
    assert any(case["shown"][0] == 0 for case in content)  # a line so thin that its padding is all there is
    assert {case["corner"][0] > 0 for case in content} == {case["corner"][1] > 0 for case in content} == {True, False}


def test_the_golden_packed_tokens_are_what_the_generator_writes_and_have_variety() -> None:
    content = json.loads(PACKED.read_text(encoding="utf-8"))
    assert content == golden_packed()
    resized = [case(size, *form) for size in PACKED_SIZES for form in CASES]
    assert 0 < sum(one["kept"] != one["shown"] for one in resized) < len(resized) == len(content["cases"])
    assert len({one["sha256"] for one in content["cases"]}) > len(content["cases"]) // 2


def counted(size: Size, tiling: Tiling, side: int, most_tiles: int | None) -> int:
    """The tokens of transformers' processors, whose sizes are (height, width)."""
    from transformers import LlavaNextProcessor, LlavaOnevisionProcessor

    pinpoints = [[down * tiling.tile_size, across * tiling.tile_size] for across, down in tiling.candidates]
    images = SimpleNamespace(image_grid_pinpoints=pinpoints)
    kind = LlavaNextProcessor if most_tiles is None else LlavaOnevisionProcessor
    processor = kind.__new__(kind)
    processor.image_processor, processor.num_image_tokens = images, side**2
    processor.patch_size, processor.num_additional_image_tokens = tiling.tile_size // side, 0
    processor.vision_aspect_ratio = f"anyres_max_{most_tiles}"
    count: int = processor._get_number_of_features(*size[::-1], tiling.tile_size, tiling.tile_size)
    return count


@pytest.mark.parametrize(("tiling", "side", "most_tiles"), CASES)
def test_tokens_of_the_golden_sizes_are_transformers(tiling: Tiling, side: int, most_tiles: int | None) -> None:
    for size in SIZES:
        plan = packed(size, plan_of(size, tiling).grid, side, most_tiles)
        assert plan.tokens == counted(size, tiling, side, most_tiles), size


@given(sizes, st.sampled_from(CASES))
def test_tokens_are_transformers(size: Size, case: tuple[Tiling, int, int | None]) -> None:
    tiling, side, most_tiles = case
    grid = plan_of(size, tiling).grid
    assert packed(size, grid, side, most_tiles).tokens == counted(size, *case) <= most_tokens(grid, side, most_tiles)


def transformers_packs(features: torch.Tensor, size: Size, tiling: Tiling, side: int, most_tiles: int | None) -> Any:
    """``pack_image_features`` of the tokens [tiles, side * side, hidden] of one image, with a newline of ones."""
    from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
    from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

    pinpoints = [[down * tiling.tile_size, across * tiling.tile_size] for across, down in tiling.candidates]
    vision = SimpleNamespace(image_size=tiling.tile_size, patch_size=tiling.tile_size // side)
    config = SimpleNamespace(config=SimpleNamespace(vision_config=vision, image_grid_pinpoints=pinpoints))
    given_, newline = ([features], torch.tensor([size[::-1]])), torch.ones(features.shape[-1])
    if most_tiles is None:
        found, _ = LlavaNextModel.pack_image_features(config, *given_, "full", newline)
    else:
        found, _ = LlavaOnevisionModel.pack_image_features(config, *given_, newline, f"anyres_max_{most_tiles}")
    return found[0].numpy()


@pytest.mark.parametrize(("tiling", "most_tiles"), [(NEXT, None), (ONEVISION, 9), (ONEVISION, 2)])
def test_packed_tokens_are_transformers(tiling: Tiling, most_tiles: int | None) -> None:
    side, hidden = 3, 5
    for size in SIZES:
        grid = plan_of(size, tiling).grid
        features = np.random.default_rng(size[0]).normal(size=(grid[0] * grid[1] + 1, side**2, hidden))
        tokens = features.astype(np.float32)
        plan = packed(size, grid, side, most_tiles)
        # [tiles, side * side, hidden] -> [tiles * side * side, hidden]
        found = pack(tokens.reshape(-1, hidden), plan, np.ones(hidden, np.float32))
        wanted = transformers_packs(torch.from_numpy(tokens), size, tiling, side, most_tiles)
        assert found.shape == wanted.shape == (plan.tokens, hidden), size
        # (those that are not resized are moved, not computed)
        assert np.abs(found - wanted).max() <= (0 if plan.kept == plan.size else 1e-5), size


def test_a_fault_is_seen() -> None:
    """Padding that is kept, and rows that are columns."""
    size = (600, 200)
    grid = plan_of(size, ONEVISION).grid
    plan = packed(size, grid, 3, 9)
    assert packed((200, 200), grid, 3, 9).tokens != plan.tokens
    features = np.random.default_rng(0).normal(size=(grid[0] * grid[1] + 1, 9, 5)).astype(np.float32)
    wanted = transformers_packs(torch.from_numpy(features), size, ONEVISION, 3, 9)
    turned = features.reshape(-1, 3, 3, 5).swapaxes(1, 2).reshape(-1, 5)
    assert np.abs(pack(turned, plan, np.ones(5, np.float32)) - wanted).max() > 0.1
