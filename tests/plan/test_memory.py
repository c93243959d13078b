"""Peaks, and what fits a budget."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.models.presets import PRESETS
from pocketvlm.plan.device import load_device
from pocketvlm.plan.memory import (
    BATCH,
    CHUNK,
    IMAGE_TOKENS,
    KV_CACHE,
    MODES,
    RUNTIME,
    PlannedPicture,
    Use,
    fit,
    longest_context,
    memory_parts,
    peak_bytes,
    peaks,
    picture_of,
)  # fmt: skip
from pocketvlm.plan.model import MOST_POSITIONS, TEXT_PARTS, VISION_PARTS, PlannedModel, model_of_config
from pocketvlm.recipe import load_recipe

DEVICE = load_device("dimensity-9300")
MODELS = {
    name: model_of_config(name, PRESETS[name].config, load_recipe("bluelm-v-3b"), None)
    for name in ("bluelm-v-3b", "bluelm-v-0.5b", "tiny")
}
PAPERS = MODELS["bluelm-v-3b"]
BLIND = replace(PAPERS, vision=None, parts={**PAPERS.parts, **dict.fromkeys(VISION_PARTS, type(PAPERS.head)())})
KEPT, FREED = MODES

models = st.sampled_from(sorted(MODELS)).map(MODELS.__getitem__)
lengths = st.integers(1, 4096)


def pictures(model: PlannedModel) -> list[PlannedPicture]:
    assert model.vision is not None
    return [picture_of(model.vision, grid) for grid in model.vision.preprocessing.candidates]


def use(model: PlannedModel, size: tuple[int, int], kv_length: int = 2048) -> Use:
    assert model.vision is not None
    return Use(picture_of(model.vision, model.vision.grid(size)), kv_length)


# --- Parts ------------------------------------------------------------------------------------------------------------


def test_the_papers_picture_is_nine_tiles() -> None:
    picture = use(PAPERS, (768, 1536)).picture
    assert picture == PlannedPicture(grid=(2, 4), tiles=9, tokens=1764, width=768, height=1536)


def test_activations_are_what_the_docstrings_say() -> None:
    parts = memory_parts(PAPERS, DEVICE, use(PAPERS, (768, 1536)))
    layer = 729 * (3 * 1152 + 2 * 4304)
    assert parts[BATCH] == 2 * 4 * layer + 4 * 8 * (3 * 384**2 + 729 * 1152)
    chunk = 128 * (3 * 2304 + 3 * 5760) + 36 * 128 * 2048 + 2 * 36 * 64 * 2048
    assert parts[CHUNK] == 2 * chunk + 4 * 122753
    assert parts[IMAGE_TOKENS] == 4 * 2304 * 1764
    assert parts[KV_CACHE] == 2 * 40 * 36 * 64 * 2048
    assert parts[RUNTIME] == 52_000_000


def test_peaks_add_up() -> None:
    parts = memory_parts(PAPERS, DEVICE, use(PAPERS, (768, 1536)))
    vision, text = (sum(parts[name] for name in names) for names in (VISION_PARTS, TEXT_PARTS))
    always = text + parts[IMAGE_TOKENS] + parts[RUNTIME]
    assert peaks(parts) == {
        KEPT: always + vision + parts[BATCH] + parts[KV_CACHE] + parts[CHUNK],
        FREED: max(always + vision + parts[BATCH], always + parts[KV_CACHE] + parts[CHUNK]),
    }
    assert set(parts) == {*VISION_PARTS, *TEXT_PARTS, KV_CACHE, CHUNK, BATCH, IMAGE_TOKENS, RUNTIME}


def test_without_a_picture_or_a_vision_part() -> None:
    parts = memory_parts(PAPERS, DEVICE, Use(None, 2048))
    assert parts[BATCH] == parts[IMAGE_TOKENS] == 0
    saved = min(sum(parts[name] for name in VISION_PARTS), parts[KV_CACHE] + parts[CHUNK])
    assert peaks(parts)[KEPT] - peaks(parts)[FREED] == saved
    blind = peaks(memory_parts(BLIND, DEVICE, Use(None, 2048)))
    assert blind[KEPT] == blind[FREED]


def test_activations_at_float32_are_half_of_what_was_measured_on_a_server() -> None:
    """bench/results/real-size-runtime.json: 272 MB anonymous more after an image, 482 MB after 1,920 tokens."""
    size = DEVICE.activation_size.model_copy(update={"value": 4.0})
    parts = memory_parts(PAPERS, DEVICE.model_copy(update={"activation_size": size}), use(PAPERS, (768, 1536), 1920))
    assert 1 < 272e6 / (parts[BATCH] + parts[IMAGE_TOKENS]) < 2.5
    assert 1 < (482e6 - parts[KV_CACHE]) / parts[CHUNK] < 2.5


@given(model=models, kv_length=lengths, more=st.integers(1, 4096), mode=st.sampled_from(MODES))
def test_a_longer_context_takes_more(model: PlannedModel, kv_length: int, more: int, mode: str) -> None:
    picture = pictures(model)[0]
    less, longer = (peak_bytes(model, DEVICE, Use(picture, length), mode) for length in (kv_length, kv_length + more))
    assert less < longer if mode == KEPT else less <= longer


@given(model=models, kv_length=lengths, mode=st.sampled_from(MODES), data=st.data())
def test_more_tiles_take_more(model: PlannedModel, kv_length: int, mode: str, data: st.DataObject) -> None:
    few, many = sorted(data.draw(st.tuples(*[st.sampled_from(pictures(model))] * 2)), key=lambda one: one.tiles)
    less, more = (peak_bytes(model, DEVICE, Use(picture, kv_length), mode) for picture in (few, many))
    assert less <= more
    assert less < more or few.tiles == many.tiles


# --- What fits --------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(model=models, megabytes=st.floats(1, 4000), mode=st.sampled_from(MODES), data=st.data())
def test_the_longest_context_fits_and_the_next_does_not(
    model: PlannedModel, megabytes: float, mode: str, data: st.DataObject
) -> None:
    budget, picture = round(megabytes * 1e6), data.draw(st.sampled_from(pictures(model)))
    longest = longest_context(model, DEVICE, picture, mode, budget)
    assert model.positions is not None
    assert 0 <= longest <= model.positions
    if longest:
        assert peak_bytes(model, DEVICE, Use(picture, longest), mode) <= budget
    if longest < model.positions:
        assert peak_bytes(model, DEVICE, Use(picture, longest + 1), mode) > budget


@settings(max_examples=60)
@given(model=models, megabytes=st.floats(1, 4000), mode=st.sampled_from(MODES), kv_length=lengths)
def test_the_largest_picture_fits_and_no_larger_one_does(
    model: PlannedModel, megabytes: float, mode: str, kv_length: int
) -> None:
    budget = round(megabytes * 1e6)
    found = fit(model, DEVICE, Use(pictures(model)[-1], kv_length), mode, budget)
    assert found.context == min(kv_length, found.longest_context)
    assert found.fits == (found.peak <= budget) == (found.longest_context >= kv_length)
    assert found.spare == budget - found.peak
    fitting = {
        picture
        for picture in pictures(model)
        if found.context
        and picture.tokens <= found.context
        and peak_bytes(model, DEVICE, Use(picture, found.context), mode) <= budget
    }
    if found.largest_picture is None:
        assert not fitting
    else:
        assert found.largest_picture in fitting
        assert max(picture.tiles for picture in fitting) == found.largest_picture.tiles


def test_a_budget_to_the_byte() -> None:
    wanted = use(PAPERS, (768, 1536))
    peak = peak_bytes(PAPERS, DEVICE, wanted, KEPT)
    exact, short = (fit(PAPERS, DEVICE, wanted, KEPT, budget) for budget in (peak, peak - 1))
    assert (exact.fits, exact.spare, exact.longest_context) == (True, 0, 2048)
    assert (short.fits, short.spare, short.longest_context) == (False, -1, 2047)
    assert not exact.limited


def test_the_models_positions_end_a_context() -> None:
    found = fit(PAPERS, DEVICE, use(PAPERS, (768, 1536)), FREED, 1 << 40)
    assert (found.longest_context, found.limited) == (4096, True)
    bundle = replace(PAPERS, positions=None)
    assert fit(bundle, DEVICE, use(PAPERS, (768, 1536)), FREED, 1 << 50).longest_context == MOST_POSITIONS


def test_the_largest_picture_has_the_shape_of_the_one_asked_for() -> None:
    for size, grid in (((768, 1536), (2, 4)), ((1536, 768), (4, 2))):
        found = fit(PAPERS, DEVICE, use(PAPERS, size), KEPT, 1 << 40).largest_picture
        assert found is not None
        assert found.grid == grid


@pytest.mark.parametrize("mode", MODES)
def test_nothing_fits_nothing(mode: str) -> None:
    found = fit(PAPERS, DEVICE, use(PAPERS, (768, 1536)), mode, 1)
    assert (found.fits, found.longest_context, found.largest_picture) == (False, 0, None)
    assert fit(BLIND, DEVICE, Use(None, 2048), mode, 1 << 40).largest_picture is None
