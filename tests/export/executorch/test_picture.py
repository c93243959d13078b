"""Pictures of native resolution in ExecuTorch programs: what the export's checks and the engine's answers catch."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketvlm.bundle.open import Bundle
from pocketvlm.errors import ExportError
from pocketvlm.export import export_bundle
from pocketvlm.export.executorch import operators, picture
from pocketvlm.export.executorch.schema import load_program, quiet, run_method
from pocketvlm.export.executorch.weights import Weights
from pocketvlm.images.patches import axial_rope, window_by_window, windows
from pocketvlm.images.rules import smart_resize
from pocketvlm.images.tiling import Tiling
from pocketvlm.models.operators import Channels, Linear
from pocketvlm.runtime import load
from tests.images.test_tiles import noise
from tests.support.vision_families import WRITERS
from tests.support.written_family import Written

with quiet():
    from executorch.extension.llm import runner as stock

KV_LENGTH, TOLERANCE = 256, 1e-4
WITH_WINDOWS, WITH_ROWS = "qwen2_5_vl", "qwen3_vl"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    names = (WITH_WINDOWS, WITH_ROWS)
    return {name: WRITERS[name](tmp_path_factory.mktemp(name) / "checkpoint") for name in names}


@pytest.fixture(scope="module")
def bundle(written: dict[str, Written], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported(written[WITH_WINDOWS], tmp_path_factory.mktemp("windows") / "bundle")


def exported(written: Written, directory: Path) -> Bundle:
    return export_bundle(written.directory, directory, recipe="fp32", backends=["executorch"], max_length=KV_LENGTH)


# --- The export's checks ----------------------------------------------------------------------------------------------

Patch = pytest.MonkeyPatch


def other_order(patch: Patch) -> None:
    """Tiles turn as those of other places in their window."""
    patch.setattr(picture, "window_by_window", lambda values, tiles: window_by_window(values, tiles[:, ::-1]))


def no_mask(patch: Patch) -> None:
    """What fills a window up is seen."""
    patch.setattr(picture, "UNSEEN", 0.0)


def windows_everywhere(patch: Patch) -> None:
    """A layer of all patches looks at windows."""
    own: Any = picture.attend

    def attend(graph: Any, heads: Any, place: picture.PlaceValues, states: Any) -> Any:
        return own(graph, heads, replace(place, of_all=None), states)

    patch.setattr(picture, "attend", attend)


SWAPPED = re.compile(r"\.mlps\.([01])\.")


def swapped_mergers(patch: Patch) -> None:
    """Rows for the first layer come out of the second's projector."""
    own: Any = operators._linear

    class Swapped:
        def __init__(self, weights: Weights) -> None:
            self._weights = weights

        def __getattr__(self, name: str) -> Any:
            given = getattr(self._weights, name)
            return lambda key: given(SWAPPED.sub(lambda found: f".mlps.{1 - int(found[1])}.", key))

    def linear(at: Any, call: Any, hidden: Any) -> Any:
        at.weights, kept = Swapped(at.weights), at.weights
        try:
            return own(at, call, hidden)
        finally:
            at.weights = kept

    patch.setitem(operators.TABLE, Linear, linear)


def rows_of_another(patch: Patch) -> None:
    """A layer adds its own stream again in place of the row that entered for it."""
    own: Any = operators._channels

    def channels(at: Any, call: Any, values: Any) -> Any:
        if call.stage.part != "decoder layer" or call.operator.first == 0:
            return own(at, call, values)
        return at.graph.slice(values, 1, 0, call.operator.size)

    patch.setitem(operators.TABLE, Channels, channels)


