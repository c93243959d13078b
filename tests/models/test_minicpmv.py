"""MiniCPM-V beside what the contract holds: its decoders, its resampler's weights, what pictures' numbers do, and what
is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from pocketvlm.bundle.open import Bundle
from pocketvlm.cli import main
from pocketvlm.errors import CapacityError, CheckpointError, ExportError
from pocketvlm.export import export_bundle
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.read.image_processor import vision_of
from pocketvlm.images.patches import laid_over, sincos_rows
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.families import minicpmv as family
from pocketvlm.models.names import QUERIES
from pocketvlm.models.presets import find_preset
from pocketvlm.models.presets.write import write_preset
from pocketvlm.runtime import load
from pocketvlm.serve.preview import tiling_of
from tests.images.test_tiles import noise
from tests.support.minicpmv import Model, minicpmv
from tests.support.planned_slices import check_largest, check_pictures, check_products
from tests.support.vision_contract import DIALOGUES, distance, features_of, pictures_of, processed, said
from tests.support.written_family import Written

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return minicpmv(tmp_path_factory.mktemp("minicpmv") / "checkpoint")


@pytest.fixture(scope="module")
def bundle(written: Written, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(written.directory, tmp_path_factory.mktemp("minicpmv") / "b", recipe="fp32", max_length=256)


# --- Decoders and weights ---------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("version", [4.0, 4.5])
def test_each_version_has_its_decoder(version: float, tmp_path: Path) -> None:
    """4 with Llama, 4.5 with Qwen3; 2.6, with Qwen2, is the contract's. (A layer that does not run is not stored.)"""
    changes = {"drop_vision_last_layer": True} if version == 4.5 else {}
    written = minicpmv(tmp_path / "checkpoint", version, **changes)
    config = open_checkpoint(written.directory).config
    assert config.text.model_type == {4.0: "llama", 4.5: "qwen3"}[version]
    assert config.vision is not None
    if changes:
        assert (config.vision.num_hidden_layers, config.vision.unused_layers) == (1, 1)
        written.model.vpm.encoder.layers = written.model.vpm.encoder.layers[:-1]
    inputs, images = processed(written, DIALOGUES["first"]), pictures_of(DIALOGUES["first"])
    made = export_bundle(written.directory, tmp_path / "bundle", recipe="fp32", max_length=256)
    with load(made.location, threads=1) as vlm:
        ids = inputs["input_ids"][0].numpy()
        assert distance(vlm.logits(ids, images), written.model(**inputs).logits[0].numpy()) < TOLERANCE


