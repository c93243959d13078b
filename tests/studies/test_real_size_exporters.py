"""Exports beside peers: the checkpoint all of them read, what a run becomes in the report, and the lines."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.presets import QWEN2_05B, find_preset
from studies.real_size import exporters, study
from studies.real_size.exporters import Row, System, beside_exporters, describe, fit_lines, reason
from studies.real_size.study import Cost, Place

PRESET = find_preset("tiny")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    directory = tmp_path_factory.mktemp("beside") / "checkpoint"
    exporters.write_checkpoint(PRESET.config.text, 1, directory)
    return directory


def test_the_checkpoint_is_a_llama_of_the_shape_of_the_preset(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    wanted = dataclasses.replace(
        PRESET.config.text, model_type="llama", num_hidden_layers=1, scale_emb=1.0, scale_depth=0.0, dim_model_base=0
    )
    assert opened.config.text == wanted
    assert opened.config.vision is None
    embeddings = opened.tensor("model.embed_tokens.weight")
    assert str(embeddings.dtype) == "torch.bfloat16"
    assert 0.01 < float(embeddings.float().std()) < 0.03


def test_a_tied_head_and_the_rotation_follow_the_preset(tmp_path: Path) -> None:
    shape = dataclasses.replace(QWEN2_05B, vocab_size=300, hidden_size=112, head_dim=8, intermediate_size=64)
    exporters.write_checkpoint(shape, 1, tmp_path)
    opened = open_checkpoint(tmp_path)
    found = opened.config.text
    assert "lm_head.weight" not in opened.tensors
    assert (found.rope_theta, found.rms_norm_eps, found.tie_word_embeddings) == (1e6, 1e-6, True)
    assert (found.num_attention_heads, found.num_key_value_heads, found.head_dim) == (14, 2, 8)


def test_ours_is_measured_and_failures_are_a_line(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, ...]] = []
    measured = study.run_module

    def run_module(module: str, *arguments: str, **options: object) -> Cost:
        """Writing the checkpoint anew would import transformers once more."""
        if arguments[:1] == ("checkpoint",):
            written.append(arguments[:3])
            shutil.copytree(checkpoint, arguments[3])
            return Cost(0, 0, 0)
        return measured(module, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(study, "run_module", run_module)
    missing = System("missing", "no_such_module", ("{checkpoint}", "{target}"))
    elsewhere = System("elsewhere", "peer_of_the_test", ("{target}",), "some")
    short = System("out of memory", "killed_peer", (), "some")
    monkeypatch.setattr(exporters, "SYSTEMS", (exporters.SYSTEMS[0], missing, elsewhere, short))
    packages = tmp_path / "packages" / "some"
    packages.mkdir(parents=True)
    (packages / "peer_of_the_test.py").write_text("raise ValueError('no such operator')", encoding="utf-8")
    (packages / "killed_peer.py").write_text("import os\nprint('step 1', flush=True)\nos.kill(os.getpid(), 9)", "utf-8")
    ours, absent, failed, killed = beside_exporters(Place(tmp_path, "tiny"), [1], 1)
    assert written == [("checkpoint", "tiny", "1")]
    assert (ours["system"], ours["layers"], ours["error"]) == ("pocketvlm int4-g128", 1, None)
    assert ours["seconds"] > 0
    assert ours["peak_bytes"] > 100e6
    weights = 2 * 1024 * 128 + 2 * 128 * 128 + 2 * 64 * 128 + 3 * 128 * 256
    assert weights / 2 < ours["bytes"] < weights * 2
    assert (absent["seconds"], absent["peak_bytes"], absent["bytes"]) == (None, None, None)
    assert absent["error"].endswith("No module named no_such_module")
    assert failed["error"] == "ValueError: no such operator"
    assert killed["error"] == "ended by signal 9 after: step 1"
    assert os.listdir(tmp_path) == ["packages"]  # noqa: PTH208


def test_lines_are_fitted_and_extrapolated_where_two_exports_worked() -> None:
    rows = [
        dataclasses.asdict(row)
        for row in (
            Row("a", 1, 5.0, 3_000_000_000, 100),
            Row("b", 1, error="ImportError: no"),
            Row("c", 1, 1.0, 1, 1),
            Row("a", 2, 7.0, 4_000_000_000, 200),
            Row("b", 2, error="ImportError: no"),
            Row("c", 2, error="OSError: full"),
            Row("a", 4, 11.0, 6_000_000_000, 400),
        )
    ]
    (fit,) = fit_lines(rows, 40)
    assert fit["system"] == "a"
    assert fit["seconds"] == pytest.approx({"slope": 2, "intercept": 3, "r2": 1})
    assert fit["peak_bytes"]["slope"] == pytest.approx(1e9)
    assert fit["extrapolated"] == pytest.approx({"layers": 40, "seconds": 83, "peak_bytes": 42e9, "bytes": 4000})
    first, second, third = describe(rows, [fit])
    assert "3.0 s + 2.00 s a layer" in first
    assert "40 layers, extrapolated: 83 s (R2 1.000), 42.0 GB (R2 1.000)" in first
    assert second.split() == ["b", "ImportError:", "no"]
    assert third.split() == ["c", "OSError:", "full"]


def test_the_reason_is_the_last_exception_not_the_notes_after_it() -> None:
    notes = "Traceback:\n  File 'x'\nValueError: first\n\ntorch._dynamo.exc.UserError: keys\n\nNote\n"
    assert reason(notes) == "torch._dynamo.exc.UserError: keys"
    assert reason("a\nAssertionError\n") == "AssertionError"
    assert reason("working\nError: it does not fit\n") == "Error: it does not fit"
    assert reason("working\nKilled\n") == "Killed"
    assert reason("") == ""
