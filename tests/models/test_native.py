"""Families of native resolution: positions along three axes, windows, bounds of pictures, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from pocketvlm.bench.speed.cases import cases, measure_cases
from pocketvlm.bench.speed.footprint import footprint
from pocketvlm.bench.speed.planned import check_fits
from pocketvlm.bench.speed.workload import Workload
from pocketvlm.bench.targets.adb.plan import check_supported
from pocketvlm.bundle.defaults import MOST_PATCH_TOKENS
from pocketvlm.bundle.graphs.wire import LIMITS
from pocketvlm.cli import main
from pocketvlm.errors import BundleError, CheckpointError, ExportError, ImageError, PocketVlmError
from pocketvlm.export import export_bundle
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.read.image_processor import vision_of
from pocketvlm.export.read.length import kv_length
from pocketvlm.export.read.retiling import Retiling
from pocketvlm.export.reference.stages import through_layer
from pocketvlm.images.patches import interpolated
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.operators import AttendPicture, KvCache, PicturePlace
from pocketvlm.models.stages import decoder_stages, place_of
from pocketvlm.plan.device import load_device
from pocketvlm.plan.memory import Use, fit, peak_bytes, picture_of
from pocketvlm.plan.model import model_of_config, model_of_manifest
from pocketvlm.plan.times import encoder_step
from pocketvlm.recipe import load_recipe
from pocketvlm.runtime import GenerationConfig, generation, load
from pocketvlm.runtime.engines import open_engine
from tests.images.test_tiles import noise
from tests.support.vision_contract import Exported, Messages, distance, exported, processed, said
from tests.support.vision_families import WRITERS

KV_LENGTH, TOLERANCE = 512, 1e-4
NATIVE = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")
#: Of other shapes: a row and a column of tokens, whole windows, and what lies beside them.
SHAPES = ((12, 140), (150, 13), (48, 24), (60, 36), (61, 83), (30, 31))


@pytest.fixture(scope="module", params=NATIVE)
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Exported:
    return exported(request.param, tmp_path_factory.mktemp(request.param), shared)


def shown(*sizes: tuple[int, int]) -> tuple[Messages, list[Image.Image]]:
    """A question about pictures of these sizes, text between them."""
    images = [noise(*size, seed=size[0]) for size in sizes]
    parts: list[Any] = []
    for image in images:
        parts += [{"type": "image", "image": image}, {"type": "text", "text": "the "}]
    return [{"role": "user", "content": parts}], images


def logits_of(one: Exported, bundle: Path, sizes: tuple[tuple[int, int], ...], engine: str = "onnx") -> float:
    """The distance of a bundle's logits from transformers'."""
    messages, images = shown(*sizes)
    inputs = processed(one.written, messages)
    with torch.no_grad():
        wanted = one.written.model(**inputs).logits[0].numpy()
    with load(bundle, threads=1, engine=engine) as vlm:
        return distance(vlm.logits(inputs["input_ids"][0].numpy(), images), wanted)


# --- Pictures of many shapes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [*((size,) for size in SHAPES), SHAPES[:2], SHAPES[3:]])
def test_logits_are_transformers_whatever_shape_pictures_have(one: Exported, sizes: Any) -> None:
    for engine in one.written.engines:
        assert logits_of(one, one.bundle.location, sizes, engine) < TOLERANCE, engine


def test_a_picture_of_each_shape_has_its_tokens_in_windows_that_it_fills_or_not(one: Exported) -> None:
    """The shapes above are of both kinds, and none is of one size with another."""
    with load(one.bundle.location, threads=1) as vlm:
        grids = {vlm.prepare(image).tiled.grid for image in shown(*SHAPES)[1]}
    assert len(grids) == len(SHAPES)
    assert {across % 2 or down % 2 for across, down in grids} == {0, 1}
    assert any(1 in grid for grid in grids)


FAULTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "an axis has other pairs": lambda raw: raw["positions"].update(sections=[12, 2, 2]),
    "axes lie between one another": lambda raw: raw["positions"].update(
        sections=[6, 5, 5], interleaved=not raw["positions"]["interleaved"]
    ),
    "the tower turns otherwise": lambda raw: raw["vision"]["patches"].update(rope_theta=100.0),
}


def without_rows(one: Exported, bundle: Path, rows: str) -> float:
    """The distance of logits where the table of positions, or what DeepStack adds, is zeros."""
    name = "pocketvlm.runtime.native.laid_over" if rows == "table" else "pocketvlm.runtime.generation.embed"
    own = generation.embed

    def emptied(*given: Any) -> np.ndarray:
        found = own(*given)
        found[:, one.bundle.manifest.model.hidden_size :] = 0
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(name, (lambda *given: np.zeros_like(interpolated(*given[:3]))) if rows == "table" else emptied)
        return logits_of(one, bundle, (SHAPES[4],))


def test_a_table_and_rows_for_later_layers_count_where_there_are_some(one: Exported) -> None:
    vision = one.bundle.manifest.vision
    assert vision is not None and vision.patches is not None
    assert (vision.patches.table is None) == (vision.patches.deep is None) == (one.bundle.manifest.model.layers == 2)
    for rows in ("table", "deep"):
        found = without_rows(one, one.bundle.location, rows)
        assert (found < TOLERANCE) if vision.patches.deep is None else (found > 10 * TOLERANCE), rows


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_positions_is_seen(one: Exported, tmp_path: Path, fault: str) -> None:
    shutil.copytree(one.bundle.location, tmp_path / "bundle")
    path = tmp_path / "bundle" / "manifest.json"
    raw = json.loads(path.read_text())
    FAULTS[fault](raw)
    path.write_text(json.dumps(raw))
    assert logits_of(one, tmp_path / "bundle", (SHAPES[4],)) > 10 * TOLERANCE


def test_text_that_goes_on_behind_all_tokens_of_a_picture_is_seen(
    one: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it would where a token's position is its place in the cache."""
    monkeypatch.setattr(
        "pocketvlm.runtime.chat.positions_of", lambda index, grids: np.tile(np.arange(len(index)), (3, 1))
    )
    assert logits_of(one, one.bundle.location, (SHAPES[4],)) > 10 * TOLERANCE


