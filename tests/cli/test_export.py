"""`pocketvlm export` as a user types it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pocketvlm.bundle.open import open_bundle
from pocketvlm.cli import main
from pocketvlm.export.store.finished import finished_so_far
from pocketvlm.export.store.replacing import replacing


def export(*arguments: str | Path) -> Result:
    """In this process, which has imported PyTorch and ExecuTorch already."""
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def test_export_says_what_it_will_take_and_what_came_out(
    repository: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """And leaves nothing of ONNX Runtime's telemetry in the home directory."""
    (tmp_path / "home").mkdir()
    output, checkpoint = tmp_path / "bundle", tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, checkpoint)
    (checkpoint / "generation_config.json").write_text(json.dumps({"do_sample": True, "temperature": 0.6, "top_k": 0}))
    command = [sys.executable, "-m", "pocketvlm", "export", str(checkpoint), "-o", str(output), "--recipe", "int4-g32"]
    environment = {"HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "\nnote: answers are greedy unless asked" in done.stdout
    assert done.stdout.rstrip().endswith("generation_config.json asks for --temperature 0.6 --top-k 0")
    assert "estimate: about" in done.stdout
    assert "MB on disk" in done.stdout
    assert "cosine" in done.stdout
    assert "KL" in done.stdout
    assert "quantize and write" in done.stderr, "plain lines where there is no terminal"
    assert "\x1b" not in done.stdout + done.stderr
    assert open_bundle(output, verify=True).manifest.recipe.name == "int4-g32"
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_several_back_ends_make_one_bundle_that_each_engine_runs(tmp_path: Path, tiny_checkpoint: Path) -> None:
    output = tmp_path / "bundle"
    done = export(
        tiny_checkpoint, "-o", output, "--recipe", "bluelm-v-3b", "--backend", "onnx",
        "--backend", "executorch",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert done.stderr.splitlines().count("check layer by layer ...") == 2
    manifest = open_bundle(output, verify=True).manifest
    assert set(manifest.engines) == {"onnx", "executorch"}
    assert manifest.kv_cache.dtype == "int8"
    for engine in ("onnx", "executorch"):
        command = ["run", str(output), "--engine", engine, "--prompt", "hi", "--max-new-tokens", "3", "--json"]
        answered = CliRunner().invoke(main, command)
        assert (answered.exit_code, answered.stderr) == (0, "")
        assert len(json.loads(answered.stdout)["token_ids"]) == 3
    refused = CliRunner().invoke(main, [*command, "--prepacked-cache", str(tmp_path)])
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: the executorch engine keeps no packed weights on disk")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("nowhere", "-o", "OUT"), 1, "no such directory"),
        (("CHECKPOINT", "-o", "OUT", "--recipe", "int5"), 1, "int4-g128"),
        (("CHECKPOINT", "-o", "OUT", "--backend", "abacus"), 1, "abacus"),
        (("CHECKPOINT", "-o", "OUT", "--max-length", "9999"), 1, "512 positions"),
        (("CHECKPOINT", "-o", "OUT", "--max-length", "9999", "--backend", "executorch"), 1, "512 positions"),
        (
            ("CHECKPOINT", "-o", "OUT", "--recipe", "int4-g128", "--calibration", "generated:1"),
            1,
            "looks at no calibration data",
        ),
        (("CHECKPOINT", "-o", "OUT", "--recipe", "gptq-g32", "--calibration", "DATA.txt"), 1, "DATA.txt"),
        (("CHECKPOINT", "-o", "OUT", "--recipe", "int4-g32", "--max-kl", "1e-9"), 1, "KL divergence"),
        (("CHECKPOINT", "-o", "OUT", "--split-mb", "0"), 2, "--split-mb"),
        (("CHECKPOINT", "-o", "OUT", "--max-kl", "nan"), 2, "nan"),
        (("CHECKPOINT", "-o", "OUT", "--max-kl", "0"), 2, "--max-kl"),
        (("CHECKPOINT", "-o", "OUT", "--min-accuracy", "1.5"), 2, "1.5"),
        (("CHECKPOINT",), 2, "--output"),
        (("CHECKPOINT", "-o", "OUT", "--max-length", "many"), 2, "many"),
    ],
)
def test_a_wrong_call_is_one_line(
    tmp_path: Path, tiny_checkpoint: Path, arguments: tuple[str, ...], status: int, words: str
) -> None:
    places = {"CHECKPOINT": str(tiny_checkpoint), "OUT": str(tmp_path / "bundle")}
    done = CliRunner().invoke(main, ["export", *(places.get(argument, argument) for argument in arguments)])
    assert isinstance(done.exception, SystemExit)
    assert done.exit_code == status
    assert words in done.stderr
    if status == 1:
        phases = ("reference pass ...", "quantize and write ...", "check layer by layer ...", "questions ...")
        assert [line for line in done.stderr.splitlines() if line not in phases] == [done.stderr.splitlines()[-1]]
        assert done.stderr.splitlines()[-1].startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(repository: Path) -> None:
    command = [sys.executable, "-m", "pocketvlm", "--debug", "export", "nowhere", "-o", "x"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert "Traceback" in done.stderr
    assert "CheckpointError" in done.stderr


def test_without_the_export_extra_the_error_names_it(repository: Path, tmp_path: Path) -> None:
    """A base install has no torch: say what to install."""
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import importlib.abc\n"
        "class Without(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'torch':\n"
        "            raise ModuleNotFoundError('No module named torch', name='torch')\n"
        "del sys.modules['torch']\n"
        "sys.meta_path.insert(0, Without())\n"
        "from pocketvlm.cli import main\n"
        f"main(['export', 'x', '-o', {str(tmp_path / 'b')!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'pocketvlm[export]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bundle_that_answers_too_little_never_takes_its_place(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Random weights answer nothing; the bundle that was there stays."""
    data = tmp_path / "sums.jsonl"
    data.write_text('{"question": "1 + 1?", "answer": "2"}\n{"question": "2 + 2?", "answer": "4"}\n', encoding="utf-8")
    output = tmp_path / "bundle"
    gate = ("--accuracy-data", data, "--min-accuracy")
    good = export(tiny_checkpoint, "-o", output, "--recipe", "int8", *gate, "0")
    assert good.exit_code == 0, good.stderr
    bad = export(tiny_checkpoint, "-o", output, "--recipe", "int4-g32", *gate, "0.5")
    assert bad.exit_code == 1
    assert "exact match 0.00% (0 of 2 right) is below --min-accuracy 0.5" in bad.stderr
    assert open_bundle(output, verify=True).manifest.recipe.name == "int8"
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "sums.jsonl"}


