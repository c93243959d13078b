"""The LiteRT engine: beside the ONNX engine on the same weights, and what it must keep to as any engine."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pocketvlm.bundle.open import describe_files, open_bundle
from pocketvlm.errors import BundleError, PocketVlmError
from pocketvlm.runtime import load
from pocketvlm.runtime.engines import open_engine
from pocketvlm.runtime.engines.litert import LitertCache, LitertEngine
from tests.runtime.test_onnx_engine import run
from tests.support import engine_contract as contract
from tests.support.engine_contract import pixels_of

#: Both engines at float precision, relative to the 2-norm.
TOLERANCE = 1e-5
#: With weights and activations of few bits: their kernels round activations differently.
TOLERANCE_OF_INTEGERS = 0.05


@pytest.fixture
def bundles(litert_bundles: dict[str, Path]) -> dict[str, Path]:
    return litert_bundles


@pytest.fixture
def engine(bundles: dict[str, Path]) -> LitertEngine:
    return LitertEngine(open_bundle(bundles["fp32"]), threads=1)


@pytest.mark.parametrize(
    ("recipe", "most"),
    [("fp32", TOLERANCE), ("int4-g32", TOLERANCE_OF_INTEGERS), ("bluelm-v-3b", TOLERANCE_OF_INTEGERS)],
)
def test_both_engines_give_the_same_numbers(bundles: dict[str, Path], recipe: str, most: float) -> None:
    contract.check_engines_give_the_same_numbers(bundles[recipe], "litert", most)


def test_both_engines_answer_the_same(bundles: dict[str, Path]) -> None:
    contract.check_engines_answer_the_same(bundles["fp32"], "litert", "ai-edge-litert")


def test_a_bundle_with_one_engine_is_opened_with_it(bundles: dict[str, Path], tmp_path: Path) -> None:
    path = copied(bundles["fp32"], tmp_path, lambda raw: drop(raw, "onnx"))
    with load(path, threads=1) as vlm:
        assert vlm.engine_description.startswith("ai-edge-litert 2.")
    with load(bundles["fp32"], threads=1) as vlm:
        assert vlm.engine_description.startswith("onnxruntime 1.")


def test_an_archive_gives_what_the_directory_gives(bundles: dict[str, Path], tmp_path: Path) -> None:
    contract.check_an_archive_gives_what_the_directory_gives(bundles["fp32"], "litert", tmp_path / "model.zip")


@pytest.mark.parametrize("recipe", ["fp32", "bluelm-v-3b"])
def test_chunks_give_exactly_what_one_step_gives(bundles: dict[str, Path], recipe: str) -> None:
    """Also where the last prefill would reach beyond the cache, and where tokens are too few for one."""
    splits = ((190,), (1, 189), (64, 64, 21, 41), (128, 1, 61), (100, 90))
    engine = LitertEngine(open_bundle(bundles[recipe]), threads=1)
    contract.check_chunks_give_exactly_what_one_step_gives(engine, 190, splits)


def test_a_position_set_back_forgets_what_follows(engine: LitertEngine) -> None:
    contract.check_a_position_set_back_forgets_what_follows(engine, more=60)


def test_caches_do_not_know_of_each_other(engine: LitertEngine) -> None:
    contract.check_caches_do_not_know_of_each_other(engine)


def test_what_is_not_offered_is_refused(bundles: dict[str, Path], tmp_path: Path) -> None:
    contract.check_what_is_not_offered_is_refused(bundles["fp32"], "litert", tmp_path / "cache")


def test_tiles_do_not_change_each_other(engine: LitertEngine) -> None:
    contract.check_tiles_do_not_change_each_other(engine)
    assert engine.encode(engine.patch_embed(pixels_of(0))).shape == (0, 25, 96)


def test_freed_vision_is_loaded_again_when_it_is_needed(engine: LitertEngine) -> None:
    contract.check_freed_vision_is_loaded_again(engine)


def test_threads_run_vision_and_text_at_once(engine: LitertEngine) -> None:
    contract.check_threads_run_vision_and_text_at_once(engine, rounds=10)


def test_a_run_that_fails_is_one_line_and_leaves_the_engine_usable(
    engine: LitertEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    contract.check_a_run_that_fails_leaves_the_engine_usable(engine, r"embeddings have the shape \(3, 95\)", capfd)


ANSWER = """
import sys
from pocketvlm.runtime import GenerationConfig, load
with load(sys.argv[1], engine="litert", threads=1) as vlm:
    vlm.stream("hi", config=GenerationConfig(max_new_tokens=2)).read()