def test_a_window_that_sees_beyond_its_patches_is_seen() -> None:
    """Windows without their mask mix what fills them up."""
    config = VlmConfig.from_dict(json.loads(json.dumps(tiny())))
    assert config.vision is not None
    place = place_of(replace(config.vision, window=2), (3, 3))
    assert place.window_mask is not None
    operator = AttendPicture(4, config.vision.head_dim, windowed=True)
    states = [torch.randn(9, 4, config.vision.hidden_size) for _ in range(3)]
    exact = operator(*states, place)
    wrong = operator(*states, replace_mask(place, torch.ones_like(place.window_mask)))
    assert torch.allclose(exact[:2], wrong[:2], atol=1e-6), "the first window is whole"
    assert not torch.allclose(exact[2], wrong[2], atol=1e-3)
    alone = operator(*(state[:1] for state in states), place_of(replace(config.vision, window=2), (1, 1)))
    assert not torch.allclose(exact[:1], alone, atol=1e-3)


def replace_mask(place: PicturePlace, mask: torch.Tensor) -> PicturePlace:
    return PicturePlace(place.cos, place.sin, place.window_tiles, mask, place.window_positions)


def test_calibration_and_ranges_of_an_int8_cache_turn_keys_as_the_model_does(one: Exported, tmp_path: Path) -> None:
    """A decoder layer at the sample's positions is not the one at its places."""
    checkpoint = open_checkpoint(one.written.directory)
    sample = read_frontend(checkpoint).sample
    assert sample.positions.shape == (3, len(sample.token_ids))
    stage = decoder_stages(checkpoint.config.text)[0]
    hidden = torch.randn(1, len(sample.token_ids), checkpoint.config.text.entering_width)
    layer = stage.loaded(checkpoint.tensor)
    caches = [through_layer(checkpoint.config.text, 0, layer, hidden, at).cache for at in (sample, None)]
    turned, as_places = (cache.key for cache in caches if isinstance(cache, KvCache))
    assert not torch.allclose(turned, as_places, atol=1e-3)
    bundle = tmp_path / "calibrated"
    export_bundle(one.written.directory, bundle, recipe="gptq-g32", max_length=KV_LENGTH)
    with load(bundle, threads=1) as vlm:
        assert vlm.manifest.fidelity.text.kl_mean < 0.2


# --- Sizes ------------------------------------------------------------------------------------------------------------


