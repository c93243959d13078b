"""The program for Qualcomm's NPU on the host: its QDQ graphs on the CPU, beside the emulation of the same program."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketvlm.bundle.open import describe_files, open_bundle
from pocketvlm.errors import BundleError
from pocketvlm.machine import qnn
from pocketvlm.machine.module import module_command
from pocketvlm.runtime import GenerationConfig, load
from pocketvlm.runtime.engines.qnn import QnnEmulation
from tests.support.bundles import KV_LENGTH, exported, picture
from tests.support.qnn import need_wheel

PREFILL = 32


@functools.cache
def qnn_bundle() -> Path:
    """A tiny model for both makes of NPU, its weights and scales the same."""
    from pocketvlm.export import export_bundle
    from pocketvlm.recipe import CalibrationConfig, load_recipe

    source = exported().path
    checkpoint, path = source.parent / "qwen2-True", source.parent / "qnn"
    table = {"chunks": 2, "prefill_tokens": PREFILL, "compiled": False}
    recipe = replace(
        load_recipe("int4-channel"),
        calibration=CalibrationConfig(sequences=4),
        backends={"neuropilot": table, "qnn": table},
    )
    export_bundle(checkpoint, path, recipe=recipe, backends=["neuropilot", "qnn"], max_length=KV_LENGTH)
    return path


def near(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_answers_are_those_of_the_emulation() -> None:
    """Other roundings of softmax, norms and sigmoids, of the same program."""
    ids, images = np.random.default_rng(1).integers(0, 256, 100), [picture(150, 90)]
    with (
        load(qnn_bundle(), engine="qnn-emulation", threads=1) as qdq,
        load(qnn_bundle(), engine="npu-emulation", threads=1) as emulated,
    ):
        assert "emulation of the sm8650 NPU's program" in qdq.engine_description
        assert near(qdq.logits(ids), emulated.logits(ids)) < 0.01
        assert near(qdq.encode_images(images), emulated.encode_images(images)) < 0.01
        config = GenerationConfig(max_new_tokens=8)
        texts = [vlm.stream("What?", images=images, config=config).read() for vlm in (qdq, emulated)]
        assert texts[0] == texts[1]


def test_a_prompt_in_parts_is_the_whole_prompt() -> None:
    """To steps of INT16 that sums in float32 round the other way."""
    engine = QnnEmulation(open_bundle(qnn_bundle()), threads=1)
    rows = engine.embed(np.random.default_rng(0).integers(0, 256, 60))
    whole = engine.step(rows, engine.new_cache(), 0)
    cache = engine.new_cache()
    parts = np.concatenate([engine.step(rows[:41], cache, 0), engine.step(rows[41:], cache, 0)])
    assert near(parts, whole) < 1e-3
    engine.close()


def test_a_bundle_for_it_alone_says_how_it_runs_here(tmp_path: Path) -> None:
    path = copied(tmp_path, alone)
    with pytest.raises(BundleError, match=r"is for an NPU alone: --engine qnn-emulation .* not compiled for sm8650"):
        load(path, threads=1)


def copied(tmp_path: Path, change: Callable[[Any], object]) -> Path:
    path = tmp_path / "bundle"
    shutil.copytree(qnn_bundle(), path)
    raw = json.loads((path / "manifest.json").read_text())
    change(raw)
    raw["files"] = {name: entry.model_dump(mode="json") for name, entry in describe_files(path, raw["files"]).items()}
    (path / "manifest.json").write_text(json.dumps(raw))
    return path


def alone(raw: Any) -> None:
    del raw["neuropilot"], raw["engines"]["neuropilot"], raw["by_engine"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda raw: raw.pop("qnn"), "qnn and engines.qnn belong together"),
        (lambda raw: raw.update(format_version=2), "format 2 has no parts for an NPU of that kind"),
        (lambda raw: raw["qnn"].update(platform="mt6989"), "qnn.platform"),
        (lambda raw: raw["qnn"].update(chunks=[[0, 1]]), "qnn.chunks has 1 layers, the model 2"),
        (lambda raw: raw["qnn"].update(rope="nothing"), "qnn uses 'nothing', which 'files' does not list"),
        (lambda raw: raw["engines"]["qnn"].pop("text_decoder_1_1"), "no NPU part text_decoder_1_1"),
        (
            lambda raw: raw["engines"]["qnn"]["text_decoder_0_1"].update(file="qnn_text_decoder_0_32.onnx"),
            "not those of the manifest",
        ),
    ],
)
def test_a_bundle_that_does_not_fit_is_refused(tmp_path: Path, change: Callable[[Any], object], line: str) -> None:
    path = copied(tmp_path, change)
    with pytest.raises(BundleError) as caught:
        load(path, threads=1, engine="qnn-emulation")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


# --- The simulator ----------------------------------------------------------------------------------------------------


def test_the_simulated_hexagon_answers_as_the_cpu_does() -> None:
    """The same graphs, compiled by Qualcomm: a step of 16 bits here and there is another."""
    need_wheel()
    ids, images = np.random.default_rng(1).integers(0, 256, 50), [picture(150, 90)]
    config = GenerationConfig(max_new_tokens=8)
    with (
        load(qnn_bundle(), engine="qnn-simulator", threads=1) as simulated,
        load(qnn_bundle(), engine="qnn-emulation", threads=1) as emulated,
    ):
        assert "simulation of the sm8650's Hexagon (v75): onnxruntime-qnn 2.7.0" in simulated.engine_description
        assert 0 < near(simulated.logits(ids), emulated.logits(ids)) < 0.02
        assert 0 < near(simulated.encode_images(images), emulated.encode_images(images)) < 0.02
        texts = [vlm.stream("What?", images=images, config=config).read() for vlm in (simulated, emulated)]
        assert texts[0] == texts[1]


def test_the_built_in_model_answers_in_the_simulator_letter_for_letter(tmp_path: Path, repository: Path) -> None:
    need_wheel()
    from pocketvlm.export import export_bundle
    from pocketvlm.recipe import CalibrationConfig, load_recipe
    from pocketvlm.scenes import held_out

    table = {"chunks": 1, "compiled": False}
    recipe = replace(
        load_recipe("int4-channel"),
        calibration=CalibrationConfig(sequences=4),
        backends={"neuropilot": table, "qnn": table},
    )
    checkpoint, backends = repository / "examples" / "reader" / "checkpoint", ["neuropilot", "qnn"]
    export_bundle(checkpoint, tmp_path / "reader", recipe=recipe, backends=backends, max_length=512)
    (asked,) = held_out("npu", 1)
    answers = []
    for engine in ("qnn-simulator", "npu-emulation"):
        with load(tmp_path / "reader", engine=engine, threads=1) as vlm:
            answers.append(vlm.stream(asked.question, [asked.image], GenerationConfig(max_new_tokens=48)).read())
    assert answers[0] == answers[1] == asked.answer


def test_what_a_command_prints_is_on_stdout_alone(tmp_path: Path) -> None:
    """Qualcomm's libraries print there too."""
    need_wheel()
    said = ("--engine", "qnn-simulator", "--prompt", "hi", "--max-new-tokens", "2", "--json", "--threads", "1")
    command, environment = module_command("pocketvlm", "run", str(qnn_bundle()), *said)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["token_ids"]) == 2