FAULTS: dict[str, tuple[str, Callable[[Patch], None], str]] = {
    "window order": (WITH_WINDOWS, other_order, "vision layer 0"),
    "mask of padding": (WITH_WINDOWS, no_mask, "vision layer [012]"),
    "mask of all": (WITH_WINDOWS, windows_everywhere, "vision layer 1"),
    "mergers": (WITH_ROWS, swapped_mergers, "projector"),
    "rows beside the stream": (WITH_ROWS, rows_of_another, "decoder layer [01]"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_graph_is_caught_and_named(
    written: dict[str, Written], tmp_path: Path, monkeypatch: Patch, fault: str
) -> None:
    family, plant, piece = FAULTS[fault]
    plant(monkeypatch)
    with pytest.raises(ExportError, match=f"lowering: the ExecuTorch program's {piece} differs from PyTorch"):
        exported(written[family], tmp_path / "bundle")


def test_a_program_that_takes_other_turns_than_its_layers_is_caught(
    written: dict[str, Written], tmp_path: Path, monkeypatch: Patch
) -> None:
    """The whole decoder, told of places in the cache instead of positions, where each layer was told right."""
    from pocketvlm.export.executorch import checks

    own, asked = checks._where, list[int]()

    def turns(job: Any, count: int) -> tuple[torch.Tensor, ...]:
        asked.append(count)
        is_whole = count == len(job.sample.token_ids) and len(asked) > 2 * job.checkpoint.config.text.num_hidden_layers
        found = own(job, count)
        return tuple(table.flip(0) for table in found) if is_whole else found

    monkeypatch.setattr(checks, "_where", turns)
    with pytest.raises(ExportError, match="text_decoder as a whole differs"):
        exported(written[WITH_WINDOWS], tmp_path / "bundle")


# --- The engine -------------------------------------------------------------------------------------------------------


def test_the_engine_that_takes_tokens_back_in_another_order_is_seen(bundle: Bundle, monkeypatch: Patch) -> None:
    def encoded() -> np.ndarray:
        with load(bundle.location, threads=1) as vlm:  # which keeps what it has encoded
            return vlm.encode_images([noise(61, 83, seed=1)])

    exact = encoded()
    name = "pocketvlm.runtime.engines.executorch.window_by_window"
    monkeypatch.setattr(name, lambda values, tiles: window_by_window(values, tiles[::-1]))
    wrong = encoded()
    assert exact.shape == wrong.shape
    assert np.linalg.norm(exact - wrong) > 0.1 * np.linalg.norm(exact)


@pytest.mark.parametrize("grid", [(1, 1), (3, 2), (4, 4), (1, 7), (7, 5)])
def test_what_fills_windows_up_changes_nothing(bundle: Bundle, grid: tuple[int, int]) -> None:
    """Whatever stands in the places of tiles that a window lacks."""
    vision = bundle.manifest.vision
    assert vision is not None and vision.patches is not None and vision.patches.window is not None
    native, rows = vision.patches, vision.patches_per_tile
    cut = windows(grid, vision.patches.window, vision.downsample_ratio)
    turns = axial_rope(grid, vision.downsample_ratio, native.head_dim, native.rope_theta)
    generator = np.random.default_rng(0)
    patches = generator.standard_normal((grid[0] * grid[1], rows, vision.vision_hidden_size)).astype(np.float32)
    # [windows, places * patches] -> [windows * places]: whether a tile stands there
    there = cut.mask.reshape(-1, rows)[:, 0].astype(bool)
    found = []
    for filling in (0.0, 3.0):
        ordered = [window_by_window(values, cut.tiles) for values in (patches, *turns)]
        ordered[0][~there] = filling
        given = [torch.from_numpy(values) for values in (*ordered, cut.mask.astype(np.float32))]
        found.append(run_method(bundle.path("model.pte"), "image_tokens", *given)[0][cut.positions])
    assert torch.allclose(found[0], found[1], atol=1e-6)


def test_no_picture_has_more_tiles_in_whole_windows_than_a_program_takes() -> None:
    """Of the published bounds, and of smaller ones; half as many again are never had."""
    for tokens in (1280, 40):
        tiling, bound = Tiling(28, min_pixels=4 * 28**2, max_pixels=tokens * 28**2, thumbnail="none"), 0
        sides = [*range(10, 1200, 37), 2000, 5000, 12000, 40000]
        for width, height in itertools.product(sides, sides):
            if max(width, height) <= smart_resize.MOST_ASPECT * min(width, height):
                across, down = smart_resize.plan(width, height, tiling).grid
                bound = max(bound, 16 * -(-across // 4) * -(-down // 4))
        most = smart_resize.most_filled(smart_resize.most_tokens(tiling), 4)
        assert bound <= most < (3 * bound if tokens < 100 else 1.5 * bound), tokens
    assert smart_resize.most_filled(1280, 4) == 2400


# --- The stock runners ------------------------------------------------------------------------------------------------


def test_the_stock_runners_find_no_method_for_pictures_or_for_one_position_a_token(bundle: Bundle) -> None:
    """They know of pictures of one size and of tokens whose positions are their places: they end, naming a method."""
    names = set(load_program(bundle.path("model.pte")).method_names())
    assert names.isdisjoint({"vision_encoder", "forward"})
    assert {"patch_embedding", "image_tokens", "token_embedding", "text_decoder"} <= names
    paths = str(bundle.path("model.pte")), str(bundle.path("tokenizer.json"))
    settings = stock.GenerationConfig(echo=False, max_new_tokens=2, temperature=0.0)
    asked = {"picture": [stock.make_image_input(torch.zeros(1, 3, 12, 12))], "text": [stock.make_text_input("the")]}
    for inputs in asked.values():
        with pytest.raises(RuntimeError, match="Generation failed"):
            stock.MultimodalRunner(*paths).generate(inputs, settings)
    with pytest.raises(RuntimeError, match="Generation failed"):
        stock.TextLLMRunner(*paths).generate("the", settings)