def test_fewer_tokens_of_a_picture_are_asked_for_by_their_number(one: Exported) -> None:
    checkpoint = open_checkpoint(one.written.directory)
    found = read_frontend(checkpoint, Retiling(max_tokens=20))
    assert found.vision is not None and found.vision.patches is not None
    assert found.vision.max_pixels == 20 * found.vision.tile_size**2
    assert found.vision.replaces == "smart-resize, at most 40 tokens"
    assert found.notes[0].startswith("pictures have at most 20 tokens; the model's own processor")
    assert read_frontend(checkpoint, Retiling(max_tokens=100)).vision == read_frontend(checkpoint).vision
    for wanted in (Retiling(strategy="relaxed"), Retiling(max_tiles=2)):
        with pytest.raises(ExportError, match="are not cut into tiles: --max-tokens-per-image"):
            read_frontend(checkpoint, wanted)


def test_a_processor_that_allows_more_is_held_to_what_a_bundle_is_made_for() -> None:
    config = VlmConfig.from_dict(tiny())
    assert config.vision is not None
    tile = config.vision.image_size
    own = {"min_pixels": 4 * tile**2, "max_pixels": 16384 * tile**2}
    vision = vision_of(config, own, "preprocessor_config.json")
    assert vision.max_pixels == MOST_PATCH_TOKENS * tile**2
    assert vision.replaces == "smart-resize, at most 16384 tokens"
    assert vision.patches is not None
    assert vision.patches.most_tokens == MOST_PATCH_TOKENS


