"""The study of the NPU's program, on a tiny model and two questions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from studies.reader import npu_program_study, study

RECIPE = (Path(__file__).parents[2] / "studies" / "npu_pass.toml").read_text()


def test_both_engines_are_asked_the_same(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "CHECKPOINT", tiny_checkpoint)
    monkeypatch.setattr(npu_program_study, "PROGRESS", 1)
    monkeypatch.setattr(npu_program_study, "KV_LENGTH", "512")
    recipe, output = tmp_path / "quick.toml", tmp_path / "study.json"
    recipe.write_text(RECIPE)
    options = ["--questions", "2", "--max-new-tokens", "3", "--recipe", str(recipe), "--output", str(output)]
    done = CliRunner().invoke(npu_program_study.main, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert f"{recipe}, npu-emulation: 2 of 2 questions" in done.stderr
    report = json.loads(output.read_text())
    assert "--questions 2" in report["command"]
    result = report["recipes"][str(recipe)]
    assert 0 <= result["same_answers"] <= result["questions"] == 2
    onnx, npu = (result["engines"][name] for name in ("onnx", "npu-emulation"))
    assert onnx["engine"].startswith("onnxruntime")
    assert "emulation of the mt6989 NPU's program (not compiled for it)" in npu["engine"]
    assert onnx["fidelity"] != npu["fidelity"], "each engine's own scores"
    rows = [line for line in done.stdout.splitlines() if line.startswith("| `")]
    assert [row.split(" | ")[1] for row in rows] == ["onnx", "npu-emulation"]
    assert f"{npu['fidelity']['text']['kl_mean']:.4f}" in rows[1]
