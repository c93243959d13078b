"""``pocketvlm export --backend litert --compile``: what it says, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pocketvlm.bundle.open import open_bundle
from pocketvlm.cli import main
from tests.support.bundles import KV_LENGTH


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


def export(checkpoint: Path, bundle: Path, *options: str) -> Result:
    quick = ("--recipe", "int4-channel", "--max-length", str(KV_LENGTH), "--max-kl", "100")
    return invoke("export", checkpoint, "-o", bundle, *quick, *options)


def test_a_bundle_for_a_chip_has_what_runs_anywhere_too(tmp_path: Path, tiny_checkpoint: Path) -> None:
    bundle = tmp_path / "bundle"
    done = export(tiny_checkpoint, bundle, "--backend", "litert", "--compile", "sm8750", "--uncompiled")
    assert done.exit_code == 0, done.output
    assert "NPU program: all layers as one, steps of 128 and 1 tokens" in done.stdout
    assert "NOT compiled for sm8750: nothing of it runs on an NPU" in done.stdout
    assert "--engine litert-npu-emulation" in done.stdout
    manifest = open_bundle(bundle).manifest
    assert list(manifest.engines) == ["litert", "litert_npu"]
    assert manifest.preference == ()
    shown = json.loads(invoke("inspect", bundle, "--json").stdout)
    assert (shown["litert_npu"]["platform"], shown["litert_npu"]["programs"]) == ("sm8750", [])
    assert "sm8750, NOT compiled; one piece, steps of 128 and 1 tokens" in invoke("inspect", bundle).stdout
    packed = invoke("litertlm", bundle, "-o", tmp_path / "model.litertlm", "--npu")
    assert packed.exit_code == 0, packed.output
    content = (tmp_path / "model.litertlm").read_bytes()
    assert content[:8] == b"LITERTLM"
    assert b"prefill_cache_update_128" in content


@pytest.mark.parametrize(
    ("options", "status", "line"),
    [
        (("--backend", "onnx", "--compile", "mt6989"), 2, "--compile is for --backend litert"),
        (("--backend", "litert", "--compile", "mt6853"), 2, "'mt6853' is not one of 'mt6989', 'mt6991', 'mt6993'"),
        (("--backend", "litert", "--platform", "mt6989"), 2, "--platform mt6989 is of none of the back ends: litert"),
        (
            ("--backend", "litert", "--compile", "mt6991"), 1,
            "error: MediaTek's compiler is not installed: pip install ai-edge-litert-sdk-mediatek==2.3.0 brings it",
        ),
        (
            ("--backend", "litert", "--compile", "mt6991", "--uncompiled", "--chunks", "2"), 1,
            "2 chunks are not possible for LiteRT-LM",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    tmp_path: Path, tiny_checkpoint: Path, options: tuple[str, ...], status: int, line: str
) -> None:
    done = export(tiny_checkpoint, tmp_path / "bundle", *options)
    assert (done.exit_code, line in done.stderr) == (status, True), done.stderr
    assert list(tmp_path.iterdir()) == []
