"""The proof by Qualcomm's tools, on a tiny model in the place of all three: the whole way, and what goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pocketvlm.machine.qnn import CHIPS
from studies import npu_proof
from studies.reader import study
from tests.support.qnn import need_wheel


def test_the_proof_is_made_once_and_goes_on(
    tmp_path: Path, tiny_checkpoint: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_wheel()
    recipe = str(repository / "studies" / "npu_pass.toml")
    for name, value in {
        "WORK": tmp_path / "work", "RECIPE": recipe, "QUICK": recipe, "KV_LENGTH": 512, "REAL_LENGTH": 512,
        "MAX_NEW_TOKENS": 3, "PROGRESS": 1, "REAL": "real", "LARGE": "large", "CHIPS": {"sm8650": CHIPS["sm8650"]},
        "preset": lambda name: tiny_checkpoint,
    }.items():  # fmt: skip
        monkeypatch.setattr(npu_proof, name, value)
    monkeypatch.setattr(study, "CHECKPOINT", tiny_checkpoint)

    def prove() -> Result:
        options = ["--questions", "2", "--output", str(tmp_path / "proof.json")]
        done = CliRunner().invoke(npu_proof.main, options, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done

    first = prove()
    report = json.loads((tmp_path / "proof.json").read_text())
    assert report["compiler"] == "onnxruntime-qnn 2.7.0"
    assert [one["name"] for one in report["compiled"]["built-in"]] == ["vision_encoder", "text_decoder_0"]
    assert [one["name"] for one in report["compiled"]["real"]] == [
        "vision_encoder", "text_decoder_0", "text_decoder_1",
    ]  # fmt: skip
    assert [one["operators"] for one in report["compiled"]["large"][0]["graphs"]] == [
        one["operators"] for one in report["compiled"]["real"][1]["graphs"]
    ]
    assert report["simulated"]["beside"]["npu-emulation"]["paired"]["questions"] == 2
    assert all(one["cosine"] > 0.999 for one in report["first_chunk"].values())
    assert "qnn-simulator: 2 of 2 questions" in first.stderr
    # An answer that was not written yet is asked again, and nothing else.
    kept = tmp_path / "work" / "answers-qnn-simulator.jsonl"
    kept.write_text(kept.read_text().splitlines(keepends=True)[0])
    monkeypatch.setattr(study, "export", lambda *_: pytest.fail("it was exported"))
    monkeypatch.setattr(npu_proof, "compile_binary", lambda *_: pytest.fail("it was compiled"))
    again = prove()
    assert again.stdout == first.stdout
    assert again.stderr.splitlines() == ["qnn-simulator: 2 of 2 questions"]


def test_without_the_wheel_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npu_proof, "problem", lambda: "Qualcomm's compiler is not installed")
    done = CliRunner().invoke(npu_proof.main, ["--questions", "1"])
    assert done.exit_code == 1
    assert done.output == "Error: Qualcomm's compiler is not installed\n"
