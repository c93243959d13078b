"""InternVL under both its names: defaults, grids, the order of tokens, templates, and what is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pocketvlm.errors import PocketVlmError
from pocketvlm.export import export_bundle
from pocketvlm.export.neuropilot.options import NpuOptions, with_options
from pocketvlm.export.read.chat_template import read_chat
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.images.rules import internvl as rule
from pocketvlm.images.rules import select_grid
from pocketvlm.models.blocks.projector import NormedBlocks
from pocketvlm.models.bluelm_v import BluelmV
from pocketvlm.models.checkpoint import load as load_module
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.families import internvl
from pocketvlm.models.tower import VisionConfig
from pocketvlm.recipe import load_recipe
from pocketvlm.runtime import load
from tests.models.test_parity import relative
from tests.support.checkpoints import edited
from tests.support.vision_families import WRITERS
from tests.support.written_family import TEXT, TOWER, Written, randomized

EDGES = (1, 7, 31, 64, 100, 224, 333, 448, 640, 896, 1344, 4000)
#: Grids that are equally near, and pictures on either side of half of a grid's pixels.
TIES = ((448, 224), (300, 600), (633, 633), (634, 634), (776, 776), (549, 1098), (548, 1096), (896, 448), (1500, 500))


@pytest.fixture
def native(tmp_path: Path) -> Written:
    return WRITERS["internvl"](tmp_path / "checkpoint")


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    return WRITERS["internvl_chat"](tmp_path / "checkpoint").directory


# --- Pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("least", "most"), [(1, 12), (1, 6), (2, 4), (5, 12), (3, 3), (1, 40)])
def test_grids_are_those_of_got_ocr2s_processor(least: int, most: int) -> None:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    sizes = [(width, height) for width in EDGES for height in EDGES] + list(TIES)
    assert len(sizes) > 60
    candidates = rule.grids(least, most)
    for width, height in sizes:
        wanted = get_optimal_tiled_canvas((height, width), (448, 448), least, most)
        assert select_grid(width, height, tile=448, candidates=candidates, strategy="internvl") == wanted, (
            width,
            height,
        )


def test_a_picture_that_is_not_cut_is_one_tile(native: Written) -> None:
    edited(native.directory / "processor_config.json", lambda raw: raw["image_processor"].update(max_patches=1))
    vision = read_frontend(open_checkpoint(native.directory)).vision
    assert vision is not None
    assert vision.candidates == ((1, 1),)


# --- Configs ----------------------------------------------------------------------------------------------------------


def test_what_a_config_leaves_out_is_transformers_default() -> None:
    from transformers import InternVLConfig

    given: tuple[dict[str, Any], ...] = ({}, {"vision_config": {}, "text_config": {}})
    for raw in given:
        wanted, found = InternVLConfig(**raw), VlmConfig.from_dict({"model_type": "internvl", **raw})
        vision = found.vision
        assert vision is not None
        for key in internvl.VISION_DEFAULTS.keys() & vars(vision).keys() - {"image_size", "patch_size"}:
            assert getattr(vision, key) == getattr(wanted.vision_config, key), key
        assert ((vision.image_size,) * 2, (vision.patch_size,) * 2) == (
            wanted.vision_config.image_size, wanted.vision_config.patch_size
        )  # fmt: skip
        assert (vision.qkv_bias, vision.qk_norm, vision.layer_norm) == (False, False, "mean")
        for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "rms_norm_eps"):
            assert getattr(found.text, key) == getattr(wanted.text_config, key), key
        assert found.text.tie_word_embeddings == wanted.tie_word_embeddings
        assert found.image_token_id == wanted.image_token_id
        assert found.tokens_per_tile == wanted.image_seq_length


@pytest.mark.parametrize("outer", [True, False, None])
@pytest.mark.parametrize("inner", [True, False, None])
@pytest.mark.parametrize("name", ["internvl", "internvl_chat"])
def test_the_stored_head_decides_what_is_tied(
    tmp_path: Path, name: str, outer: bool | None, inner: bool | None
) -> None:
    def tie(raw: dict[str, Any]) -> None:
        for config, value in ((raw, outer), (raw["text_config" if name == "internvl" else "llm_config"], inner)):
            config.pop("tie_word_embeddings", None)
            config.update({} if value is None else {"tie_word_embeddings": value})

    checkpoint = WRITERS[name](tmp_path).directory
    edited(checkpoint / "config.json", tie)
    assert not open_checkpoint(checkpoint).config.text.tie_word_embeddings


@torch.no_grad()
@pytest.mark.parametrize("mean_pooling", [True, False])
@pytest.mark.parametrize("layer", [-1, -2, 2])
def test_the_features_are_of_the_layer_that_the_config_names(tmp_path: Path, layer: int, mean_pooling: bool) -> None:
    """The norm behind the last layer is the last hidden state's alone."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    torch.manual_seed(0)
    vision = {**TOWER, "num_hidden_layers": 3, "image_size": [32, 32], "patch_size": [4, 4]}
    config = AutoConfig.for_model(
        "internvl",
        vision_config={**vision, "use_mean_pooling": mean_pooling},
        text_config={**TEXT, "model_type": "qwen2"},
        vision_feature_layer=layer,
        image_token_id=3,
        tie_word_embeddings=False,
    )
    model = randomized(AutoModelForImageTextToText.from_config(config), 1.2)
    model.save_pretrained(tmp_path)
    opened = open_checkpoint(tmp_path)
    ours = load_module(lambda: BluelmV(opened.config), opened.tensor)
    pixels = torch.randn(2, 3, 32, 32)
    wanted = model.get_image_features(pixel_values=pixels).pooler_output
    assert relative(ours.encode_tiles(pixels), wanted) < 1e-4