@pytest.mark.parametrize(("family", "heads"), [("Qwen2-VL and 2.5", 16), ("Qwen3-VL", 16)])
def test_the_scores_of_the_largest_picture_are_what_a_graph_may_hold(family: str, heads: int) -> None:
    """All heads' at once, as the check of graphs counts them; half as many tokens again would be refused."""
    bits = [32 * heads * (4 * tokens) ** 2 for tokens in (MOST_PATCH_TOKENS, MOST_PATCH_TOKENS * 3 // 2)]
    assert bits[0] <= LIMITS["value_bits"] < bits[1], family


def test_the_kv_length_has_room_for_the_largest_picture(one: Exported) -> None:
    checkpoint = open_checkpoint(one.written.directory)
    most = read_frontend(checkpoint).vision
    assert most is not None and most.patches is not None
    assert most.patches.most_tokens >= 40
    assert kv_length(checkpoint, None) == 1024, "the model's positions"


def test_a_picture_that_is_too_narrow_is_refused(one: Exported) -> None:
    with load(one.bundle.location, threads=1) as vlm, pytest.raises(ImageError, match="201 x 1 pixels is too narrow"):
        vlm.prepare(noise(201, 1, seed=0))


# --- Checkpoints ------------------------------------------------------------------------------------------------------


def tiny() -> dict[str, Any]:
    """A config.json as the first ones were published: the decoder's keys at the top."""
    return {
        "model_type": "qwen2_5_vl", "vocab_size": 352, "hidden_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 160, "max_position_embeddings": 1024,
        "rope_theta": 1e4, "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]}, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "vision_config": {
            "depth": 3, "hidden_size": 64, "num_heads": 4, "patch_size": 6, "intermediate_size": 136,
            "out_hidden_size": 128, "window_size": 24, "fullatt_block_indexes": [1],
        },
    }  # fmt: skip


def test_a_config_with_the_decoders_keys_at_the_top_is_the_same_model(tmp_path: Path) -> None:
    written = WRITERS["qwen2_5_vl"](tmp_path / "checkpoint")
    config = open_checkpoint(written.directory).config
    former = VlmConfig.from_dict({**tiny(), "image_token_id": config.image_token_id})
    assert (former.text.window, config.text.window) == (None, None)
    # what says nothing without use_sliding_window, which transformers 5 leaves out
    windows = {key: getattr(config.text, key) for key in ("sliding_window", "max_window_layers", "layer_types")}
    assert replace(former, text=replace(former.text, **windows)) == config


def test_the_patches_matrix_is_the_sum_over_a_films_moments(one: Exported) -> None:
    name = "vision_tower.embeddings.patch_embedding.weight"
    stored = dict(one.written.model.named_parameters())["model.visual.patch_embed.proj.weight"].detach()
    found = open_checkpoint(one.written.directory).tensor(name)
    assert torch.allclose(found, stored.sum(2))
    assert not torch.allclose(found, 2 * stored[:, :, 0])
    assert torch.equal(open_checkpoint(one.written.directory).tensor(name, slice(3, 5)), found[3:5])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a vision width that the decoder has not": ({"vision_config": {"out_hidden_size": 64}}, "out_hidden_size is 64"),
    "more moments": ({"vision_config": {"temporal_patch_size": 4}}, "temporal_patch_size is 4"),
    "other angles": ({"vision_config": {"rope_parameters": {"rope_type": "default"}}}, "rope_type is 'default'"),
    "a window less than a token": ({"vision_config": {"window_size": 8}}, "window_size is 8"),
    "channels": ({"vision_config": {"in_channels": 4}}, "num_channels is 4"),
    "an activation": ({"vision_config": {"hidden_act": "relu"}}, "vision_config.hidden_act is 'relu'"),
    "sections": ({"rope_scaling": {"type": "mrope", "mrope_section": [4, 4, 4]}}, "mrope_section has 12 pairs"),
    "patches of two sides": ({"vision_config": {"patch_size": [6, 7]}}, "patch_size"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_key_that_changes_the_computation_is_refused_by_name(what: str) -> None:
    changes, line = REFUSED[what]
    raw = tiny()
    for key, value in changes.items():
        raw[key] = {**raw[key], **value} if key == "vision_config" else value
    with pytest.raises(CheckpointError, match=line):
        VlmConfig.from_dict(raw)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"patch_size": 14}, "patch_size is 14, in config.json it is 6"),
        ({"merge_size": 4}, "merge_size is 4, in config.json it is 2"),
        ({"size": {"height": 20, "width": 20}}, "what is supported are shortest_edge and longest_edge"),
        ({"size": 448}, "what is supported are shortest_edge and longest_edge"),
        ({"min_pixels": 5000, "max_pixels": 4000}, "min_pixels: 5000 is not from 1 to max_pixels"),
        ({"image_processor_type": "SiglipImageProcessor"}, "image_processor_type is SiglipImageProcessor"),
        ({"do_resize": False}, "do_resize"),
    ],
)
def test_a_processor_that_does_something_else_is_refused_by_name(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(PocketVlmError, match=line):
        vision_of(VlmConfig.from_dict(tiny()), changes, "preprocessor_config.json")


# --- Engines ----------------------------------------------------------------------------------------------------------


def test_an_engine_that_has_no_such_graphs_refuses_a_bundle_by_name(one: Exported) -> None:
    for engine in ("litert", "npu-emulation"):
        with pytest.raises(BundleError, match=f"patches as input are not yet run by the engine {engine}"):
            load(one.bundle.location, threads=1, engine=engine)


def test_a_plan_of_a_checkpoint_and_of_its_bundle_see_pictures_as_the_runtime_does(one: Exported) -> None:
    checkpoint = open_checkpoint(one.written.directory)
    planned = model_of_config("tiny", checkpoint.config, load_recipe("fp32"), KV_LENGTH).vision
    found = model_of_manifest(one.bundle.manifest)
    assert planned is not None and found.vision is not None
    config, vision = checkpoint.config.vision, found.vision
    assert config is not None
    # a bundle does not say which layers look at windows, and it has the processor's own bounds
    said = replace(vision, window=config.window or 0, windowed=2 if config.window else 0, batch=planned.batch)
    assert planned == replace(said, preprocessing=planned.preprocessing)
    with load(one.bundle.location, threads=1) as vlm:
        for size, image in zip(SHAPES, shown(*SHAPES)[1], strict=True):
            grid = vlm.prepare(image).tiled.grid
            assert vision.grid(size) == grid
            assert picture_of(vision, grid).tokens == vision.tiles(grid) == grid[0] * grid[1]
    most = max(across * down for across, down in vision.grids((5, 7)))
    assert 35 <= most <= 40 <= vision.batch
    device = load_device("dimensity-9300")
    large, small = (Use(picture_of(vision, grid), KV_LENGTH) for grid in ((5, 7), (2, 3)))
    fits = fit(found, device, small, "vision kept", peak_bytes(found, device, large, "vision kept"))
    assert fits.largest_picture is not None
    assert fits.largest_picture.tokens == 35


def test_the_time_of_a_picture_grows_with_what_its_patches_see(one: Exported) -> None:
    model = model_of_config("tiny", open_checkpoint(one.written.directory).config, load_recipe("fp32"), KV_LENGTH)
    vision = model.vision
    assert vision is not None
    rows, layers = vision.patches, vision.layers
    products = rows * model.parts["vision encoder"].multiplied + model.parts["projector"].multiplied
    for tiles in (1, 4, 35):
        near = (layers - vision.windowed) * tiles + vision.windowed * min(tiles, 4)
        attention = 2 * rows * vision.width * rows * near
        assert encoder_step(model, tiles).operations == 2 * tiles * (products + attention)


def test_a_benchmark_takes_a_picture_as_a_whole(one: Exported) -> None:
    """Each phase by itself, and with a question up to the first token; what only tiles have is said to be missing."""
    workload = Workload(
        prompts=(8,), new_tokens=4, image=(61, 83), repeats=1, warmups=0, tile_batches=(2,), pipelines=(True, False)
    )
    check_fits(one.bundle.manifest, workload)
    engine, watched = open_engine("onnx", one.bundle, 1), list[str]()
    watch = watched.append
    with closing(engine), ThreadPoolExecutor(1) as ahead:
        rows = list(measure_cases(cases(engine, one.bundle, workload, ahead), workload, watch))
        rows += measure_cases(cases(engine, one.bundle, replace(workload, tile_batches=()), ahead), workload, watch)
    taken = {row.phase: row for row in rows if row.seconds}
    for phase in ("preprocess", "patch embedding", "vision encoder", "image"):
        assert taken[phase].tokens == 35, phase
    assert taken["first token"].tokens == 35 + 32
    missing = {row.missing for row in rows if not row.seconds}
    assert missing == {"a picture goes through the tower as a whole: there are no batches, and nothing runs beside it"}
    with pytest.raises(PocketVlmError, match="patches as input are not yet measured on a phone"):
        check_supported(one.bundle.manifest, workload)
    check_supported(one.bundle.manifest, replace(workload, image=None))


def test_the_memory_of_a_picture_is_that_of_the_whole(one: Exported) -> None:
    workload = Workload(prompts=(8,), new_tokens=4, image=(61, 83), threads=1)
    phases = [phase.phase for phase in footprint(one.bundle.location, workload).phases]
    assert phases[:4] == ["bundle opened", "loaded", "image encoded", "vision freed"]


def test_drafts_behind_a_picture_are_checked_at_their_positions(one: Exported) -> None:
    """Steps of several tokens whose positions are not their places in the cache: the same answer as one by one."""
    messages, _ = shown(SHAPES[4])
    for engine in one.written.engines:
        with load(one.bundle.location, threads=1, engine=engine) as vlm:
            plain, drafted = (
                list(vlm.stream(messages, config=GenerationConfig(max_new_tokens=80, lookup=lookup)))
                for lookup in (False, True)
            )
        assert [piece.token_id for piece in plain] == [piece.token_id for piece in drafted], engine
        assert drafted[-1].stats.drafted_tokens > 0, engine


def test_commands_show_a_picture_as_the_model_sees_it(one: Exported, tmp_path: Path) -> None:
    noise(61, 83, seed=1).save(tmp_path / "a.png")
    found = CliRunner().invoke(main, ["tile", str(tmp_path / "a.png"), "--model", str(one.bundle.location), "--json"])
    (cut,) = json.loads(found.output)["strategies"]
    assert (cut["strategy"], cut["grid"], cut["tokens"]) == ("smart-resize", [5, 7], 35)
    shown = CliRunner().invoke(main, ["inspect", str(one.bundle.location)]).output
    assert "pictures as a whole, a token 12 x 12 px" in " ".join(shown.replace("│", " ").split())


def test_a_second_question_goes_on_at_the_positions_of_the_first(one: Exported) -> None:
    """The contract holds its answers to transformers'; here the positions that are computed are the whole prompt's."""
    messages = [said("user", 0, "What?"), said("assistant", "he"), said("user", "the ", 1)]
    with load(one.bundle.location, threads=1) as vlm:
        whole, first = vlm.render(messages), vlm.render(messages[:1])
        count = len(first) - 3
        assert np.array_equal(whole.positions[:, :count], first.positions[:, :count])
        assert whole.positions.max() < len(whole) - 1
