"""The ExecuTorch engine: beside the ONNX engine on the same weights, and what it must keep to as any engine."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketvlm.bundle.open import describe_files, open_bundle
from pocketvlm.errors import BundleError, PocketVlmError
from pocketvlm.export import export_bundle
from pocketvlm.machine.cache import private_cache
from pocketvlm.runtime import load
from pocketvlm.runtime.engines import executorch_library, open_engine
from pocketvlm.runtime.engines.executorch import BEYOND, ExecutorchCache, ExecutorchEngine
from pocketvlm.runtime.engines.onnx import OnnxEngine
from tests.runtime.test_onnx_engine import run
from tests.support import engine_contract as contract
from tests.support.bundles import KV_LENGTH
from tests.support.checkpoints import tiny_config, write_checkpoint
from tests.support.engine_contract import noise

#: Both engines at float precision, relative to the 2-norm.
TOLERANCE = 1e-5
#: With weights and activations of few bits: their kernels round activations differently.
TOLERANCE_OF_INTEGERS = 0.05


@pytest.fixture
def bundles(executorch_bundles: dict[str, Path]) -> dict[str, Path]:
    return executorch_bundles


@pytest.fixture
def engine(bundles: dict[str, Path]) -> ExecutorchEngine:
    return ExecutorchEngine(open_bundle(bundles["fp32"]), threads=1)


RESIDENT = """
import sys
from pocketvlm.runtime import load
from pocketvlm.runtime.memory import peak_rss_bytes
before = peak_rss_bytes()
with load(sys.argv[1], engine="executorch", threads=1):
    print(peak_rss_bytes() - before)
"""


def test_what_a_method_plans_for_its_longest_input_takes_no_memory_before(tmp_path: Path) -> None:
    """A mask of 8,192 by 8,192 tokens alone is 335 MB."""
    config = tiny_config("qwen2", vision=False, max_position_embeddings=8192)
    write_checkpoint(tmp_path / "checkpoint", config)
    bundle = export_bundle(
        tmp_path / "checkpoint", tmp_path / "bundle", recipe="fp32", backends=["executorch"], max_length=8192
    )
    arguments = [sys.executable, "-c", RESIDENT, str(bundle.location)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150e6


def test_a_cache_that_memory_does_not_suffice_for_is_one_line(
    engine: ExecutorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> np.ndarray:
        raise MemoryError

    monkeypatch.setattr("pocketvlm.runtime.engines.executorch.zeros_on_demand", full)
    with pytest.raises(PocketVlmError, match=r"^the KV cache: not enough memory$"):
        engine.new_cache()


@pytest.mark.parametrize(
    ("recipe", "most"),
    [("fp32", TOLERANCE), ("int4-g32", TOLERANCE_OF_INTEGERS), ("bluelm-v-3b", TOLERANCE_OF_INTEGERS)],
)
def test_both_engines_give_the_same_numbers(bundles: dict[str, Path], recipe: str, most: float) -> None:
    contract.check_engines_give_the_same_numbers(bundles[recipe], "executorch", most)


def test_both_engines_answer_the_same(bundles: dict[str, Path]) -> None:
    contract.check_engines_answer_the_same(bundles["fp32"], "executorch", "executorch")


def test_a_bundle_with_one_engine_is_opened_with_it(bundles: dict[str, Path], tmp_path: Path) -> None:
    path = copied(bundles["fp32"], tmp_path, lambda raw: drop(raw, "onnx"))
    with load(path, threads=1) as vlm:
        assert vlm.engine_description.startswith("executorch 1.")
    with load(bundles["fp32"], threads=1) as vlm:
        assert vlm.engine_description.startswith("onnxruntime 1.")


def test_an_archive_gives_what_the_directory_gives(bundles: dict[str, Path], tmp_path: Path) -> None:
    contract.check_an_archive_gives_what_the_directory_gives(bundles["fp32"], "executorch", tmp_path / "model.zip")


@pytest.mark.parametrize("recipe", ["fp32", "bluelm-v-3b"])
def test_chunks_give_exactly_what_one_step_gives(bundles: dict[str, Path], recipe: str) -> None:
    splits = ((150,), (1, 149), (64, 64, 21, 1), (128, 1, 21))
    engine = ExecutorchEngine(open_bundle(bundles[recipe]), threads=1)
    contract.check_chunks_give_exactly_what_one_step_gives(engine, 150, splits)


def test_a_position_set_back_forgets_what_follows(engine: ExecutorchEngine) -> None:
    contract.check_a_position_set_back_forgets_what_follows(engine, more=30)


def test_caches_do_not_know_of_each_other(engine: ExecutorchEngine) -> None:
    contract.check_caches_do_not_know_of_each_other(engine)


def test_a_cache_takes_memory_when_it_is_written(engine: ExecutorchEngine) -> None:
    cache = engine.new_cache()
    engine.step(noise(5), cache, 1)
    for array in cache._arrays.values():
        rows = array[: len(array) // (KV_LENGTH * 128) * KV_LENGTH * 128].view(np.float32).reshape(-1, KV_LENGTH, 32)
        assert (rows[:, :5] != 0).any(axis=2).all()
        assert (rows[:, 5:] == 0).all()


def test_a_cache_of_int8_takes_a_quarter_and_has_the_codes_of_onnx(bundles: dict[str, Path]) -> None:
    """Codes of the first layer: they hang on nothing but its own weights."""
    opened = open_bundle(bundles["bluelm-v-3b"])
    ours, theirs = ExecutorchEngine(opened, threads=1), OnnxEngine(opened, threads=1)
    states, cache, other = noise(40), ours.new_cache(), theirs.new_cache()
    ours.step(states, cache, 1)
    theirs.step(states, other, 1)
    floating = ExecutorchEngine(open_bundle(bundles["fp32"]), threads=1).new_cache()
    for at, part in enumerate(("key", "value")):
        whole = cache._arrays[f"kv_cache.0.{part}"][: KV_LENGTH * 64]
        assert len(floating._arrays[f"kv_cache.0.{part}"]) - BEYOND == 4 * whole.nbytes
        # [KV heads * length * head size] -> [KV heads, length, head size]
        codes = whole.view(np.int8).reshape(2, KV_LENGTH, 32)[:, :40].astype(int)
        wanted = other._buffers[at].numpy()[0, :, :40].astype(int)
        # Projections with activations of 8 bits: some codes are neighbours of ONNX Runtime's.
        assert np.abs(codes).max() > 60
        assert np.abs(codes - wanted).max() <= 2
        assert (codes == wanted).mean() > 0.8


def test_what_is_not_offered_is_refused(bundles: dict[str, Path], tmp_path: Path) -> None:
    contract.check_what_is_not_offered_is_refused(bundles["fp32"], "executorch", tmp_path / "cache")


def test_tiles_do_not_change_each_other(engine: ExecutorchEngine) -> None:
    contract.check_tiles_do_not_change_each_other(engine)


def test_freed_vision_is_loaded_again_when_it_is_needed(engine: ExecutorchEngine) -> None:
    contract.check_freed_vision_is_loaded_again(engine)


def test_threads_run_vision_and_text_at_once(engine: ExecutorchEngine) -> None:
    contract.check_threads_run_vision_and_text_at_once(engine, rounds=20)


def test_a_run_that_fails_is_one_line_and_leaves_the_engine_usable(
    engine: ExecutorchEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    contract.check_a_run_that_fails_leaves_the_engine_usable(
        engine, r"model\.pte: text_decoder: .*shapes failed", capfd
    )


ANSWER = """
import sys
from pocketvlm.runtime import GenerationConfig, load
with load(sys.argv[1], engine="executorch", threads=1) as vlm:
    vlm.stream("hi", config=GenerationConfig(max_new_tokens=2)).read()