def test_the_first_pixel_shuffle_goes_down_columns() -> None:
    """As ``pixel_shuffle`` of modeling_internvl_chat.py has it for ``ps_version`` v1, without its last permutation."""
    tokens = torch.randn(2, 36, 5)
    x = tokens.view(2, 6, 6, 5)
    wanted = x.view(2, 6, 3, 10).permute(0, 2, 1, 3).contiguous().view(2, 3, 3, 20)
    config = VisionConfig(hidden_size=5, image_size=24, patch_size=4, num_attention_heads=5)
    for by_column, order in ((True, wanted), (False, wanted.permute(0, 2, 1, 3))):
        found = NormedBlocks(config, 2, 1e-5, by_column=by_column).blocks(tokens)
        assert torch.equal(found, order.reshape(2, 9, 20))


@torch.no_grad()
def test_the_first_pixel_shuffle_in_each_back_end(chat: Path, tmp_path: Path) -> None:
    edited(chat / "config.json", lambda raw: raw.update(ps_version="v1"))
    opened = open_checkpoint(chat)
    pixels = torch.randn(2, 3, 32, 32)
    wanted = load_module(lambda: BluelmV(opened.config), opened.tensor).encode_tiles(pixels)
    # [tiles, 16, hidden] -> [tiles, 4, 4, hidden], columns for rows
    other = wanted.unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)
    recipe = with_options(load_recipe("int4-channel"), NpuOptions(chunks=2, prefill_tokens=32, compiled=False))
    location = tmp_path / "bundle"
    export_bundle(chat, location, recipe=recipe, backends=["onnx", "executorch", "neuropilot"], max_length=448)
    for engine in ("onnx", "executorch", "npu-emulation"):
        with load(location, threads=1, engine=engine) as vlm:
            found = torch.from_numpy(vlm._engine.encode(vlm._engine.patch_embed(pixels.numpy())))
        assert relative(found, wanted) < 0.1, engine
        assert relative(found, other) > 0.5, engine


# --- The code that is not run -----------------------------------------------------------------------------------------


def test_a_chat_template_is_the_codes_where_the_config_names_it(chat: Path) -> None:
    """2.5's ends a message with a line break; without a name it is the tokenizer's own, which has to show pictures."""
    for name, system in (("Hermes-2", "你是由上海"), ("internvl2_5", "你是书生·万象")):
        edited(chat / "config.json", partial(dict.update, template=name))
        layout = read_chat(chat, open_checkpoint(chat).config).layout
        assert layout is not None
        assert layout.default_system is None or system in json.dumps(layout.model_dump(), ensure_ascii=False)
        assert layout.roles["user"].suffix == "<|im_end|>" + ("\n" if name == "internvl2_5" else "")
    system = 'It\'s "short"\n{{ and }} \\n 简短'
    edited(chat / "config.json", partial(dict.update, system_message=system))
    layout = read_chat(chat, open_checkpoint(chat).config).layout
    assert layout is not None
    assert layout.default_system == system
    edited(chat / "config.json", lambda raw: raw.pop("template"))
    assert open_checkpoint(chat).config.chat_template is None