print(*(name for name in ("torch", "onnxruntime", "tensorflow", "jax") if name in sys.modules), "done")
"""


def test_nothing_else_is_imported_and_nothing_is_said_or_left(bundles: dict[str, Path], tmp_path: Path) -> None:
    done = run(ANSWER, str(bundles["fp32"]), home=tmp_path)
    assert done.stdout.split() == ["done"]
    assert done.stderr == ""
    assert list(tmp_path.rglob("*")) == []


# --- What does not fit ------------------------------------------------------------------------------------------------


def copied(
    bundle: Path, tmp_path: Path, change: Callable[[Any], object], damage: Callable[[Path], object] | None = None
) -> Path:
    """A copy with a changed manifest; where ``damage`` changes the text part, digests are made right."""
    path = tmp_path / "bundle"
    shutil.copytree(bundle, path)
    raw = json.loads((path / "manifest.json").read_text())
    change(raw)
    if damage is not None:
        damage(path / "text.tflite")
        raw["files"] = {
            name: entry.model_dump(mode="json") for name, entry in describe_files(path, raw["files"]).items()
        }
    (path / "manifest.json").write_text(json.dumps(raw))
    return path


def drop(raw: Any, engine: str) -> None:
    for section in ("engines", "by_engine"):
        raw[section].pop(engine)


def parts(raw: Any) -> Any:
    return raw["engines"]["litert"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda raw: raw["minimum_runtime"].update(litert="99.1"), "needs litert 99.1 or newer, "),
        (lambda raw: raw["minimum_runtime"].update(litert="new"), "minimum_runtime.litert is not a version"),
        (lambda raw: drop(raw, "litert"), "has no LiteRT parts"),
        (lambda raw: parts(raw).pop("image_tokens"), "no LiteRT part image_tokens"),
        (lambda raw: parts(raw).pop("prefill_128"), "no LiteRT part prefill_128"),
        (lambda raw: raw["by_engine"]["litert"].update(prefill_chunk=64), "no LiteRT part token_embedding_64"),
        (lambda raw: parts(raw)["decode"].update(file="text.data"), "is not a .tflite file that a bundle may have"),
        (lambda raw: parts(raw)["decode"].update(file="vision.tflite"), "has no such signature"),
        (lambda raw: parts(raw)["decode"].update(data=["text.data"]), "has no such signature with its weights inside"),
        (lambda raw: parts(raw)["decode"]["inputs"][0].update(shape=[1, 1, 97]), "the inputs of decode are not those"),
        (lambda raw: parts(raw)["decode"]["outputs"].pop(), "the outputs of decode are not those"),
        (lambda raw: parts(raw)["decode"]["inputs"][1].update(dtype="int64"), "the inputs of decode are not those"),
        (lambda raw: raw.update(format_version=3), "only format 4 has LiteRT parts"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    bundles: dict[str, Path], tmp_path: Path, change: Callable[[Any], object], line: str
) -> None:
    path = copied(bundles["fp32"], tmp_path, change)
    with pytest.raises(BundleError) as caught:
        load(path, engine="litert", threads=1)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["model"].update(hidden_size=97),
        lambda raw: raw["model"].update(vocab_size=321),
        lambda raw: raw["model"].update(vocab_size=319),
        lambda raw: raw["model"].update(layers=3),
        lambda raw: raw["model"].update(layers=1),
        lambda raw: raw["kv_cache"].update(length=256),
        lambda raw: raw["kv_cache"].update(length=150),
        lambda raw: raw["kv_cache"].update(heads=1),
        lambda raw: raw["kv_cache"].update(heads=4, head_dim=16),
        lambda raw: raw["kv_cache"].update(dtype="int8"),
        lambda raw: raw["vision"].update(tokens_per_tile=24),
        lambda raw: raw["vision"].update(vision_hidden_size=65),
    ],
)
def test_parts_of_another_shape_are_refused(
    bundles: dict[str, Path], tmp_path: Path, change: Callable[[Any], object]
) -> None:
    def alone(raw: Any) -> None:
        drop(raw, "onnx")
        change(raw)

    path = copied(bundles["fp32"], tmp_path, alone)
    with pytest.raises(BundleError, match=r"the manifest") as caught:
        load(path, engine="litert", threads=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "not a .tflite file that a bundle may have"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "not a .tflite file that a bundle may have"),
        (lambda path: path.write_bytes(path.read_bytes()[:6]), "not a .tflite file that a bundle may have"),
        (lambda path: path.write_bytes(b"PK\3\4" * 20), "not a .tflite file that a bundle may have"),
        (lambda path: path.write_bytes(b""), "may have: it is empty"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"decode\0", b"recode\0")), "has no such signature"),
    ],
)
def test_a_damaged_file_is_one_line(
    bundles: dict[str, Path], tmp_path: Path, damage: Callable[[Path], object], line: str
) -> None:
    path = copied(bundles["fp32"], tmp_path, lambda raw: None, damage)
    with pytest.raises(BundleError, match=line) as caught:
        load(path, engine="litert", threads=1)
    assert "\n" not in str(caught.value)


def test_a_missing_litert_is_one_line(bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    with pytest.raises(PocketVlmError, match=r"not installed: pip install 'pocketvlm\[litert\]'"):
        open_engine("litert", open_bundle(bundles["fp32"]), 1)


def test_the_engine_is_found_by_its_name(bundles: dict[str, Path]) -> None:
    engine = open_engine("litert", open_bundle(bundles["fp32"]), 1)
    assert isinstance(engine.new_cache(), LitertCache)
    with pytest.raises(BundleError, match="choose one of onnx, executorch, litert"):
        open_engine("neither", open_bundle(bundles["fp32"]), 1)


def test_the_command_line_names_the_back_ends(bundles: dict[str, Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pocketvlm", "inspect", str(bundles["int4-g32"]), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(json.loads(done.stdout)["engines"]) == {"onnx", "litert"}
