"""``pocketvlm export --backend neuropilot`` and what it leaves, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pocketvlm.bundle import open_bundle
from pocketvlm.cli import main
from pocketvlm.cli.neuropilot import runner_command
from pocketvlm.models.checkpoint import open_checkpoint
from tests.checkpoints import tiny_config, write_checkpoint

RECIPE = """
[[tensors]]
match = ["vision_tower.embeddings.*", "*norm*", "*.bias"]
quantizer = "keep"
[[tensors]]
match = ["model.layers.*", "lm_head.weight"]
quantizer = "round-to-nearest"
bits = 4
group_size = "channel"
[[tensors]]
match = "*"
quantizer = "round-to-nearest"
bits = 8
group_size = "channel"
[calibration]
sequences = 1
"""


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    directory = tmp_path_factory.mktemp("npu")
    write_checkpoint(directory / "checkpoint", tiny_config("minicpm"))
    (directory / "npu.toml").write_text(RECIPE)
    done = invoke(
        "export", directory / "checkpoint", "-o", directory / "bundle", "--recipe", directory / "npu.toml",
        "--backend", "neuropilot", "--uncompiled", "--report", "--chunks", "2", "--prefill", "32",
        "--max-length", "256",
    )  # fmt: skip
    return directory, done


def test_an_uncompiled_program_says_that_it_is(made: tuple[Path, Result]) -> None:
    directory, done = made
    assert done.exit_code == 0, done.output
    assert "NOT compiled for mt6989: nothing of it runs on an NPU" in done.output
    raw: dict[str, Any] = json.loads((directory / "bundle" / "manifest.json").read_text())
    assert raw["neuropilot"]["compiled"] is False
    assert raw["neuropilot"]["programs"] == []
    assert raw["kv_cache"]["dtype"] == "int8"
    assert raw["prefill_chunk"] == 32
    assert not list((directory / "bundle").glob("*.pte"))


def test_the_report_says_that_it_is_predicted(made: tuple[Path, Result]) -> None:
    output = made[1].output
    assert "predicted partition (MediaTek's compiler was not asked)" in output
    assert "linear" in output
    assert "gelu none" in output
    assert "estimated on dimensity-9300" in output


def test_the_bundle_answers_and_is_inspected(made: tuple[Path, Result]) -> None:
    bundle = made[0] / "bundle"
    answer = invoke(
        "run",
        bundle,
        "--engine",
        "npu-emulation",
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
    assert "NOT compiled" in invoke("inspect", bundle).output
    assert json.loads(invoke("inspect", bundle, "--json").stdout)["neuropilot"]["platform"] == "mt6989"
    plain = invoke("run", bundle, "--prompt", "hi")
    assert plain.exit_code == 1
    assert "no ONNX graphs" in plain.output


def test_without_mediateks_tools_nothing_is_written(made: tuple[Path, Result], tmp_path: Path) -> None:
    done = invoke(
        "export",
        made[0] / "checkpoint",
        "-o",
        tmp_path / "bundle",
        "--recipe",
        "int4-channel",
        "--backend",
        "neuropilot",
    )
    assert done.exit_code == 1
    assert "mtk_converter, mtk_neuron from MediaTek's NeuroPilot developer portal" in done.output
    assert "--uncompiled" in done.output
    assert list(tmp_path.iterdir()) == []


def test_the_runners_command_line_has_the_models_sizes(made: tuple[Path, Result]) -> None:
    directory = made[0]
    text = open_checkpoint(directory / "checkpoint").config.text
    line = " ".join(runner_command(open_bundle(directory / "bundle").manifest, text))
    for option in ("--hidden_size=96", "--num_layer=2", "--head_dim=32", "--cache_size=256", "--cache_type=int8"):
        assert option in line
    assert "--prompt_token_batch_size=32" in line