def test_an_earlier_layer_and_other_decoders_of_the_first_checkpoints(chat: Path) -> None:
    raw = json.loads((chat / "config.json").read_text())
    for layer, layers in ((-1, (2, 0)), (-2, (1, 1)), (1, (1, 1))):
        vision = VlmConfig.from_dict({**raw, "select_layer": layer}).vision
        assert vision is not None
        assert (vision.num_hidden_layers, vision.unused_layers) == layers
    for architecture, name in (
        ("Qwen2ForCausalLM", "qwen2"),
        ("Qwen3ForCausalLM", "qwen3"),
        ("LlamaForCausalLM", "llama"),
    ):
        text = {key: value for key, value in raw["llm_config"].items() if key != "model_type"}
        found = VlmConfig.from_dict({**raw, "llm_config": {**text, "architectures": [architecture]}})
        assert found.text.model_type == name
    assert VlmConfig.from_dict({**raw, "dynamic_image_size": False}).tiling.candidates == ((1, 1),)
    assert VlmConfig.from_dict({**raw, "use_thumbnail": False}).tiling.thumbnail == "none"


def test_no_file_has_to_say_how_tiles_are_normalized(chat: Path) -> None:
    """ImageNet's numbers stand in the code, and in the file where there is one."""
    edited(chat / "preprocessor_config.json", lambda raw: raw.update(image_mean=[0.4, 0.5, 0.6]))
    vision = read_frontend(open_checkpoint(chat)).vision
    assert vision is not None
    assert vision.mean == (0.4, 0.5, 0.6)
    (chat / "preprocessor_config.json").unlink()
    vision = read_frontend(open_checkpoint(chat)).vision
    assert vision is not None
    assert (vision.mean, vision.std, vision.resize_filter) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")


def test_a_tokenizer_of_two_files_has_the_ids_that_transformers_makes_of_them(chat: Path) -> None:
    """As most first checkpoints have it."""
    from transformers import AutoTokenizer

    raw = json.loads((chat / "tokenizer.json").read_text())
    (chat / "vocab.json").write_text(json.dumps(raw["model"]["vocab"]))
    (chat / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in raw["model"]["merges"])]))
    added = {str(token.pop("id")): token for token in raw["added_tokens"]}
    settings = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added, "eos_token": "<|im_end|>"}
    (chat / "tokenizer_config.json").write_text(json.dumps(settings))
    (chat / "tokenizer.json").unlink()
    text = "<img>the x</img>\n\n: "
    ids = read_frontend(open_checkpoint(chat)).tokenizer.encode(text).ids
    assert ids == AutoTokenizer.from_pretrained(chat)(text).input_ids
    vocabulary = {**raw["model"]["vocab"], **{token["content"]: int(number) for number, token in added.items()}}
    assert ids == [vocabulary[token] for token in ("<img>", "t", "he", "Ġ", "x", "</img>", "ĊĊ", ":", "Ġ")]


# --- Refusals ---------------------------------------------------------------------------------------------------------

