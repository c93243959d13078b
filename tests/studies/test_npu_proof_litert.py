"""The proof by LiteRT's plugins and stock LiteRT-LM, on a tiny model in the place of large ones, and what goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pocketvlm.bundle.open import open_bundle
from pocketvlm.machine import qnn
from studies import neuron, npu_proof, npu_proof_litert


def test_the_proof_is_made_once_and_goes_on(
    tmp_path: Path,
    tiny_checkpoint: Path,
    litert_npu_reader: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(npu_proof, "WORK", tmp_path / "work")
    for name, value in {
        "SIZES": ("tiny",), "COMPILED_SIZES": (), "REAL_LENGTH": 256, "preset": lambda name: tiny_checkpoint,
        "QUICK": str(repository / "studies" / "npu_pass.toml"), "exported": lambda *_: open_bundle(litert_npu_reader),
    }.items():  # fmt: skip
        monkeypatch.setattr(npu_proof_litert, name, value)
    monkeypatch.setattr(qnn, "installed_version", lambda name=qnn.PACKAGE: None)
    monkeypatch.setattr(npu_proof_litert, "compiled", lambda *_: pytest.fail("it was compiled without a compiler"))
    if neuron.build(tmp_path) is None:
        pytest.skip("there is no C compiler: install cc")

    def prove() -> Result:
        options = ["--questions", "2", "--output", str(tmp_path / "proof.json")]
        done = CliRunner().invoke(npu_proof_litert.main, options, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done

    first = prove()
    report = json.loads((tmp_path / "proof.json").read_text())
    assert list(report["partitioned"]) == ["built-in", "tiny"]
    for found in report["partitioned"].values():
        assert [one["chip"] for one in found] == ["mt6989", "mt6991", "mt6993"]
        for one in found:
            assert [signature["partitions"] for signature in one["signatures"]] == [1, 1]
            assert [signature["left"] for signature in one["signatures"]] == [[], []]
    assert report["compiled"] == {}
    assert report["asked"]["beside"]["litert-npu-emulation"]["same_answers"] == 2
    assert "| built-in | recorder | mt6993 | 174 + 214 | 1 + 1 | 174 + 214 |" in first.stdout
    monkeypatch.setattr(npu_proof_litert, "partitioned", lambda *_: pytest.fail("it was given to a plugin again"))
    monkeypatch.setattr(npu_proof_litert, "stock_answers", lambda *_: pytest.fail("it was asked again"))
    assert prove().stdout == first.stdout