def test_queries_are_taken_in_as_they_enter_attention(written: Written, tmp_path: Path) -> None:
    own = written.model.resampler
    width = own.query.shape[1]
    wanted = torch.nn.functional.linear(
        own.ln_q(own.query), own.attn.in_proj_weight[:width], own.attn.in_proj_bias[:width]
    )
    checkpoint = open_checkpoint(written.directory)
    assert torch.allclose(checkpoint.tensor(QUERIES), wanted, atol=1e-6)
    assert torch.equal(checkpoint.tensor("projector.linear.weight"), own.proj.T)
    assert torch.equal(checkpoint.tensor("projector.v_proj.weight"), own.attn.in_proj_weight[2 * width :])
    weights = load_file(written.directory / "model.safetensors")
    for key, value, message in (
        ("resampler.ln_q.bias", None, "projector.q_norm.bias missing"),
        (
            "resampler.ln_q.weight",
            torch.ones(8),
            r"resampler.ln_q.weight has shape \[8\], the queries behind it \[256\]",
        ),
        ("resampler.attn.in_proj_weight", torch.ones(8, 256), "asks for 768 rows"),
    ):
        changed = {name: weight for name, weight in weights.items() if name != key}
        save_file(changed if value is None else {**changed, key: value}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text((written.directory / "config.json").read_text())
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(tmp_path)


# --- Faults -----------------------------------------------------------------------------------------------------------

Rows = Callable[[tuple[int, int], int], np.ndarray[Any, Any]]
KEY_ROWS: dict[str, Rows] = {
    "none": lambda grid, width: np.zeros_like(sincos_rows(grid, width)),
    "of rows and columns that changed places": lambda grid, width: sincos_rows(grid[::-1], width),
    "cosines first": lambda grid, width: np.roll(sincos_rows(grid, width), width // 4, -1),
    "of the first patch, for all": lambda grid, width: np.repeat(sincos_rows(grid, width)[:1], np.prod(grid), 0),
}


@torch.no_grad()
@pytest.mark.parametrize("fault", [None, *KEY_ROWS, "a transposed table"])
def test_places_of_patches_are_seen(
    bundle: Bundle, written: Written, fault: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault in KEY_ROWS:
        monkeypatch.setattr("pocketvlm.runtime.native.sincos_rows", KEY_ROWS[fault])
    elif fault is not None:
        monkeypatch.setattr(
            "pocketvlm.runtime.native.laid_over",
            lambda grid, ratio, table, laid: laid_over(grid, ratio, table.swapaxes(0, 1), laid),
        )
    wanted = features_of(written, processed(written, DIALOGUES["first"]))
    with load(bundle.location, threads=1) as vlm:
        found = distance(vlm.encode_images(pictures_of(DIALOGUES["first"])), wanted)
    assert found < TOLERANCE if fault is None else found > 1e-2


# --- Numbers of pictures ----------------------------------------------------------------------------------------------


def test_pictures_are_numbered_along_a_conversation_and_a_bundle_has_so_many_numbers(bundle: Bundle) -> None:
    """A kept cache goes on at the next number; behind the last one a picture is refused, not given another's."""
    layout = bundle.manifest.image_layout
    assert layout is not None
    assert layout.numbers is not None
    with load(bundle.location, threads=1) as vlm:
        both = vlm.tokenize([said("user", 3, "the"), said("assistant", "he"), said("user", 3)]).tolist()
        starts = [at for at, token in enumerate(both) if [token] == list(layout.image_start)]
        for number, at in enumerate(starts):
            wanted = list(layout.numbers[number])
            assert both[at + 1 : at + 1 + len(wanted)] == wanted
        assert len(starts) == 2
        # of the smallest picture, more than there are numbers for
        with pytest.raises(CapacityError, match="has numbers for 64 images of a conversation"):
            vlm.tokenize([said("user", *[3] * 65)])


@torch.no_grad()
def test_a_small_preset_is_written_under_its_makers_names_and_read(tmp_path: Path) -> None:
    """What the queries take in among them: the oracle's own weights, and the same image tokens."""
    preset = find_preset("minicpm-v-4.5")
    assert preset.published is not None
    tower = {**preset.published["vision_config"], "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 96,
             "num_attention_heads": 2}  # fmt: skip
    raw = {**preset.published, "num_hidden_layers": 1, "hidden_size": 128, "intermediate_size": 96, "vocab_size": 400,
           "num_attention_heads": 2, "num_key_value_heads": 1, "vision_config": tower}  # fmt: skip
    write_preset(replace(preset, config=VlmConfig.from_dict(raw), published=raw), tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    frontend = read_frontend(checkpoint)
    assert frontend.chat is not None
    assert frontend.chat.between == "\n"
    model = Model(raw, "qwen3")
    model.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    own = model.resampler.float()
    assert own.query.std() > 0.01
    width = own.query.shape[1]
    wanted = torch.nn.functional.linear(
        own.ln_q(own.query), own.attn.in_proj_weight[:width], own.attn.in_proj_bias[:width]
    )
    assert torch.allclose(checkpoint.tensor(QUERIES), wanted, atol=1e-5)


# --- What commands say ------------------------------------------------------------------------------------------------


def test_commands_count_the_tokens_of_slices(bundle: Bundle, tmp_path: Path) -> None:
    """Not of their patches."""
    image = noise(50, 30, seed=1)
    image.save(tmp_path / "a.png")
    with load(bundle.location, threads=1) as vlm:
        count = len(vlm.encode_images([image]))
    assert count == 5 * 3  # the whole and two slices
    asked = ["tile", str(tmp_path / "a.png"), "--model", str(bundle.location)]
    (cut,) = json.loads(CliRunner().invoke(main, [*asked, "--json"]).output)["strategies"]
    assert (cut["strategy"], cut["tokens"]) == ("minicpmv", count)
    assert "tiles of 4 px, 5 tokens of the whole and of each slice" in CliRunner().invoke(main, asked).output
    vision = bundle.manifest.vision
    assert vision is not None
    assert tiling_of([("width", "50"), ("height", "30")], vision)["tokens"] == count


# --- A plan -----------------------------------------------------------------------------------------------------------


def test_a_plan_sees_slices_as_the_runtime_does(bundle: Bundle, written: Written) -> None:
    check_pictures(open_checkpoint(written.directory), bundle)
    check_largest(bundle)


def test_a_plan_counts_the_products_of_a_slice_as_pytorch_does(written: Written) -> None:
    check_products(open_checkpoint(written.directory))


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "2.5"}, r"version is 2.5 \(it gives patches positions along one row"),
        ({"version": 2.0}, r"version is 2.0 \(its tower is another\)"),
        ({"version": 4.6}, "it has a model_type of its own, minicpmv4_6"),
        ({"version": 5}, "what is supported is 2.6, 4, 4.5"),
        ({"slice_mode": False}, "slice_mode is False"),
        ({"hidden_size": 250}, "hidden_size is 250; what is supported is a multiple of 128"),
        ({"drop_vision_last_layer": 1}, "drop_vision_last_layer is 1"),
        ({"slice_config": {"max_slice_nums": 0}}, "max_slice_nums is 0"),
        ({"query_num": 0}, "queries"),
    ],
)
def test_what_a_config_asks_for_and_nothing_computes_is_refused(
    written: Written, changes: dict[str, Any], message: str
) -> None:
    raw = json.loads((written.directory / "config.json").read_text())
    VlmConfig.from_dict(raw)
    with pytest.raises(CheckpointError, match=message):
        VlmConfig.from_dict({**raw, **changes})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image_feature_size": 64}, ExportError, "image_feature_size is 64; config.json makes it 5"),
        ({"use_image_id": False}, ExportError, "use_image_id is False; config.json makes it True"),
        ({"patch_size": 14}, ExportError, "patch_size is 14; config.json makes it 4"),
        ({"im_start": "<img>"}, CheckpointError, "im_start"),
        ({"slice_mode": False}, CheckpointError, "slice_mode"),
        ({"scale_resolution": 0}, CheckpointError, "scale_resolution is 0"),
        ({"scale_resolution": 3}, ExportError, "scale_resolution is 3, less than a patch"),
        ({"image_processor_type": "SiglipImageProcessor"}, ExportError, "minicpmv has MiniCPMVImageProcessor"),
    ],
)
def test_a_processor_that_is_another_is_refused(
    written: Written, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    config = open_checkpoint(written.directory).config
    raw = json.loads((written.directory / "preprocessor_config.json").read_text())
    assert vision_of(config, raw, "processor").max_pixels == 24**2
    with pytest.raises(error, match=message):
        vision_of(config, {**raw, **changes}, "processor")


def test_the_published_defaults_are_those_of_its_code() -> None:
    """Of a config.json of MiniCPM-V 2.6 without what MiniCPMVConfig has by itself."""
    raw = {"model_type": "minicpmv", "version": 2.6, "hidden_size": 3584, "num_attention_heads": 28,
           "num_key_value_heads": 4, "intermediate_size": 18944, "drop_vision_last_layer": False}  # fmt: skip
    config = VlmConfig.from_dict(raw)
    assert config.vision is not None
    assert (config.vision.table_side, config.vision.queries, config.resampler_heads) == (70, 64, 28)
    assert (config.vision.num_hidden_layers, config.vision.hidden_size, config.tokens_per_tile) == (27, 1152, 1)
    assert config.tiling.max_pixels == 448**2
    assert len(config.tiling.candidates) == 23
    assert config.image_layout.image_start == family.NUMBER