def test_calibration_and_gate_together(tmp_path: Path, tiny_checkpoint: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Two teas and a cake, please. " * 40, encoding="utf-8")
    done = export(
        tiny_checkpoint, "-o", tmp_path / "bundle", "--recipe", "gptq-g32", "--calibration", text,
        "--max-kl", "0.4",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    calibration = open_bundle(tmp_path / "bundle").manifest.recipe.calibration
    assert calibration is not None
    assert calibration.source == "text.txt"


@pytest.mark.parametrize("finished", [True, False])
def test_ctrl_c_says_what_is_left_and_how_to_go_on(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    def interrupted(source: object, output: Path, **options: object) -> None:
        with replacing(output), finished_so_far(output, "key") as pieces:
            if finished:
                pieces.keep("piece", {"codes": np.zeros(3)})
            raise KeyboardInterrupt

    monkeypatch.setattr("pocketvlm.export.export_bundle", interrupted)
    output = tmp_path / "bundle"
    arguments = ["export", str(repository / "examples/reader/checkpoint"), "-o", str(output)]
    found = CliRunner().invoke(main, arguments)
    left = tmp_path / ".bundle.finished-key"
    what = (
        f"what was finished is in {left}: the same command goes on from there, or delete it"
        if finished
        else "nothing else was left behind"
    )
    assert found.exit_code == 130
    assert " ".join(found.stderr.split()).endswith(what)
    assert f"interrupted: there is no {output}" in found.stderr
    assert list(tmp_path.iterdir()) == ([left] if finished else [])


def test_pictures_can_be_cut_by_the_papers_rule_into_fewer_tiles(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """``tiny_checkpoint`` has the paper's rule itself, so another one is asked for; and a bound."""
    done = export(
        tiny_checkpoint, "-o", tmp_path / "bundle", "--recipe", "int8", "--tiling", "internvl",
        "--max-tiles", "2",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "note: pictures are cut by internvl into at most 2 tiles; the model's own processor" in done.stdout
    vision = open_bundle(tmp_path / "bundle").manifest.vision
    assert vision is not None
    assert vision.strategy == "internvl"
    assert sorted(vision.candidates) == [(1, 1), (1, 2), (2, 1)]
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "bundle")])
    assert "the model's own: relaxed, at most" in " ".join(shown.output.split())
    refused = CliRunner().invoke(
        main, ["export", str(tiny_checkpoint), "-o", str(tmp_path / "other"), "--max-tokens-per-image", "1"]
    )
    assert refused.exit_code != 0
    assert "1 image tokens are too few" in refused.output