def test_an_operator_that_the_compiler_leaves_to_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    need_wheel()
    monkeypatch.setattr(qnn, "BORDER", frozenset({"QuantizeLinear"}))
    with pytest.raises(BundleError, match=r"^vision_encoder_4: .* leaves to the CPU|^text_decoder.* leaves to the CPU"):
        load(qnn_bundle(), threads=1, engine="qnn-simulator")


# --- The wheel --------------------------------------------------------------------------------------------------------


def test_what_the_wheel_lacks_is_said_in_one_line() -> None:
    here = "Linux x86_64"
    assert qnn.problem(lambda: "2.7.0", here) is None
    missing = qnn.problem(lambda: None, here)
    assert missing is not None
    assert "pip install 'pocketvlm[qnn]'" in missing
    assert "onnxruntime-qnn 2.6.1 is installed, and 2.7.0 is needed" in (qnn.problem(lambda: "2.6.1", here) or "")
    assert "this is Darwin arm64" in (qnn.problem(lambda: "2.7.0", "Darwin arm64") or "")


def test_without_the_wheel_the_simulator_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qnn, "problem", lambda: "Qualcomm's compiler is not installed: pip install")
    with pytest.raises(BundleError, match=r"^--engine qnn-simulator: Qualcomm's compiler is not installed"):
        load(qnn_bundle(), threads=1, engine="qnn-simulator")
