"""``pocketvlm export --backend qnn`` and what it leaves, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pocketvlm.cli import main
from pocketvlm.machine import qnn
from tests.cli.test_neuropilot import RECIPE
from tests.support.checkpoints import tiny_config, write_checkpoint


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("qnn")
    write_checkpoint(directory / "checkpoint", tiny_config("llama"))
    (directory / "npu.toml").write_text(RECIPE)
    return directory / "checkpoint"


def export(checkpoint: Path, bundle: Path, *options: str) -> Result:
    recipe = checkpoint.parent / "npu.toml"
    return invoke("export", checkpoint, "-o", bundle, "--recipe", recipe, "--max-length", "256", *options)


def test_a_program_for_two_makes_of_npu(checkpoint: Path, tmp_path: Path) -> None:
    """A platform is of the back end that knows it, the other options of both; each says how it is run here."""
    options = ("--backend", "neuropilot", "--backend", "qnn", "--uncompiled", "--platform", "sm8750", "--chunks", "2")
    bundle = tmp_path / "bundle"
    done = export(checkpoint, bundle, *options, "--prefill", "32")
    assert done.exit_code == 0, done.output
    assert "NOT compiled for mt6989" in done.output
    assert "NOT compiled for sm8750: nothing of it runs on an NPU" in done.output
    assert "--engine qnn-simulator" in done.output
    raw = json.loads((bundle / "manifest.json").read_text())
    assert (raw["format_version"], raw["qnn"]["platform"], len(raw["qnn"]["chunks"])) == (3, "sm8750", 2)
    assert raw["qnn"]["programs"] == []
    shown = invoke("inspect", bundle).output
    assert "sm8750, NOT compiled; 2 chunks, steps of 32 and 1 tokens" in shown
    assert json.loads(invoke("inspect", bundle, "--json").stdout)["qnn"]["platform"] == "sm8750"
    answer = invoke(
        "run",
        bundle,
        "--engine",
        "qnn-emulation",
        "--prompt",
        "hi",
        "--max-new-tokens",
        "2",
        "--json",
        "--threads",
        "1",
    )
    assert answer.exit_code == 0, answer.output
    assert len(json.loads(answer.stdout)["token_ids"]) == 2


def test_what_cannot_be_made_is_refused_and_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = export(checkpoint, tmp_path / "bundle", "--backend", "qnn", "--uncompiled", "--platform", "mt6989")
    assert wrong.exit_code == 2
    assert "--platform mt6989 is of none of the back ends: qnn" in wrong.output
    monkeypatch.setattr(qnn, "problem", lambda: "Qualcomm's compiler is not installed: pip install 'pocketvlm[qnn]'")
    missing = export(checkpoint, tmp_path / "bundle", "--backend", "qnn")
    assert missing.exit_code == 1
    (line,) = missing.stderr.splitlines()
    assert "pip install 'pocketvlm[qnn]'; --uncompiled writes the program without it" in line
    assert list(tmp_path.iterdir()) == []
