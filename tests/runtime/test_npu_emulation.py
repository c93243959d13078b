"""The NPU's program on the host: as the phone's runner would run it, and to the same answers as the ONNX engine."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.bundle.open import describe_files, open_bundle
from pocketvlm.errors import BundleError, CapacityError, PocketVlmError
from pocketvlm.runtime import GenerationConfig, load
from pocketvlm.runtime.budget import needed_bytes
from pocketvlm.runtime.engines import npu_emulation
from pocketvlm.runtime.engines.npu_emulation import NpuEmulation
from pocketvlm.runtime.engines.npu_program import FEW_TOKENS, NpuCache, batches, causal_mask, steps, taken_back
from tests.support.bundles import KV_LENGTH, exported, picture
from tests.support.checkpoints import tiny_config, write_checkpoint

#: Of the tiny bundle's program for prompts.
PREFILL = 32


@functools.cache
def npu_bundle() -> Path:
    """A tiny model for both back ends, its weights the same."""
    from pocketvlm.export import export_bundle
    from pocketvlm.export.neuropilot.options import NpuOptions, with_options
    from pocketvlm.recipe import CalibrationConfig, load_recipe

    source = exported().path
    checkpoint, path = source.parent / "qwen2-True", source.parent / "npu"
    recipe = replace(load_recipe("int4-channel"), calibration=CalibrationConfig(sequences=4))
    options = NpuOptions(chunks=2, prefill_tokens=PREFILL, compiled=False)
    recipe = with_options(recipe, options)
    export_bundle(checkpoint, path, recipe=recipe, backends=["onnx", "neuropilot"], max_length=KV_LENGTH)
    return path


@pytest.fixture(scope="module")
def engine() -> NpuEmulation:
    return NpuEmulation(open_bundle(npu_bundle()), threads=1)


def embedded(engine: NpuEmulation, tokens: int) -> np.ndarray:
    return engine.embed(np.random.default_rng(0).integers(0, 256, tokens))


def in_parts(engine: NpuEmulation, rows: np.ndarray, parts: list[int]) -> tuple[np.ndarray, NpuCache]:
    cache, logits, at = engine.new_cache(), [], 0
    for count in parts:
        logits.append(engine.step(rows[at : at + count], cache, 0))
        at += count
    return np.concatenate(logits), cache


@pytest.mark.parametrize("parts", [[1] * 40 + [60], [32, 32, 32, 4], [7, 50, 43], [99, 1], [97, 3]])
def test_a_prompt_in_parts_is_the_whole_prompt_bit_for_bit(engine: NpuEmulation, parts: list[int]) -> None:
    """Padded, unpadded and single steps: every value is rounded to the same static scale, whoever its neighbours."""
    rows = embedded(engine, 100)
    whole, kept = in_parts(engine, rows, [100])
    logits, cache = in_parts(engine, rows, parts)
    assert np.array_equal(logits, whole)
    assert cache.position == kept.position == 100
    for name, codes in cache.rows.items():
        assert np.array_equal(codes, kept.rows[name])
        assert codes[:, :, -100:].any()
        assert not codes[:, :, :-100].any(), "rows that hold no token are zeros, in front"


def left_padded_step(engine: NpuEmulation, rows: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A first step as MediaTek's runner makes it (LlamaRuntime::Run, mask_builder.cpp, rotary_embedding.cpp): padding
    in front, hidden in rows and columns, without a rotation; then its rows of the cache zeroed. Logits, and the cache.
    """
    manifest, program, rope = engine._manifest, engine._program, engine._rope
    pad, length = PREFILL - len(rows), manifest.kv_cache.length
    hidden = np.repeat(rows[:1], PREFILL, axis=0)[None]
    hidden[0, pad:] = rows
    mask = np.full((PREFILL, length + PREFILL), program.mask_value, np.float32)
    for at in range(pad, PREFILL):
        mask[at, length + pad : length + at + 1] = 0
    rotation = np.zeros((1, 2, PREFILL, manifest.kv_cache.head_dim), np.float32)
    rotation[0, :, pad:] = rope[:, : len(rows)]
    cache = engine.new_cache().rows
    for chunk, (first, end) in enumerate(program.chunks):
        names = [f"{part}.{layer}" for part in ("key", "value") for layer in range(first, end)]
        feeds = {"hidden": hidden, "mask": mask[None, None], "rope": rotation}
        outputs = ["logits" if end == manifest.model.layers else "next_hidden", *(f"present_{name}" for name in names)]
        feeds |= {f"past_{name}": cache[name] for name in names}
        hidden, *present = engine._run(f"text_decoder_{chunk}_{PREFILL}", outputs, feeds)
        cache |= dict(zip(names, present, strict=True))
    for codes in cache.values():
        codes[:, :, length - PREFILL : length - len(rows)] = 0
    return hidden[0, pad:], cache


