"""The program for NPUs behind LiteRT on the host: beside MediaTek's emulation, and what it keeps to as any engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketvlm.bundle.open import describe_files, open_bundle
from pocketvlm.errors import BundleError
from pocketvlm.runtime import GenerationConfig, load
from pocketvlm.runtime.engines.litert_npu import LitertNpuEmulation
from pocketvlm.scenes import held_out
from tests.support import engine_contract as contract
from tests.support.bundles import picture
from tests.support.engine_contract import noise, relative


@pytest.fixture
def engine(litert_npu_bundle: Path) -> LitertNpuEmulation:
    return LitertNpuEmulation(open_bundle(litert_npu_bundle).for_engine("litert_npu"), threads=1)


def test_numbers_are_those_of_the_emulation(litert_npu_bundle: Path) -> None:
    """Other roundings of softmax, norms and sigmoids; a vision part in float32; hidden rows that softmax counts."""
    ids, images = np.random.default_rng(1).integers(0, 256, 100), [picture(150, 90)]
    with (
        load(litert_npu_bundle, engine="litert-npu-emulation", threads=1) as ours,
        load(litert_npu_bundle, engine="npu-emulation", threads=1) as emulated,
    ):
        assert "emulation of the mt6989 NPU's program (not compiled for it): ai-edge-litert" in ours.engine_description
        assert relative(ours.logits(ids), emulated.logits(ids)) < 0.03
        assert relative(ours.encode_images(images), emulated.encode_images(images)) < 0.03
        config = GenerationConfig(max_new_tokens=8)
        texts = [vlm.stream("What?", images=images, config=config).read() for vlm in (ours, emulated)]
        assert texts[0] == texts[1]


def test_the_built_in_model_answers_as_the_emulation_does(litert_npu_reader: Path) -> None:
    examples, answers = list(held_out("npu", 6)), []
    for engine in ("litert-npu-emulation", "npu-emulation"):
        with load(litert_npu_reader, engine=engine, threads=1) as vlm:
            greedy = GenerationConfig(max_new_tokens=48)
            answers.append([vlm.stream(one.question, [one.image], greedy).read() for one in examples])
    assert answers[0] == answers[1]
    assert sum(answer == one.answer for answer, one in zip(answers[0], examples, strict=True)) > 4


def test_a_prompt_in_parts_is_nearly_the_whole_prompt(engine: LitertNpuEmulation) -> None:
    """A step of one token has fewer hidden rows than one of many."""
    rows, whole, parts = noise(100), engine.new_cache(), engine.new_cache()
    wanted = engine.step(rows, whole, 1)
    for first, end in ((0, 41), (41, 73), (73, 100)):
        found = engine.step(rows[first:end], parts, 1)
    assert 0 < relative(found, wanted) < 0.02


def test_a_position_set_back_forgets_what_follows(engine: LitertNpuEmulation) -> None:
    """But for what softmax counts hidden rows as, whose values are others then."""
    cache = engine.new_cache()
    first = engine.step(noise(20), cache, 0)
    engine.step(noise(60, seed=1), cache, 1)
    cache.position = 7
    assert relative(engine.step(noise(20)[7:], cache, 0), first[7:]) < 0.02
    assert relative(engine.step(noise(20), cache, 0)[7:], first[7:]) > 0.1


def test_caches_do_not_know_of_each_other(engine: LitertNpuEmulation) -> None:
    states, other, caches = noise(12), noise(12, seed=1), [engine.new_cache(), engine.new_cache()]
    alone = engine.new_cache()
    wanted = [engine.step(states[at : at + 1], alone, 1) for at in range(12)]
    for at in range(12):
        assert np.array_equal(engine.step(states[at : at + 1], caches[0], 1), wanted[at])
        engine.step(other[at : at + 1], caches[1], 1)


def test_tiles_do_not_change_each_other(engine: LitertNpuEmulation) -> None:
    contract.check_tiles_do_not_change_each_other(engine)


def test_freed_vision_is_loaded_again_when_it_is_needed(engine: LitertNpuEmulation) -> None:
    contract.check_freed_vision_is_loaded_again(engine)


def test_threads_run_vision_and_text_at_once(engine: LitertNpuEmulation) -> None:
    contract.check_threads_run_vision_and_text_at_once(engine, rounds=4)


def test_a_run_that_fails_is_one_line_and_leaves_the_engine_usable(
    engine: LitertNpuEmulation, capfd: pytest.CaptureFixture[str]
) -> None:
    contract.check_a_run_that_fails_leaves_the_engine_usable(engine, r"embeddings have the shape \(3, 95\)", capfd)


def test_what_is_not_offered_is_refused(litert_npu_bundle: Path, tmp_path: Path) -> None:
    contract.check_what_is_not_offered_is_refused(litert_npu_bundle, "litert-npu-emulation", tmp_path / "cache")


def test_an_archive_gives_what_the_directory_gives(litert_npu_bundle: Path, tmp_path: Path) -> None:
    contract.check_an_archive_gives_what_the_directory_gives(
        litert_npu_bundle, "litert-npu-emulation", tmp_path / "model.zip"
    )


# --- What does not fit ------------------------------------------------------------------------------------------------


def copied(bundle: Path, tmp_path: Path, change: Callable[[Any], object]) -> Path:
    path = tmp_path / "bundle"
    shutil.copytree(bundle, path)
    raw = json.loads((path / "manifest.json").read_text())
    change(raw)
    raw["files"] = {name: entry.model_dump(mode="json") for name, entry in describe_files(path, raw["files"]).items()}
    (path / "manifest.json").write_text(json.dumps(raw))
    return path


def alone(raw: Any) -> None:
    del raw["engines"]["neuropilot"], raw["neuropilot"], raw["by_engine"]
    raw["prefill_chunk"] = 32


def test_a_bundle_for_it_alone_says_how_it_runs_here(litert_npu_bundle: Path, tmp_path: Path) -> None:
    path = copied(litert_npu_bundle, tmp_path, alone)
    line = r"is for an NPU alone: --engine litert-npu-emulation .* not compiled for mt6989"
    with pytest.raises(BundleError, match=line):
        load(path, threads=1)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda raw: raw.pop("litert_npu"), "litert_npu and engines.litert_npu belong together"),
        (lambda raw: raw.update(format_version=3), "format 3 has no parts for an NPU of that kind"),
        (lambda raw: raw["litert_npu"].update(platform="mt6853"), "litert_npu.platform"),
        (lambda raw: raw["litert_npu"].update(compiled=True), "compiled programs and their files belong together"),
        (lambda raw: raw["litert_npu"].update(compiled=True, programs=["no.tflite"]), "litert_npu uses 'no.tflite'"),
        (lambda raw: raw["engines"]["litert_npu"].pop("decode_rope"), "no LiteRT part decode_rope"),
        (lambda raw: raw["engines"]["litert_npu"].pop("prefill_mask_32"), "no LiteRT part prefill_mask_32"),
        (
            lambda raw: raw["engines"]["litert_npu"]["decode"].update(file="npu_embedder.tflite"),
            "of the part decode, has no such signature",
        ),
        (
            lambda raw: raw["engines"]["litert_npu"]["decode_mask"]["outputs"][0].update(dtype="int8"),
            "the outputs of decode_mask are not those",
        ),
    ],
)
def test_a_bundle_that_does_not_fit_is_refused(
    litert_npu_bundle: Path, tmp_path: Path, change: Callable[[Any], object], line: str
) -> None:
    path = copied(litert_npu_bundle, tmp_path, change)
    with pytest.raises(BundleError) as caught:
        load(path, threads=1, engine="litert-npu-emulation")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["model"].update(hidden_size=97),
        lambda raw: raw["model"].update(vocab_size=321),
        lambda raw: raw["kv_cache"].update(length=150),
        lambda raw: raw["kv_cache"].update(heads=4, head_dim=16),
        lambda raw: raw["vision"].update(tokens_per_tile=24),
    ],
)
def test_parts_of_another_shape_are_refused(
    litert_npu_bundle: Path, tmp_path: Path, change: Callable[[Any], object]
) -> None:
    def alone_and_changed(raw: Any) -> None:
        alone(raw)
        change(raw)

    path = copied(litert_npu_bundle, tmp_path, alone_and_changed)
    with pytest.raises(BundleError, match=r"the manifest") as caught:
        load(path, engine="litert-npu-emulation", threads=1)
    assert "\n" not in str(caught.value)