CONFIG, PROCESSOR = "config.json", "processor_config.json"
NATIVE: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    (CONFIG, lambda raw: raw.update(downsample_ratio=0.3), "downsample_ratio is 0.3, expected 1 by one of 1 to 64"),
    (CONFIG, lambda raw: raw.update(downsample_ratio=1e-300), "downsample_ratio is 1e-300"),
    (CONFIG, lambda raw: raw.update(downsample_ratio="0.5"), "downsample_ratio is '0.5'"),
    (CONFIG, lambda raw: raw.update(downsample_ratio=0.2), "8 patches along a side of a tile are not a multiple of 5"),
    (CONFIG, lambda raw: raw.update(vision_feature_layer=-4), "vision_feature_layer is -4; what is supported"),
    (CONFIG, lambda raw: raw.update(vision_feature_layer=[-1, -2]), "vision_feature_layer is [-1, -2]"),
    (CONFIG, lambda raw: raw.update(vision_feature_select_strategy="full"), "vision_feature_select_strategy is 'full'"),
    (CONFIG, lambda raw: raw.update(projector_hidden_act="silu"), "projector_hidden_act is 'silu'"),
    (CONFIG, lambda raw: raw["vision_config"].update(norm_type="batch_norm"), "norm_type is 'batch_norm'"),
    (CONFIG, lambda raw: raw["vision_config"].update(norm_type=["rms_norm"]), "norm_type is ['rms_norm']"),
    (CONFIG, lambda raw: raw["vision_config"].update(use_absolute_position_embeddings=False), "absolute_position"),
    (CONFIG, lambda raw: raw["vision_config"].update(use_qk_norm=True, layer_norm_eps=1e-5), "layer_norm_eps is 1e-05"),
    (CONFIG, lambda raw: raw["vision_config"].update(image_size=[32, 64]), "vision_config.image_size"),
    (CONFIG, lambda raw: raw["vision_config"].update(num_hidden_layers="2"), "vision_config.num_hidden_layers"),
    (CONFIG, lambda raw: raw["vision_config"].update(hidden_act="relu"), "vision_config.hidden_act"),
    (CONFIG, lambda raw: raw.update(text_config=[]), "text_config is [], expected an object"),
    (PROCESSOR, lambda raw: raw.update(image_seq_length=64), "image_seq_length is 64; config.json makes 16 tokens"),
    (PROCESSOR, lambda raw: raw["image_processor"].update(size={"height": 32, "width": 64}), "size is"),
    (PROCESSOR, lambda raw: raw["image_processor"].update(max_patches=41), "max_patches is 41"),
    (PROCESSOR, lambda raw: raw["image_processor"].update(min_patches=7), "min_patches is 7, more than max_patches, 6"),
    (PROCESSOR, lambda raw: raw["image_processor"].update(image_processor_type="X"), "image_processor_type is X"),
]  # fmt: skip
CHAT: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda raw: raw.update(pad2square=True), "pad2square is True; what is supported is False"),
    (lambda raw: raw.update(force_image_size=448), "force_image_size is 448; what is supported is 32"),
    (lambda raw: raw.update(ps_version="v3"), "ps_version is 'v3', expected v1 or v2"),
    (lambda raw: raw.update(ps_version=[]), "ps_version is [], expected v1 or v2"),
    (lambda raw: raw.update(template="phi3-chat"), "template is 'phi3-chat'; what is supported is Hermes-2"),
    (lambda raw: raw.update(template=[]), "template is []"),
    (lambda raw: raw.update(system_message=7), "system_message is 7, expected a text"),
    (lambda raw: raw.update(system_message="a" * 5000), "chat_template"),
    (lambda raw: raw.update(max_dynamic_patch=41), "max_dynamic_patch is 1 to 41, expected some of 1 to 40"),
    (lambda raw: raw.update(min_dynamic_patch="1"), "max_dynamic_patch is '1' to 3"),
    (lambda raw: raw.update(select_layer=9), "select_layer is 9; what is supported is one of 2 layers"),
    (lambda raw: raw["llm_config"].update(model_type="phi3"), "text_config.model_type"),
    (lambda raw: raw.update(llm_config=3), "llm_config is 3, expected an object"),
    (lambda raw: raw["vision_config"].update(hidden_size=128), "has shape"),
    (lambda raw: raw["llm_config"].update(num_key_value_heads=4), "rows"),
]  # fmt: skip


def line_of(directory: Path) -> str:
    with pytest.raises(PocketVlmError) as error:
        read_frontend(open_checkpoint(directory))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_cannot_be_had_is_one_line(native: Written) -> None:
    for file, change, line in NATIVE:
        before = (native.directory / file).read_text()
        edited(native.directory / file, change)
        assert line in line_of(native.directory)
        (native.directory / file).write_text(before)


def test_what_cannot_be_had_of_the_first_checkpoints_is_one_line(chat: Path) -> None:
    before = (chat / "config.json").read_text()
    for change, line in CHAT:
        edited(chat / "config.json", change)
        assert line in line_of(chat)
        (chat / "config.json").write_text(before)


def test_a_fused_weight_of_other_rows_is_refused(chat: Path) -> None:
    weights = load_file(chat / "model.safetensors")
    name = "vision_model.encoder.layers.0.attn.qkv.weight"
    save_file({**weights, name: weights[name][:-1].contiguous()}, chat / "model.safetensors")
    assert "asks for 192 rows" in line_of(chat)
