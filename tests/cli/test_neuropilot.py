"""``pocketvlm export --backend neuropilot`` and what it leaves, through the command line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pocketvlm.bundle.open import describe_files, open_bundle
from pocketvlm.cli import main
from pocketvlm.cli.commands.export.neuropilot import runner_command, runner_problems
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.runtime.engines.npu_emulation import NpuEmulation
from tests.support.checkpoints import tiny_config, write_checkpoint

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
    # 2 layers' keys and values of 256 tokens, by 8 bytes a value
    kv = open_bundle(made[0] / "bundle").manifest.kv_cache
    moved = 8 * 2 * 2 * 256 * kv.heads * kv.head_dim / 1e6
    assert f"a CPU that converts the INT8 cache: {moved:,.1f} MB more" in output
    planned = invoke("plan", made[0] / "bundle", "--json")
    assert planned.exit_code == 0, planned.output


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


def test_a_bundle_for_an_npu_alone_says_how_it_runs_here(made: tuple[Path, Result], tmp_path: Path) -> None:
    """Nobody gets an emulation who did not ask for one: its times would be taken for the NPU's."""
    bundle = made[0] / "bundle"
    for command in (("run", bundle, "--prompt", "hi"), ("eval", bundle, "generated:npu", "--questions", "1")):
        refused = invoke(*command)
        assert refused.exit_code == 1
        (line,) = refused.stderr.splitlines()
        assert "is for an NPU alone" in line
        assert "--engine npu-emulation" in line
        assert "not compiled for mt6989" in line
        assert "compiled parts run on the phone only" in line
    compiled = tmp_path / "compiled"
    shutil.copytree(bundle, compiled)
    (compiled / "npu_text_decoder_0.pte").write_bytes(b"    ET12")
    raw = json.loads((compiled / "manifest.json").read_text())
    raw["neuropilot"] |= {"compiled": True, "programs": ["npu_text_decoder_0.pte"]}
    files = describe_files(compiled, [*raw["files"], "npu_text_decoder_0.pte"])
    raw["files"] = {name: entry.model_dump(mode="json") for name, entry in files.items()}
    (compiled / "manifest.json").write_text(json.dumps(raw))
    refused = invoke("run", compiled, "--prompt", "hi")
    assert refused.exit_code == 1
    assert "compiled for mt6989, it runs on the phone only" in refused.stderr


def test_eval_asks_the_program(made: tuple[Path, Result]) -> None:
    options = ("--questions", "1", "--max-new-tokens", "1", "--threads", "1")
    asked = invoke("eval", made[0] / "bundle", "generated:npu", "--engine", "npu-emulation", *options, "--json")
    assert asked.exit_code == 0, asked.output
    assert "emulation of the mt6989 NPU's program" in json.loads(asked.stdout)["engine"]
    wrong = invoke("eval", made[0] / "bundle", "generated:npu", "--engine", "npu", *options)
    assert wrong.exit_code == 1
    assert "there is no engine 'npu'" in wrong.stderr


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
    assert "mtk_converter (8.13, for CPython 3.11, Linux x86-64)" in done.output
    assert "neuropilot.mediatek.com" in done.output
    assert "--uncompiled" in done.output
    assert list(tmp_path.iterdir()) == []


def test_the_runners_command_line_has_the_models_sizes(made: tuple[Path, Result]) -> None:
    directory = made[0]
    text = open_checkpoint(directory / "checkpoint").config.text
    line = " ".join(runner_command(open_bundle(directory / "bundle").manifest, text))
    for option in ("--hidden_size=96", "--num_layer=2", "--head_dim=32", "--cache_size=256", "--cache_type=int8"):
        assert option in line
    assert "--prompt_token_batch_size=32" in line
    several = open_bundle(directory / "bundle").manifest
    assert several.neuropilot is not None
    programs = tuple(f"npu_{name}.pte" for name in ("text_decoder_0", "text_decoder_1", "vision_encoder"))
    several = several.model_copy(update={"neuropilot": several.neuropilot.model_copy(update={"programs": programs})})
    paths = ",".join(f"/data/local/tmp/pocketvlm/{name}" for name in programs[:2])
    assert f"--model_package_paths={paths}" in runner_command(several, text)
    # Of ExecuTorch 1.5.0's mtk_llama_executor_runner.cpp: with paths of packages the two others have to be empty.
    assert "--model_package_paths=" in line
    assert "--prompt_model_paths" not in line
    assert "--gen_model_paths" not in line


def test_what_the_runner_would_do_wrong_is_said(made: tuple[Path, Result]) -> None:
    program = open_bundle(made[0] / "bundle").manifest.neuropilot
    assert program is not None
    fitting = program.model_copy(update={"mask_value": -100.0})
    assert runner_problems(fitting) == []
    (uneven,) = runner_problems(fitting.model_copy(update={"chunks": ((0, 2), (2, 3))}))
    assert "as many layers each" in uneven
    (hidden,) = runner_problems(fitting.model_copy(update={"mask_value": -140.0}))
    assert "hides with -100, and this model's scores ask for -140" in hidden


def test_the_pages_line_writes_the_runners_table(
    made: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float32 [vocabulary, hidden], as MediaTek's TokenEmbeddingLut reads it: what the graphs' table gives."""
    page = (Path(__file__).parents[2] / "docs" / "neuropilot.md").read_text()
    code = page.partition("python -c '")[2].partition("' CHECKPOINT embedding_fp32.bin")[0]
    checkpoint, table = made[0] / "checkpoint", tmp_path / "embedding_fp32.bin"
    monkeypatch.setattr(sys, "argv", ["-c", str(checkpoint), str(table)])
    exec("\n".join(line.strip() for line in code.splitlines()), {})  # noqa: S102 - our own page
    config = open_checkpoint(checkpoint).config.text
    rows = np.fromfile(table, np.float32).reshape(config.vocab_size, config.hidden_size)
    engine = NpuEmulation(open_bundle(made[0] / "bundle"), threads=1)
    wanted = engine.embed(np.arange(config.vocab_size))
    engine.close()
    step = np.abs(rows).max() / 127  # of the graphs' INT8 codes, at most
    assert np.abs(rows - wanted).max() <= step
    assert np.abs(rows).max() > 4 * step