print(*(name for name in ("torch", "onnxruntime", "executorch.exir", "torchao") if name in sys.modules), "done")
"""


def test_neither_torch_nor_onnxruntime_is_imported(bundles: dict[str, Path], tmp_path: Path) -> None:
    cache = str(private_cache("executorch").parents[1])  # with the compiled interface
    done = run(ANSWER, str(bundles["fp32"]), home=tmp_path, XDG_CACHE_HOME=cache)
    assert done.stdout.split() == ["done"]
    assert list(tmp_path.rglob("*")) == []


# --- What does not fit ------------------------------------------------------------------------------------------------


def copied(
    bundle: Path, tmp_path: Path, change: Callable[[Any], object], damage: Callable[[Path], object] | None = None
) -> Path:
    """A copy with a changed manifest; where ``damage`` changes the program, digests are made right."""
    path = tmp_path / "bundle"
    shutil.copytree(bundle, path)
    raw = json.loads((path / "manifest.json").read_text())
    change(raw)
    if damage is not None:
        damage(path / "model.pte")
        raw["files"] = {
            name: entry.model_dump(mode="json") for name, entry in describe_files(path, raw["files"]).items()
        }
    (path / "manifest.json").write_text(json.dumps(raw))
    return path


def drop(raw: Any, engine: str) -> None:
    for section in ("engines", "by_engine"):
        raw[section].pop(engine)


def parts(raw: Any) -> Any:
    return raw["engines"]["executorch"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda raw: raw["minimum_runtime"].update(executorch="99.1"), "needs executorch 99.1 or newer, "),
        (lambda raw: raw["minimum_runtime"].update(executorch="new"), "minimum_runtime.executorch is not a version"),
        (lambda raw: drop(raw, "executorch"), "has no ExecuTorch program"),
        (lambda raw: parts(raw).pop("image_tokens"), "no ExecuTorch part image_tokens"),
        (lambda raw: parts(raw)["text_decoder"].update(file="text.data"), "is not an ExecuTorch program"),
        (lambda raw: parts(raw)["forward"].update(data=["text.data"]), "is not an ExecuTorch program"),
        (lambda raw: raw.update(format_version=1, by_engine={}), "format 1 has no ExecuTorch parts"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    bundles: dict[str, Path], tmp_path: Path, change: Callable[[Any], object], line: str
) -> None:
    path = copied(bundles["fp32"], tmp_path, change)
    with pytest.raises(BundleError) as caught:
        load(path, engine="executorch", threads=1)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["model"].update(hidden_size=97),
        lambda raw: raw["model"].update(vocab_size=321),
        lambda raw: raw["model"].update(vocab_size=319),
        lambda raw: raw["model"].update(layers=3),
        lambda raw: raw["kv_cache"].update(length=256),
        lambda raw: raw["kv_cache"].update(length=100),
        lambda raw: raw["kv_cache"].update(heads=1),
        lambda raw: raw["kv_cache"].update(heads=4, head_dim=16),
        lambda raw: raw["kv_cache"].update(dtype="int8"),
        lambda raw: raw["vision"].update(tokens_per_tile=24),
        lambda raw: raw["vision"].update(vision_hidden_size=65),
    ],
)
def test_a_program_of_another_shape_is_refused(
    bundles: dict[str, Path], tmp_path: Path, change: Callable[[Any], object]
) -> None:
    path = copied(bundles["fp32"], tmp_path, change)
    with pytest.raises(BundleError, match=r"the manifest|beyond its cache") as caught:
        load(path, engine="executorch", threads=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "not a program that a bundle may have"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "not a program that a bundle may have"),
        (lambda path: path.write_bytes(path.read_bytes()[:6]), "not a program that a bundle may have"),
        (lambda path: path.write_bytes(b"PK\3\4" * 20), "not an ExecuTorch program"),
        (lambda path: path.write_bytes(b""), "not an ExecuTorch program"),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b"text_decoder\0", b"text_encoder\0")),
            "text_decoder",
        ),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"XnnpackBackend", b"XnnpackBakcend")), "model.pte"),
    ],
)
def test_a_damaged_program_is_one_line(
    bundles: dict[str, Path], tmp_path: Path, damage: Callable[[Path], object], line: str
) -> None:
    path = copied(bundles["fp32"], tmp_path, lambda raw: None, damage)
    with pytest.raises(BundleError, match=line) as caught:
        load(path, engine="executorch", threads=1)
    assert "\n" not in str(caught.value)


def test_a_missing_compiler_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = executorch_library.find_package()
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    with pytest.raises(PocketVlmError, match="needs a C\\+\\+ compiler once"):
        executorch_library._compiled(package, tmp_path)
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(PocketVlmError, match="cannot be compiled with"):
        executorch_library._compiled(package, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_package_may_be_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where root installed it: the interface is compiled once, into the user's cache, nothing beside its source.

    It is not loaded: ExecuTorch would give its messages to this second copy, and the engines of other tests none.
    """
    opened: list[bytes] = []
    monkeypatch.setattr(executorch_library, "_opened", lambda path: opened.append(path.read_bytes()))
    beside = sorted(executorch_library.SOURCE.parent.iterdir())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_library = executorch_library.load_library.__wrapped__
    load_library()
    cache = tmp_path / "pocketvlm" / "executorch"
    (compiled,) = cache.iterdir()
    assert cache.stat().st_mode & 0o777 == 0o700
    assert sorted(executorch_library.SOURCE.parent.iterdir()) == beside

    def compile_again(*_: Any) -> None:
        raise AssertionError("it is compiled again")

    monkeypatch.setattr(executorch_library, "_compile", compile_again)
    load_library()
    # Where there is no cache that is the user's alone it is compiled at each start, and goes again.
    cache.chmod(0o777)
    places = []

    def copied_there(compiler: str, package: executorch_library.Package, output: Path) -> None:
        places.append(output.parent)
        shutil.copy(compiled, output)

    monkeypatch.setattr(executorch_library, "_compile", copied_there)
    with pytest.warns(UserWarning, match="compiled at each start: .*not a directory of this user's alone"):
        load_library()
    assert [place.exists() for place in places] == [False]
    assert list(cache.iterdir()) == [compiled]
    assert opened == 3 * [compiled.read_bytes()]


def test_a_missing_executorch_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PocketVlmError, match=r"not installed: pip install 'pocketvlm\[executorch\]'"):
        executorch_library.find_package()


def test_the_engine_is_found_by_its_name(bundles: dict[str, Path]) -> None:
    engine = open_engine("executorch", open_bundle(bundles["fp32"]), 1)
    assert isinstance(engine.new_cache(), ExecutorchCache)
    with pytest.raises(BundleError, match="choose one of onnx, executorch"):
        open_engine("neither", open_bundle(bundles["fp32"]), 1)


def test_the_command_line_names_the_back_ends(bundles: dict[str, Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pocketvlm", "inspect", str(bundles["int4-g32"]), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(json.loads(done.stdout)["engines"]) == {"onnx", "executorch"}
