"""Manifests that are damaged, too large or hostile are refused at their key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pocketvlm.bundle.manifest import FORMAT_VERSION
from pocketvlm.bundle.open import MAX_MANIFEST_VALUES, open_bundle, parse_manifest, write_manifest
from pocketvlm.bundle.vision import ImageLayout
from pocketvlm.errors import BundleError
from tests.support.formats import (
    OF_FORMAT_3,
    OF_FORMAT_5,
    PACKING,
    PATCHES,
    by_axis,
    convolves,
    drops_reasoning,
    has_tools,
    image_first,
    in_parts,
    in_parts_that_turn,
    in_slices,
    keeps_state,
    sees_whole,
    shares,
    shows,
    spans,
    turns,
    turns_far,
)
from tests.support.tools import LAYOUT
from tests.support.written_bundle import own, refused, save, write_bundle


def _part(raw: dict[str, Any]) -> dict[str, Any]:
    part: dict[str, Any] = raw["engines"]["onnx"]["text_decoder"]
    return part


def _literal(raw: dict[str, Any], size: int) -> object:
    return raw["chat"]["roles"]["user"].update(prefix="\U0001f600" * size)


#: One more than a reader takes.
TOO_MUCH: dict[str, tuple[Callable[[Any], object], str]] = {
    "dimensions": (lambda raw: _part(raw)["inputs"][0].update(shape=[1] * 17), "inputs.0.shape"),
    "a dimension's name": (lambda raw: _part(raw)["inputs"][0].update(shape=["n" * 513]), "inputs.0.shape.0"),
    "a name": (lambda raw: raw["model"].update(name="\U0001f600" * 513), "model.name"),
    "a part's name": (lambda raw: raw["engines"]["onnx"].update({"p" * 513: _part(raw)}), "engines.onnx"),
    "a tensor's name": (lambda raw: raw["recipe"].update(tensors={"t" * 513: {}}), "recipe.tensors"),
    "a literal": (lambda raw: _literal(raw, 65537), "chat.roles.user.prefix"),
    "tokens of a tile": (lambda raw: raw["vision"].update(tokens_per_tile=65537), "vision.tokens_per_tile"),
    "rows": (lambda raw: raw["image_layout"].update(tile=[[]] * 65), "image_layout.tile"),
    "columns": (lambda raw: raw["image_layout"].update(tile=[[[]] * 65]), "image_layout.tile.0"),
    "values": (lambda raw: raw["tokens"].update(stop=[0] * (MAX_MANIFEST_VALUES + 1)), "more than 65536 values"),
    "values in a text": (lambda raw: raw["chat"].update(start="," * (MAX_MANIFEST_VALUES + 1)), "than 65536 values"),
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.mark.parametrize("more", OF_FORMAT_5)
def test_what_format_5_alone_says(bundle: Path, more: Callable[[dict[str, Any], int], None]) -> None:
    for version in (3, 4, 5):
        raw = json.loads((bundle / "manifest.json").read_text())
        more(raw, version)
        text = json.dumps(raw).encode()
        if version < 5:
            with pytest.raises(BundleError, match="format 5"):
                parse_manifest(text, bundle)
        else:
            parse_manifest(text, bundle)


def test_what_format_5_says_is_read_and_written_back(bundle: Path) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    assert raw["kv_cache"].keys() == {"length", "dtype", "heads", "head_dim"}
    assert not {"positions", "patches", "min_pixels"} & set(open_bundle(bundle).manifest.model_dump_json().split('"'))
    sees_whole(raw, 5)
    turns(raw, 5)
    convolves(raw, 5)
    manifest = parse_manifest(json.dumps(raw).encode(), bundle)
    again = json.loads(manifest.model_dump_json())
    assert again["vision"] == raw["vision"]
    assert again["positions"] == raw["positions"]
    assert again["kv_cache"] == raw["kv_cache"]
    assert manifest.vision is not None
    assert manifest.vision.format_version == 5
    keeps_state(raw)
    manifest = parse_manifest(json.dumps(raw).encode(), bundle)
    assert json.loads(manifest.model_dump_json())["kv_cache"] == raw["kv_cache"]
    assert manifest.kv_cache.has_states


@pytest.mark.parametrize("more", OF_FORMAT_3)
def test_what_format_3_says_is_read_and_written_back(bundle: Path, more: Callable[[dict[str, Any], int], None]) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    more(raw, 3)
    save(bundle, raw)
    manifest = open_bundle(bundle).manifest
    again = json.loads(manifest.model_dump_json())
    for section in ("model", "vision", "image_layout", "chat"):
        assert again[section] == raw[section]
    sections = (manifest.model, manifest.vision, manifest.image_layout, manifest.chat)
    assert max(section.format_version for section in sections if section is not None) == 3


def test_format_3_drops_reasoning_of_earlier_answers(bundle: Path) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    assert "reasoning" not in open_bundle(bundle).manifest.model_dump_json(), "nor is it written where there is none"
    drops_reasoning(raw, 3)
    raw["chat"]["system_joins"] = True
    save(bundle, raw)
    chat = open_bundle(bundle).manifest.chat
    assert chat is not None
    assert chat.reasoning is not None
    texts = ("plain", "<think>a</think>\n\nb\n", "a</think>b</think> c", "</think>")
    assert [chat.reasoning.dropped_from(text) for text in texts] == ["plain", "b\n", " c", ""]
    drops_reasoning(raw, 3, end=None)
    save(bundle, raw)
    chat = open_bundle(bundle).manifest.chat
    assert chat is not None and chat.reasoning is not None
    answers = ("plain\n", "\n\nb\n", " \nc")
    assert [chat.reasoning.dropped_from(text) for text in answers] == ["plain\n", "b\n", " \nc"]


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/etc/passwd",
        "a/../../b",
        "./a",
        "a//b",
        "a/",
        "",
        ".hidden",
        "a\\b",
        "a b",
        "a\n",
        "é",
        "a" * 300,
    ],
)
def test_names_that_could_lead_outside_are_refused(bundle: Path, name: str) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    raw["files"][name] = raw["files"]["graph.onnx"]
    save(bundle, raw)
    assert "not valid: files" in refused(bundle)
    del raw["files"][name]
    raw["tokenizer"] = name
    save(bundle, raw)
    assert "not valid: tokenizer" in refused(bundle)
    if len(name) < 256:
        write_bundle(bundle)
        with pytest.raises(BundleError, match="not a file name a bundle may use"):
            open_bundle(bundle).path(name)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda raw: raw.update(format_version=FORMAT_VERSION + 1),
            "has bundle format 6; this pocketvlm reads up to 5",
        ),
        (lambda raw: raw.update(format_version=10**400), "this pocketvlm reads up to 5: update"),
        (lambda raw: raw.update(format_version=0), "not valid: format_version"),
        (lambda raw: raw.update(format_version=True), "not valid: format_version"),
        (lambda raw: raw.update(format_version=1.0), "not valid: format_version"),
        (lambda raw: raw.update(format_version=-(10**400)), "not valid: format_version"),
        (lambda raw: raw.update(format_version="1"), "not valid: format_version"),
        (lambda raw: raw.pop("format_version"), "not JSON with a format_version"),
        (lambda raw: raw.pop("chat"), "not valid: chat: Field required"),
        (lambda raw: raw.update(extra=1), "not valid: extra: unknown key"),
        (lambda raw: raw["kv_cache"].update(extra=1), "not valid: kv_cache.extra"),
        (lambda raw: raw["kv_cache"].update(length=0), "not valid: kv_cache.length"),
        (lambda raw: raw["kv_cache"].update(length=1 << 21), "not valid: kv_cache.length"),
        (lambda raw: raw["kv_cache"].update(length="64"), "not valid: kv_cache.length"),
        (lambda raw: raw["kv_cache"].update(dtype="float16"), "not valid: kv_cache.dtype"),
        (lambda raw: raw["model"].update(layers=1 << 30), "not valid: model.layers"),
        (lambda raw: raw["vision"].update(alpha=float("nan")), "not valid: vision.alpha"),
        (lambda raw: raw["vision"].update(mean=[0, float("inf"), 0]), "not valid: vision.mean.1"),
        (lambda raw: raw["vision"].update(candidates=[]), "not valid: vision.candidates"),
        (lambda raw: raw["vision"].update(candidates=[[1]]), "not valid: vision.candidates"),
        (lambda raw: raw["vision"].update(strategy="best"), "not valid: vision.strategy"),
        (lambda raw: raw["tokens"].update(stop=[-1]), "not valid: tokens.stop.0"),
        (lambda raw: raw["tokens"].update(stop=[0] * 300), "not valid: tokens.stop"),
        (lambda raw: raw["tokens"].update(image=None), "belong together"),
        (lambda raw: raw.update(vision=None), "belong together"),
        (lambda raw: raw["engines"].update(cuda={}), "not valid: engines.cuda"),
        (lambda raw: raw["files"].pop("weights/text.data"), "'files' does not list"),
        (lambda raw: raw["files"].pop("tokenizer.json"), "is not in 'files'"),
        (lambda raw: raw["files"]["graph.onnx"].update(bytes=-1), "not valid: files.graph.onnx.bytes"),
        (lambda raw: raw["files"]["graph.onnx"].update(sha256="0" * 63), "not valid: files.graph.onnx.sha256"),
        (lambda raw: raw["chat"]["roles"].update(tool=raw["chat"]["roles"]["user"]), "not valid: chat.roles.tool"),
        (lambda raw: drops_reasoning(raw, 1), "format 1 cannot say what chat says"),
        (lambda raw: drops_reasoning(raw, 2), "format 2 cannot say what chat says"),
        *((lambda raw, more=more: more(raw, 2), "format 2 cannot say what") for more in OF_FORMAT_3),
        (lambda raw: shows(raw, 3, "model", limits=7), "not valid: model.limits"),
        (lambda raw: shows(raw, 3, "model", limits="x" * 513), "not valid: model.limits"),
        (lambda raw: shows(raw, 3, "model", adapter={"name": "poet", "sha256": "0"}), "not valid: model.adapter"),
        (lambda raw: shows(raw, 3, "vision", longest_edge=4097), "not valid: vision.longest_edge"),
        (lambda raw: sees_whole(raw, 4), "format 4 cannot say what vision says; format 5 can"),
        (lambda raw: turns(raw, 4), "only format 5 has positions"),
        (lambda raw: convolves(raw, 4), "format 4 cannot say what kv_cache says; format 5 can"),
        (lambda raw: convolves(raw, 5, {"kind": "attention"}), "layers, the model"),
        (lambda raw: convolves(raw, 5, kind="recurrent"), "not valid: kv_cache.layers.0"),
        (lambda raw: convolves(raw, 5, kind="attention"), "not valid: kv_cache.layers.0"),
        (lambda raw: convolves(raw, 5, kernel=0), "not valid: kv_cache.layers.0.convolution.kernel"),
        (lambda raw: convolves(raw, 5, width="8"), "not valid: kv_cache.layers.0.convolution.width"),
        (lambda raw: convolves(raw, 5, more=1), "not valid: kv_cache.layers.0.convolution.more"),
        (lambda raw: shows(raw, 5, "kv_cache", layers=[]), "not valid: kv_cache.layers"),
        (lambda raw: keeps_state(raw, heads=0), "not valid: kv_cache.layers.0.state.heads"),
        (lambda raw: keeps_state(raw, heads=1 << 13), "not valid: kv_cache.layers.0.state.heads"),
        (lambda raw: keeps_state(raw, key_width="16"), "not valid: kv_cache.layers.0.state.key_width"),
        (lambda raw: keeps_state(raw, value_width=None), "not valid: kv_cache.layers.0.state.value_width"),
        (lambda raw: keeps_state(raw, kernel=1), "not valid: kv_cache.layers.0.state.kernel"),
        (lambda raw: keeps_state(raw, width=1 << 21), "not valid: kv_cache.layers.0.state.width"),
        (lambda raw: keeps_state(raw, length=5), "not valid: kv_cache.layers.0.state.length"),
        (
            lambda raw: shows(raw, 5, "kv_cache", layers=[{"kind": "attention"}] * raw["model"]["layers"]),
            "layers has attention alone",
        ),
        (lambda raw: convolves(raw, 5, engine="litert"), "litert keeps no caches of several kinds"),
        (lambda raw: shares(raw, 5, 1), "no earlier layer with attention"),
        (lambda raw: shares(raw, 5, -1), "layers.1.shared.layer"),
        (lambda raw: shares(raw, 5, 4096), "layers.1.shared.layer"),
        (lambda raw: shares(raw, 5, head_dim=0), "layers.0.attention.head_dim"),
        (lambda raw: shares(raw, 5, head_dim=(1 << 16) + 1), "layers.0.attention.head_dim"),
        (lambda raw: shares(raw, 5, head_dim=raw["kv_cache"]["head_dim"]), "which is said by leaving it out"),
        (lambda raw: shares(raw, 5, more=1), "layers.0.attention.more"),
        (lambda raw: shows(raw, 5, "model", row_width=0), "model.row_width"),
        (lambda raw: shows(raw, 5, "model", row_width=(1 << 16) + 1), "model.row_width"),
        (lambda raw: shows(raw, 5, "vision", min_pixels=784), "min_pixels and patches belong together"),
        (lambda raw: shows(raw, 5, "vision", patches=dict(PATCHES)), "min_pixels and patches belong together"),
        (lambda raw: shows(raw, 5, "vision", strategy="smart-resize"), "smart-resize and patches belong together"),
        (lambda raw: sees_whole(raw, 5, packing=dict(PACKING)), "is one token, without thumbnail and packing"),
        (lambda raw: shows(raw, 5, "vision", patches={**PATCHES, "window": 0}), "vision.patches.window"),
        (lambda raw: sees_whole(raw, 5, deep=0), "vision.patches.deep"),
        (lambda raw: sees_whole(raw, 5, deep=17), "vision.patches.deep"),
        (lambda raw: sees_whole(raw, 5, window=65), "vision.patches.window"),
        (lambda raw: sees_whole(raw, 5, head_dim=6), "vision.patches.head_dim"),
        (lambda raw: sees_whole(raw, 5, head_dim=1 << 17), "vision.patches.head_dim"),
        (lambda raw: sees_whole(raw, 5, rope_theta=0), "vision.patches.rope_theta"),
        (lambda raw: sees_whole(raw, 5, rope_theta=1e19), "vision.patches.rope_theta"),
        (lambda raw: sees_whole(raw, 5, most_tokens=(1 << 16) + 1), "vision.patches.most_tokens"),
        (lambda raw: sees_whole(raw, 5, patches_per_tile=9), "has downsample_ratio x downsample_ratio of them"),
        (
            # whose square is 0 in 64 bits
            lambda raw: sees_whole(raw, 5, downsample_ratio=1 << 32),
            "has downsample_ratio x downsample_ratio of them",
        ),
        (lambda raw: sees_whole(raw, 5, most_tokens=29), "patches.most_tokens is less than a picture can have"),
        (lambda raw: sees_whole(raw, 5, max_pixels=1 << 40), "patches.most_tokens is less than a picture can have"),
        (lambda raw: sees_whole(raw, 5, max_pixels=1 << 41), "vision.max_pixels"),
        (lambda raw: sees_whole(raw, 5, min_pixels=0), "vision.min_pixels"),
        (
            # whose bytes are 2 ** 64: none in 64 bits
            lambda raw: sees_whole(raw, 5, table="other", table_side=4096, vision_hidden_size=1 << 38),
            "vision.patches.table is no file of as many",
        ),
        (lambda raw: sees_whole(raw, 5, table="../x", table_side=4), "vision.patches.table"),
        (lambda raw: sees_whole(raw, 5, table="graph.onnx", table_side=4097), "vision.patches.table_side"),
        (lambda raw: sees_whole(raw, 5, table="graph.onnx"), "table and table_side belong together"),
        (
            lambda raw: sees_whole(raw, 5, table="graph.onnx", table_side=4),
            "vision.patches.table is no file of as many",
        ),
        (lambda raw: in_parts(raw, 4), "format 4 cannot say what vision says; format 5 can"),
        (lambda raw: in_parts(raw, 5, part=None), "strategy lfm2 and part belong together"),
        (lambda raw: sees_whole(raw, 5, part=4), "strategy lfm2 and part belong together"),
        (lambda raw: shows(raw, 5, "vision", strategy="lfm2"), "strategy lfm2 and patches belong together"),
        (lambda raw: in_parts(raw, 5, part=0), "not valid: vision.part"),
        (lambda raw: in_parts(raw, 5, part=65), "not valid: vision.part"),
        (lambda raw: in_parts(raw, 5, part="4"), "not valid: vision.part"),
        (lambda raw: in_parts(raw, 5, part=7), "patches.most_tokens is less than a picture can have"),
        (lambda raw: in_parts(raw, 5, packing=dict(PACKING)), "is one token, without thumbnail and packing"),
        (lambda raw: in_parts(raw, 5, rope_theta=1e4), "patches.rope_theta is of a strategy without part"),
        (lambda raw: sees_whole(raw, 5, rope_theta=None), "patches.rope_theta is of a strategy without part"),
        (lambda raw: sees_whole(raw, 5, table_resized=True), "patches.table_resized is of the strategy lfm2"),
        (lambda raw: in_parts(raw, 5, table_resized=None), "patches.table_resized is of the strategy lfm2"),
        (lambda raw: in_parts(raw, 5, table_resized=False), "not valid: vision.patches.table_resized"),
        (lambda raw: in_parts_that_turn(raw, 5), "positions are of pictures as a whole, not in parts"),
        (lambda raw: in_slices(raw, 4), "format 4 cannot say what vision says; format 5 can"),
        (lambda raw: in_slices(raw, 5, downsample_ratio=2, patches_per_tile=4), "patches.queries are of the strategy"),
        (lambda raw: in_parts(raw, 5, queries=4), "patches.queries are of the strategy minicpmv"),
        (lambda raw: by_axis(raw, 5, table_by_axis=None), "patches.table_by_axis is of the strategy gemma4"),
        (lambda raw: by_axis(raw, 5, table=None, table_side=None), "patches.table_by_axis is of the strategy gemma4"),
        (lambda raw: by_axis(raw, 5, side=2), "patches.table_side is less than the patches"),
        (lambda raw: by_axis(raw, 5, deep=1), "the strategy gemma4 has no windows and nothing deep"),
        (lambda raw: by_axis(raw, 5, table_resized=True), "patches.table_resized is of the strategy lfm2"),
        (lambda raw: by_axis(raw, 5, table_side=19), "vision.patches.table is no file"),
        (lambda raw: by_axis(raw, 5, most_tokens=8), "patches.most_tokens is less than a picture can have"),
        (lambda raw: in_slices(raw, 5, queries=0), "not valid: vision.patches.queries"),
        (lambda raw: in_slices(raw, 5, table_bucketed=None), "patches.table_bucketed of minicpmv"),
        (lambda raw: in_slices(raw, 5, table_bucketed=False), "not valid: vision.patches.table_bucketed"),
        (lambda raw: in_slices(raw, 5, window=4), "slices of the strategy minicpmv have no windows and nothing deep"),
        (lambda raw: in_slices(raw, 5, most_tokens=44), "patches.most_tokens is less than a picture can have"),
        (lambda raw: in_slices(raw, 5, rope_theta=1e4), "patches.rope_theta is of a strategy without parts"),
        (lambda raw: shows(raw, 5, "image_layout", numbers=[]), "not valid: image_layout.numbers"),
        (lambda raw: shows(raw, 5, "image_layout", numbers=[[1]] * 257), "not valid: image_layout.numbers"),
        (lambda raw: shows(raw, 5, "image_layout", tile_end=[-1]), "not valid: image_layout.tile_end"),
        (lambda raw: shows(raw, 3, "image_layout", thumbnail_end=[1]), "format 3 cannot say what image_layout says"),
        (lambda raw: shows(raw, 5, "chat", between=1), "not valid: chat.between"),
        (lambda raw: turns(raw, 5, kind="yarn"), "not valid: positions.kind"),
        (lambda raw: turns(raw, 5, sections=[9, 1, 1]), "positions.sections has 11 pairs, a head"),
        (lambda raw: turns(raw, 5, sections=[1, 2, 0], interleaved=True), "has more pairs than the first"),
        (lambda raw: turns(raw, 5, rope="graph.onnx"), "positions.rope is no file of a cosine"),
        (lambda raw: turns(raw, 5, rope="nowhere"), "positions.rope is no file of a cosine"),
        (lambda raw: turns(raw, 5, sections=[1, 1]), "not valid: positions.sections"),
        (lambda raw: turns(raw, 5, sections=[1, -1, 2]), "not valid: positions.sections.1"),
        (lambda raw: turns(raw, 5, sections=[1 << 16, 0, 0]), "not valid: positions.sections.0"),
        (lambda raw: turns(raw, 5, interleaved=0), "not valid: positions.interleaved"),
        (lambda raw: turns(raw, 5, more=1), "not valid: positions.more"),
        (turns_far, "positions.rope is no file of a cosine"),
        (lambda raw: spans(raw, 4, "image"), "only format 5 has spans"),
        (lambda raw: spans(raw, 5, "all"), "not valid: spans"),
        (lambda raw: spans(raw, 5, None), "not valid: spans"),
        (lambda raw: spans(raw, 5, "image", chunk=3), "a span of 4 tokens does not fit into a prefill_chunk of 3"),
        (lambda raw: spans(raw, 5, "prompt", chunk=15), "a span of 16 tokens does not fit into a prefill_chunk of 15"),
        (lambda raw: spans(raw, 5, "prompt", once=False), "a span of a prompt is of a model that answers one question"),
        (lambda raw: shows(raw, 5, "chat", behind_images="x"), "behind_images is of a layout whose images come first"),
        (lambda raw: shows(raw, 4, "chat", images_first=True, behind_images=""), "format 4 cannot say what chat says"),
        (lambda raw: shows(raw, 5, "chat", single_turn=1), "not valid: chat.single_turn"),
        (lambda raw: shows(raw, 4, "chat", single_turn=True), "format 4 cannot say what chat says"),
        (lambda raw: spans(raw, 5, "image", thumbnail="last"), "a span of an image is one tile's tokens, with text"),
        (lambda raw: spans(raw, 5, "image", around=[]), "a span of an image is one tile's tokens, with text"),
        (lambda raw: shows(raw, 3, "vision", longest_edge="8"), "not valid: vision.longest_edge"),
        (lambda raw: shows(raw, 3, "vision", resize_filter="nearest"), "not valid: vision.resize_filter"),
        (lambda raw: shows(raw, 3, "image_layout", lone=[-1]), "not valid: image_layout.lone.0"),
        (lambda raw: shows(raw, 3, "image_layout", last_row_end=7), "not valid: image_layout.last_row_end"),
        (lambda raw: shows(raw, 3, "chat", image={"prefix": ""}), "not valid: chat.image.suffix"),
        (lambda raw: shows(raw, 3, "chat", text=["", ""]), "not valid: chat.text"),
        (lambda raw: shows(raw, 3, "chat", images_first=1), "not valid: chat.images_first"),
        (lambda raw: shows(raw, 5, "chat", strip_parts=1), "not valid: chat.strip_parts"),
        (lambda raw: has_tools(raw, alone=None), "not valid: chat.tools.alone"),
        (lambda raw: has_tools(raw, functions=1.5), "not valid: chat.tools.functions"),
        (lambda raw: has_tools(raw, calls={}), "not valid: chat.tools.calls.prefix"),
        (lambda raw: has_tools(raw, results={**LAYOUT.results.model_dump(), "more": ""}), "chat.tools.results.more"),
        (lambda raw: shows(raw, 4, "chat", strip_parts=True), "format 4 cannot say what chat says"),
        (lambda raw: shows(raw, 3, "vision", packing={**PACKING, "kind": "spiral"}), "not valid: vision.packing.kind"),
        (lambda raw: shows(raw, 3, "vision", packing={**PACKING, "most_tiles": 0}), "vision.packing.most_tiles"),
        (lambda raw: shows(raw, 3, "vision", packing={**PACKING, "newline": "../x"}), "vision.packing.newline"),
        (lambda raw: shows(raw, 3, "vision", packing={**PACKING, "more": 1}), "vision.packing.more"),
        (lambda raw: shows(raw, 3, "vision", packing={**PACKING, "newline": "other"}), "newline is no file of as many"),
        (lambda raw: shows(raw, 3, "vision", packing={**PACKING, "newline": "graph.onnx"}), "newline is no file of as"),
        (lambda raw: shows(raw, 3, "vision", packing=PACKING, thumbnail="last"), "packing begins with a thumbnail"),
        (lambda raw: shows(raw, 3, "vision", packing=PACKING, strategy="internvl"), "and internvl stretches images"),
        (lambda raw: shows(raw, 3, "vision", packing=PACKING, tokens_per_tile=24), "packing needs a square"),
        (lambda raw: image_first(raw, 3, 7), "not valid: chat.roles.user.prefix_with_image"),
        (lambda raw: drops_reasoning(raw, 3, end=""), "not valid: chat.reasoning.end"),
        (lambda raw: drops_reasoning(raw, 3, trim=None), "not valid: chat.reasoning.trim"),
        (lambda raw: drops_reasoning(raw, 3, more=1), "not valid: chat.reasoning.more"),
        (
            lambda raw: raw["chat"].update(system_joins=True),
            "format 1 cannot say what chat says",
        ),
        (lambda raw: raw.update(format_version=3, chat={**raw["chat"], "system_joins": None}), "chat.system_joins"),
        (lambda raw: raw["recipe"]["tensors"]["w"].update(bits=5), "not valid: recipe.tensors.w.bits"),
        (lambda raw: raw["recipe"]["tensors"]["w"].update(bits=4.0), "not valid: recipe.tensors.w.bits"),
        (lambda raw: raw.update(by_engine=None), "not valid: by_engine"),
        (lambda raw: raw.update(by_engine={"onnx": own(raw)}), "format 1 has no by_engine"),
        (
            lambda raw: raw.update(format_version=2, by_engine={"onnx": own(raw, extra=1)}),
            "not valid: by_engine.onnx",
        ),
        (lambda raw: raw.update(format_version=2, by_engine={"cuda": own(raw)}), "not valid: by_engine.cuda"),
        (
            lambda raw: raw.update(format_version=2, by_engine={"executorch": own(raw)}),
            "by_engine has other engines than engines",
        ),
        (
            lambda raw: raw.update(format_version=2, by_engine={"onnx": own(raw), "executorch": own(raw)}),
            "by_engine has other engines than engines",
        ),
        (
            lambda raw: raw.update(format_version=2, by_engine={"onnx": own(raw, prefill_chunk=0)}),
            "not valid: by_engine.onnx.prefill_chunk",
        ),
        (lambda raw: raw.update({"\x1b[2J\n" + "x" * 5000: 1}), "unknown key"),
        *((change, line) for change, line in TOO_MUCH.values()),
    ],
)
def test_a_wrong_manifest_is_refused_at_its_key(bundle: Path, change: Callable[[Any], None], line: str) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    change(raw)
    save(bundle, raw)
    assert line in refused(bundle)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"7",
        b'"format_version"',
        b'{"format_version": 1',
        b"\xff\xfe\x00",
        b'{"format_version": \xff}',
        b"[" * 200_000,
        b'{"format_version": 1, "a": ' + b"[" * 200_000,
        b'{"format_version": 1e999}',
        b'{"format_version": ' + b"9" * 5000 + b"}",
        b"\x00" * 100,
    ],
    ids=lambda text: repr(text[:24]),
)
def test_a_manifest_that_is_no_json_object_is_one_line(bundle: Path, text: bytes) -> None:
    (bundle / "manifest.json").write_bytes(text)
    assert "manifest.json" in refused(bundle)


def test_as_much_as_a_reader_takes_opens(bundle: Path) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    _literal(raw, 65536)
    raw["model"]["name"] = "\U0001f600" * 512
    raw["vision"]["tokens_per_tile"] = 65536
    raw["image_layout"]["tile"] = [[[1]] * 64] * 64
    _part(raw)["inputs"][0].update(shape=["n" * 512] * 16)
    save(bundle, raw)
    opened = open_bundle(bundle)
    assert len(opened.manifest.model.name) == 512
    write_manifest(bundle, opened.manifest)
    image_layout = ImageLayout(image_start=(), thumbnail=(), tile=(((1,) * 256,) * 64,) * 64, row_end=(), image_end=())
    with pytest.raises(BundleError, match="more than 65536 values"):
        write_manifest(bundle, opened.manifest.model_copy(update={"image_layout": image_layout}))
    assert open_bundle(bundle).manifest == opened.manifest
