from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketvlm.bundle.manifest import Manifest
from pocketvlm.bundle.open import describe_files, open_bundle
from pocketvlm.errors import BundleError, PocketVlmError
from pocketvlm.runtime import load
from pocketvlm.runtime.engines.onnx import OnnxEngine, clear_errors, interface
from pocketvlm.runtime.memory import physical_cores, physical_memory_bytes
from pocketvlm.runtime.versions import check_minimum
from tests.support.bundles import exported

REPOSITORY = Path(__file__).resolve().parents[2]

ANSWER = """
import sys
from pocketvlm.runtime import GenerationConfig, load
with load(sys.argv[1], threads=1) as vlm:
    vlm.stream("hi", config=GenerationConfig(max_new_tokens=2)).read()
import onnxruntime
print(onnxruntime.__version__, *(name for name in ("torch", "onnx", "transformers", "jinja2") if name in sys.modules))
"""


def run(code: str, *arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "ORT_DISABLE_TELEMETRY")}
    kept = {name: value for name, value in kept.items() if not name.startswith("XDG_")}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=REPOSITORY,
        env={**kept, "HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )


def test_no_telemetry_file_appears_and_no_torch_is_imported(tmp_path: Path) -> None:
    found = run(ANSWER, str(exported().path), home=tmp_path)
    version, *foreign = found.stdout.split()
    assert version.count(".") == 2
    assert foreign == []
    assert list(tmp_path.rglob("*")) == []


def test_the_switch_is_set_before_onnxruntime_is_imported(tmp_path: Path) -> None:
    code = """
import os, sys
def watch(event, told):
    if event == "import" and told[0] == "onnxruntime":
        print("imported with", os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.addaudithook(watch)
from pocketvlm.runtime import load
load(sys.argv[1], threads=1).close()
"""
    assert run(code, str(exported().path), home=tmp_path).stdout.split() == ["imported", "with", "1"]


def copied(tmp_path: Path, change: Callable[[Any], None], *, files: Callable[[Path], None] | None = None) -> Path:
    """A copy of an exported bundle with a changed manifest; ``files`` may change files, whose hashes are made right."""
    path = tmp_path / "bundle"
    shutil.copytree(exported().path, path)
    raw = json.loads((path / "manifest.json").read_text())
    change(raw)
    if files is not None:
        files(path)
        raw["files"] = {
            name: entry.model_dump(mode="json") for name, entry in describe_files(path, raw["files"]).items()
        }
    (path / "manifest.json").write_text(json.dumps(raw))
    return path


def part(raw: Any, name: str) -> Any:
    return raw["engines"]["onnx"][name]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda raw: raw["minimum_runtime"].update(onnxruntime="99.1"), "needs onnxruntime 99.1 or newer, "),
        (lambda raw: raw["minimum_runtime"].update(pocketvlm="99"), "needs pocketvlm 99 or newer, "),
        (lambda raw: raw["minimum_runtime"].update(pocketvlm="new"), "minimum_runtime.pocketvlm is not a version"),
        (lambda raw: raw["engines"].pop("onnx"), "has no ONNX graphs"),
        (lambda raw: raw["engines"]["onnx"].pop("vision_encoder"), "no ONNX part vision_encoder"),
        (lambda raw: raw["model"].update(layers=3), "no input 'past_key_values.2.key'"),
        (lambda raw: raw["model"].update(layers=1), "unknown input 'past_key_values.1.key'"),
        (lambda raw: raw["model"].update(hidden_size=97), "the manifest asks for float [None, None, 97]"),
        (lambda raw: raw["model"].update(vocab_size=321), "'logits' is tensor(float) [1, 'kept', 320]"),
        (lambda raw: raw["kv_cache"].update(length=256), "it may reach beyond its cache"),
        (lambda raw: raw["kv_cache"].update(length=191), "'past_key_values.0.key' is"),
        (lambda raw: raw["kv_cache"].update(dtype="int8"), "the manifest asks for int8"),
        (lambda raw: raw["kv_cache"].update(heads=1 << 40, head_dim=1 << 40), "this machine has"),
        (lambda raw: raw["vision"].update(tile_size=80), "'pixel_values' is"),
        (lambda raw: raw["vision"].update(tokens_per_tile=24), "'image_embeds' is"),
        (lambda raw: raw["vision"].update(std=[0, 1, 1]), "the manifest's vision is not valid: std"),
        (lambda raw: raw["vision"].update(candidates=[[99, 99]]), "no entry for every tile of a 99x99 grid"),
        (lambda raw: raw["image_layout"].update(tile=[]), "no entry for every tile"),
        (lambda raw: raw["chat"]["roles"].pop("user"), "lacks the user"),
        (lambda raw: (raw["chat"]["roles"].pop("system"), raw["chat"].update(default_system="x")), "no system role"),
        (
            lambda raw: part(raw, "text_decoder").update(file="text.data"),
            "text.data is not a graph that a bundle may have: field ",
        ),
        (lambda raw: part(raw, "text_decoder").update(file="token_embedding.onnx"), "has no input 'inputs_embeds'"),
        (lambda raw: raw.update(tokenizer="text.data"), "text.data"),
    ],
)
def test_a_manifest_that_does_not_fit_its_graphs_is_refused(
    tmp_path: Path, change: Callable[[Any], None], line: str
) -> None:
    path = copied(tmp_path, change)
    with pytest.raises(BundleError) as caught:
        load(path, threads=1)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_graph_whose_weights_lie_outside_is_refused(tmp_path: Path) -> None:
    import onnx

    def escape(path: Path) -> None:
        model = onnx.load(path / "text_decoder.onnx", load_external_data=False)
        (tmp_path / "outside.data").write_bytes((path / "text.data").read_bytes())
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = "../outside.data"
        (path / "text_decoder.onnx").write_bytes(model.SerializeToString())

    path = copied(tmp_path, lambda raw: None, files=escape)
    with pytest.raises(BundleError, match=r"it takes weights from '\.\./outside\.data', which the manifest"):
        load(path, threads=1)