@pytest.mark.parametrize("tokens", [1, 9, PREFILL])
def test_mediateks_runner_begins_with_padding_in_front_and_gets_the_same(engine: NpuEmulation, tokens: int) -> None:
    """It takes a prompt's rest first and pads it in front while the cache is empty; this engine pads the last step
    behind. The same logits and the same cache, bit for bit."""
    rows = embedded(engine, tokens)
    logits, cache = left_padded_step(engine, rows)
    wanted, kept = in_parts(engine, rows, [tokens])
    assert np.array_equal(logits, wanted)
    for name, codes in cache.items():
        assert np.array_equal(codes, kept.rows[name])


def test_longer_steps_of_a_prompt_give_the_same(tmp_path: Path) -> None:
    """The paper's t32, t128 and t512 of a model without pictures: the same scales and sums, so the same logits."""
    from pocketvlm.export import export_bundle
    from pocketvlm.export.neuropilot.options import NpuOptions, with_options
    from pocketvlm.export.npu.options import PREFILL_TOKENS
    from pocketvlm.recipe import load_recipe

    write_checkpoint(tmp_path / "text", tiny_config("llama", vision=False))
    found = []
    for prefill in PREFILL_TOKENS:
        options, path = NpuOptions(chunks=2, prefill_tokens=prefill, compiled=False), tmp_path / str(prefill)
        recipe = with_options(load_recipe("int4-channel"), options)
        export_bundle(tmp_path / "text", path, recipe=recipe, backends=["neuropilot"], max_length=512)
        engine = NpuEmulation(open_bundle(path), threads=1)
        assert f"text_decoder_1_{prefill}" in engine._sessions
        logits, cache = in_parts(engine, embedded(engine, 140), [140])
        found.append((logits, np.stack([*cache.rows.values()])))
        engine.close()
    for logits, codes in found[1:]:
        assert np.array_equal(logits, found[0][0])
        assert np.array_equal(codes, found[0][1])


def test_the_cache_is_full_to_its_last_row(engine: NpuEmulation) -> None:
    """Where a padded step would push tokens out, single ones fill the rest."""
    rows = embedded(engine, KV_LENGTH)
    whole, cache = in_parts(engine, rows, [KV_LENGTH])
    assert cache.position == KV_LENGTH
    logits, _ = in_parts(engine, rows, [KV_LENGTH - 7, 7])
    assert np.array_equal(logits, whole)
    with pytest.raises(CapacityError, match="do not fit"):
        engine.step(rows[:1], cache, 1)
    assert cache.position == KV_LENGTH


def test_setting_the_position_back_forgets(engine: NpuEmulation) -> None:
    rows = embedded(engine, 60)
    _, cache = in_parts(engine, rows, [40])
    before = engine.step(rows[40:60], cache, 0)
    cache.position = 40
    engine.step(np.zeros((3, rows.shape[1]), np.float32), cache, 1)
    cache.position = 40
    assert np.array_equal(engine.step(rows[40:60], cache, 0), before)
    cache.position = 0
    assert not any(codes.any() for codes in cache.rows.values())
    with pytest.raises(ValueError, match="cannot go to 5"):
        cache.position = 5


@given(count=st.integers(0, 9), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_what_is_taken_back_was_at_the_end(count: int, seed: int) -> None:
    rows = np.random.default_rng(seed).integers(-128, 128, (1, 2, 9, 3)).astype(np.int8)
    moved = taken_back(rows, count)
    assert np.array_equal(moved[:, :, count:], rows[:, :, : 9 - count])
    assert not moved[:, :, :count].any()


@given(
    position=st.integers(0, 200),
    count=st.integers(1, 200),
    prefill=st.sampled_from([32, 128]),
    room=st.integers(0, 200),
)
def test_steps_take_all_tokens_and_never_push_one_out(position: int, count: int, prefill: int, room: int) -> None:
    length = position + count + room
    taken = steps(position, count, prefill, length)
    assert sum(real for _, real in taken) == count
    for tokens, real in taken:
        assert tokens in (1, prefill)
        assert 1 <= real <= tokens
        assert position + tokens <= length
        assert tokens == 1 or real > FEW_TOKENS
        position += real


@given(tiles=st.integers(1, 40))
def test_tiles_go_in_fours_and_ones(tiles: int) -> None:
    shared = batches(tiles, (4, 1))
    assert sum(shared) == tiles
    assert shared == sorted(shared, reverse=True)
    assert shared.count(1) < 4
    assert batches(9, (4, 1)) == [4, 4, 1], "the paper's screen"


def test_tiles_that_no_graph_takes_are_refused() -> None:
    with pytest.raises(BundleError, match="1 tiles are left over"):
        batches(5, (4,))


def test_a_mask_shows_the_past_and_hides_what_follows() -> None:
    mask = causal_mask(2, 3, 5, -100.0)[0, 0]
    assert (mask == 0).tolist() == [
        [False, False, False, True, True, True, False, False],
        [False, False, False, True, True, True, True, False],
        [False, False, False, True, True, True, True, True],
    ]
    assert set(mask.ravel()) == {0, -100}


def test_a_tile_does_not_depend_on_its_batch(engine: NpuEmulation) -> None:
    pixels = np.random.default_rng(0).normal(size=(9, 3, 72, 72)).astype(np.float32)
    patches = engine.patch_embed(pixels)
    together = engine.encode(patches)
    alone = np.concatenate([engine.encode(patches[at : at + 1]) for at in range(9)])
    assert np.array_equal(together, alone)
    others = patches.copy()
    others[1:] *= 50
    assert np.array_equal(engine.encode(others)[0], together[0])


def test_answers_are_near_those_of_the_onnx_engine() -> None:
    """The same INT4 weights and INT8 cache; other activations: INT16 in all operators, beside INT8 in products."""
    ids = np.random.default_rng(1).integers(0, 256, 100)
    images = [picture(150, 90)]
    with load(npu_bundle(), engine="npu-emulation", threads=1) as emulated, load(npu_bundle(), threads=1) as plain:
        assert "not compiled for it" in emulated.engine_description
        found, wanted = emulated.logits(ids), plain.logits(ids)
        assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 0.03
        assert (found.argmax(-1) == wanted.argmax(-1)).mean() > 0.9
        found, wanted = emulated.encode_images(images), plain.encode_images(images)
        assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 0.03
        config = GenerationConfig(max_new_tokens=4)
        answer = emulated.stream("What?", images=images, config=config)
        answer.read()
        assert answer.stats.generated_tokens == 4
        assert np.array_equal(emulated.logits(ids), emulated.logits(ids))


def test_memory_is_that_of_its_parts() -> None:
    manifest = open_bundle(npu_bundle()).manifest
    needs = needed_bytes(manifest, "npu-emulation")
    assert needs["token embedding"] > 0
    assert sum(needs.values()) > needs["KV cache"] + needs["runtime"]
    # 2 layers: q, k, v, o, then gate, up, down; and the untied head
    assert needs["unpacked weights"] == 2 * (96 * (128 + 64 + 64 + 128) + 3 * 96 * 160) + 320 * 96
    assert "unpacked weights" not in needed_bytes(manifest, "onnx")


def test_freed_vision_comes_back_and_a_closed_engine_says_so() -> None:
    engine = NpuEmulation(open_bundle(npu_bundle()), threads=1)
    patches = engine.patch_embed(np.ones((1, 3, 72, 72), np.float32))
    tokens = engine.encode(patches)
    engine.free_vision()
    assert not any(name.startswith(("vision", "patch")) for name in engine._sessions)
    assert np.array_equal(engine.encode(patches), tokens)
    cache = engine.new_cache()
    with pytest.raises(BundleError, match="takes rows of 96"):
        engine.step(np.zeros((3, 95), np.float32), cache, 1)
    assert cache.position == 0
    engine.close()
    with pytest.raises(PocketVlmError, match="closed"):
        engine.step(np.zeros((1, 96), np.float32), cache, 1)


def test_weights_are_kept_by_steps_of_one_token_alone(engine: NpuEmulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others unpack them at each run: kept by both, they would be in memory twice."""
    kept: dict[str, bool] = {}
    keeps = npu_emulation._keeps_weights

    def watched(name: str) -> bool:
        kept[name] = keeps(name)
        return kept[name]

    monkeypatch.setattr(npu_emulation, "_keeps_weights", watched)
    NpuEmulation(open_bundle(npu_bundle()), threads=1).close()
    assert {name for name, keep in kept.items() if keep} == {"text_decoder_0_1", "text_decoder_1_1"}
    assert kept.keys() == engine._parts.keys()


def copied(tmp_path: Path, change: Callable[[Any], object]) -> Path:
    path = tmp_path / "bundle"
    shutil.copytree(npu_bundle(), path)
    raw = json.loads((path / "manifest.json").read_text())
    change(raw)
    raw["files"] = {name: entry.model_dump(mode="json") for name, entry in describe_files(path, raw["files"]).items()}
    (path / "manifest.json").write_text(json.dumps(raw))
    return path


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda raw: (raw.pop("neuropilot"), raw["engines"].pop("neuropilot"), raw.pop("by_engine")),
            "no program for an NPU",
        ),
        (lambda raw: raw["engines"]["neuropilot"].pop("text_decoder_1_1"), "no NPU part text_decoder_1_1"),
        (lambda raw: raw["neuropilot"].update(compiled=True), "compiled programs and their files"),
        (lambda raw: raw["neuropilot"].update(chunks=[[0, 1], [2, 3]]), "do not follow one another"),
        (lambda raw: raw["neuropilot"].update(chunks=[[0, 1]]), "has 1 layers, the model 2"),
        (lambda raw: raw["neuropilot"].update(rope="nothing"), "'files' does not list"),
        (lambda raw: raw["neuropilot"].update(rope="tokenizer.json"), "is not the table of RoPE"),
        (lambda raw: raw["neuropilot"].update(mask_value=1.0), "less than 0"),
        (lambda raw: raw["neuropilot"].update(tile_batches=[4, 3]), "no NPU part vision_encoder_3"),
        (lambda raw: raw["model"].update(hidden_size=97), "the manifest asks for"),
        (lambda raw: raw["kv_cache"].update(heads=3), "the manifest asks for"),
        (lambda raw: raw.update(format_version=1), "format 1 has no"),
        (lambda raw: raw.pop("neuropilot"), "belong together"),
        (
            lambda raw: raw["engines"]["neuropilot"]["text_decoder_0_1"].update(file="npu_text_decoder_0_32.onnx"),
            "are not those of the manifest",
        ),
    ],
)
def test_a_manifest_that_does_not_fit_its_program_is_refused(
    tmp_path: Path, change: Callable[[Any], object], line: str
) -> None:
    path = copied(tmp_path, change)
    with pytest.raises(BundleError) as caught:
        load(path, threads=1, engine="npu-emulation")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_archive_gives_the_same(tmp_path: Path, engine: NpuEmulation) -> None:
    from pocketvlm.bundle.archive import write_archive

    names = [path.name for path in npu_bundle().iterdir()]
    write_archive(npu_bundle(), names, tmp_path / "bundle.zip")
    zipped = NpuEmulation(open_bundle(tmp_path / "bundle.zip"), threads=1)
    rows = embedded(engine, 40)
    assert np.array_equal(in_parts(zipped, rows, [40])[0], in_parts(engine, rows, [40])[0])
    zipped.close()