def test_weights_that_are_cut_are_refused_even_with_right_hashes(tmp_path: Path) -> None:
    def cut(path: Path) -> None:
        (path / "text.data").write_bytes((path / "text.data").read_bytes()[:1000])

    path = copied(tmp_path, lambda raw: None, files=cut)
    with pytest.raises(BundleError, match="a tensor lies nowhere"):
        load(path, threads=1)


def test_a_graph_that_does_not_load_is_one_line_and_nothing_beside_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime, which does not see it, would print that it tries again, and that a shape is too large."""
    import onnx

    def change(path: Path, name: str, damage: Callable[[Any], object]) -> None:
        model = onnx.load(path / name, load_external_data=False)
        damage(model.graph)
        (path / name).write_bytes(model.SerializeToString())

    def huge(graph: Any) -> None:
        bias = next(tensor for tensor in graph.initializer if tensor.name.endswith("patch_embedding.bias"))
        bias.dims[0] = 1 << 62

    def no_text(path: Path) -> None:
        content = (path / "text_decoder.onnx").read_bytes()
        (path / "text_decoder.onnx").write_bytes(content.replace(b"logits", b"l\xff\xff\xffts"))

    for number, damage in enumerate((lambda path: change(path, "patch_embedding.onnx", huge), no_text)):
        path = copied(tmp_path / str(number), lambda raw: None, files=damage)
        with pytest.raises(BundleError, match="is not a graph that a bundle may have"):
            load(path, threads=1)
        assert capfd.readouterr() == ("", "")


def test_a_run_that_fails_is_one_line_and_leaves_the_engine_usable() -> None:
    engine = OnnxEngine(open_bundle(exported().path), threads=1)
    cache = engine.new_cache()
    good = np.zeros((3, 96), np.float32)
    engine.step(good, cache, 1)
    with pytest.raises(BundleError, match="text_decoder failed in ONNX Runtime") as caught:
        engine.step(np.zeros((3, 95), np.float32), cache, 1)
    assert "\n" not in str(caught.value)
    with pytest.raises(BundleError, match="token_embedding failed"):
        engine.embed(np.array([10**6]))
    assert cache.position == 3
    fresh = engine.new_cache()
    first, again = engine.step(np.ones((2, 96), np.float32), cache, 0), engine.step(good, fresh, 0)
    assert first.shape == (2, 320)
    assert again.shape == (3, 320)
    engine.close()
    with pytest.raises(PocketVlmError, match="not loaded"):
        engine.step(good, fresh, 1)


def test_freed_vision_is_loaded_again_when_it_is_needed() -> None:
    engine = OnnxEngine(open_bundle(exported().path), threads=1)
    pixels = np.random.default_rng(0).normal(size=(2, 3, 72, 72)).astype(np.float32)
    tokens = engine.encode(engine.patch_embed(pixels))
    engine.free_vision()
    assert set(engine._sessions) == {"token_embedding", "text_decoder"}
    assert np.array_equal(engine.encode(engine.patch_embed(pixels)), tokens)
    engine.close()
    with pytest.raises(PocketVlmError, match="not loaded"):
        engine.encode(engine.patch_embed(pixels))


def test_the_cache_is_one_buffer_that_is_written_in_place() -> None:
    engine = OnnxEngine(open_bundle(exported().path), threads=1)
    cache = engine.new_cache()
    addresses = [buffer.data_ptr() for buffer in cache._buffers]
    rng = np.random.default_rng(0)
    engine.step(rng.normal(size=(5, 96)).astype(np.float32), cache, 1)
    first = [buffer.numpy().copy() for buffer in cache._buffers]
    engine.step(rng.normal(size=(1, 96)).astype(np.float32), cache, 1)
    assert [buffer.data_ptr() for buffer in cache._buffers] == addresses
    for before, buffer in zip(first, cache._buffers, strict=True):
        after = buffer.numpy()
        assert (after[:, :, :5] == before[:, :, :5]).all()
        assert (before[:, :, 5:] == 0).all()
        assert (after[:, :, 5] != 0).any()
        assert (after[:, :, 6:] == 0).all()


def test_the_manifest_lists_the_inputs_and_outputs_that_the_engine_asks_for() -> None:
    manifest = open_bundle(exported("int8").path).manifest
    assert isinstance(manifest, Manifest)
    for name, described in manifest.engines["onnx"].items():
        inputs, outputs = interface(manifest, name)
        assert {spec.name for spec in described.inputs} == inputs.keys()
        assert {spec.name for spec in described.outputs} == outputs.keys()


@pytest.mark.parametrize(
    ("minimum", "installed", "new_enough"),
    [
        (None, "1.0", True),
        ("1.29.0", "1.29", True),
        ("1.29", "1.29.0", True),
        ("1.29", "1.30.1", True),
        ("1.29", "1.29.0.dev20260101", True),
        ("1.29.1", "1.29.0", False),
        ("1.9", "1.29", True),
        ("1.29", "1.9.9", False),
        ("2", "1.99", False),
    ],
)
def test_versions_are_compared_by_their_numbers(minimum: str | None, installed: str, new_enough: bool) -> None:
    if new_enough:
        check_minimum("library", minimum, installed)
        return
    with pytest.raises(BundleError, match=f"needs library {minimum} or newer, {installed} is installed"):
        check_minimum("library", minimum, installed)


@pytest.mark.parametrize("minimum", ["", "x", "1.", "1.2.3.4.5", "1" * 99, "-1", "1.29\n"])
def test_a_minimum_that_is_no_version_is_refused(minimum: str) -> None:
    with pytest.raises(BundleError, match="is not a version"):
        check_minimum("library", minimum, "1.0")


def test_the_machine_has_cores_and_memory() -> None:
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)
    memory = physical_memory_bytes()
    assert memory is not None
    assert memory > 1 << 28


def test_a_kernel_without_scratch_memory_is_a_lack_of_memory() -> None:
    with pytest.raises(PocketVlmError, match=r"^text_decoder: not enough memory$"), clear_errors("text_decoder"):
        raise RuntimeError(
            "Non-zero status code returned while running MatMulNBits node. Status Message: std::bad_alloc"
        )
