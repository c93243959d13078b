"""`pocketvlm tune` as a user types it, and what it measures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from click.testing import CliRunner, Result

from pocketvlm.bundle.open import open_bundle
from pocketvlm.cli import main
from pocketvlm.export import export_bundle
from pocketvlm.export.read.calibration import read_calibration
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.reference.simulate import Simulated, divergence, scored_logits, sensitivities
from pocketvlm.export.tune.recipe import recipe_text, size_of
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.quant.tensors import pack
from pocketvlm.recipe import CalibrationConfig, Rule, load_recipe
from tests.support.checkpoints import tiny_config, write_checkpoint

TEXT = "Tea 2.40, cake 3.10, total 5.50. Thank you for your visit, and come again soon. " * 60


def run(command: str, *arguments: str | Path) -> Result:
    """In this process, which has imported PyTorch already."""
    return CliRunner().invoke(main, [command, *map(str, arguments)])


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tune") / "reads"
    write_checkpoint(path, tiny_config("qwen2", vision=False))
    (path.parent / "text.txt").write_text(TEXT, encoding="utf-8")
    return path


def test_it_writes_a_recipe_that_fits_and_exports(tmp_path: Path, reads: Path) -> None:
    text, recipe = reads.parent / "text.txt", tmp_path / "mine.toml"
    small, large = (size_of(open_checkpoint(reads), load_recipe(name)) for name in ("gptq-channel", "int8"))
    budget = (small + large) / 2e6
    done = run(
        "tune", reads, "--budget-mb", str(budget), "--calibration", text, "--sequences", "8", "--points", "3",
        "-o", recipe, "--plot", tmp_path / "tune.png", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    sizes = [point["bytes"] for point in report["points"]]
    assert sizes == sorted(sizes)
    assert report["picked"]["bytes"] <= budget * 1e6
    fitting = [point["kl_mean"] for point in report["points"] if point["bytes"] <= budget * 1e6]
    assert report["picked"]["kl_mean"] == min(fitting)
    largest = max(report["points"], key=lambda point: point["bytes"])
    assert largest["kl_mean"] == min(point["kl_mean"] for point in report["points"]), "all INT8 is the nearest"
    assert (tmp_path / "tune.png").read_bytes().startswith(b"\x89PNG")
    bundle = export_bundle(reads, tmp_path / "bundle", recipe=recipe, calibration=str(text))
    size = sum(entry.bytes for entry in bundle.manifest.files.values())
    assert size == pytest.approx(report["picked"]["bytes"], rel=0.1)
    assert open_bundle(tmp_path / "bundle", verify=True).manifest.recipe.name == report["picked"]["recipe"]


@pytest.mark.parametrize(
    ("budget", "more", "status", "words"),
    [
        ("0.01", (), 1, "no recipe fits 0.01 MB: the smallest takes"),
        ("nan", (), 2, "nan"),
        ("0", (), 2, "0"),
        ("9", ("--calibration", "missing.txt"), 1, "missing.txt"),
        ("9", ("-o", "/nowhere/recipe.toml"), 1, "nowhere"),
    ],
)
def test_a_wrong_call_is_one_line(
    tmp_path: Path, reads: Path, budget: str, more: tuple[str, ...], status: int, words: str
) -> None:
    text = ("--calibration", reads.parent / "text.txt") if "--calibration" not in more else ()
    output = () if "-o" in more else ("-o", tmp_path / "recipe.toml")
    done = run("tune", reads, "--budget-mb", budget, *text, *output, "--sequences", "4", "--points", "2", *more)
    assert done.exit_code == status
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_export_of_so_many_bits_spends_them(tmp_path: Path, reads: Path) -> None:
    text = reads.parent / "text.txt"
    command = (reads, "-o", tmp_path / "bundle", "--recipe", "gptq-g32", "--calibration", text, "--target-bits")
    done = run("export", *command, "6.5")
    assert done.exit_code == 0, done.stderr
    tensors = open_bundle(tmp_path / "bundle").manifest.recipe.tensors
    linear = [found for name, found in tensors.items() if name.endswith("_proj.weight") or name == "lm_head.weight"]
    assert {tensor.bits for tensor in linear} == {4, 8}
    bits = sum(tensor.bits_per_weight * tensor.weights for tensor in linear) / sum(tensor.weights for tensor in linear)
    assert 6.0 < bits <= 6.5
    done = run("export", *command, "2")
    assert done.exit_code == 1
    assert "2 bits a weight are too few" in done.stderr
    assert open_bundle(tmp_path / "bundle").manifest.recipe.tensors == tensors


def test_every_recipe_survives_its_text(tmp_path: Path) -> None:
    for name in ("fp32", "bluelm-v-3b", "gptq-channel", "int4-g32"):
        recipe = load_recipe(name)
        (tmp_path / "recipe.toml").write_text(recipe_text(recipe), encoding="utf-8")
        assert load_recipe(tmp_path / "recipe.toml") == recipe


def test_simulated_weights_are_the_bundles(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Code for code; and no divergence for fp32."""
    checkpoint = open_checkpoint(tiny_checkpoint)
    recipe = replace(load_recipe("gptq-g32"), calibration=CalibrationConfig(sequences=2))
    data = read_calibration("generated:simulated", read_frontend(checkpoint), recipe, 512)
    original = scored_logits(checkpoint, checkpoint.tensor, data.samples)
    fp32 = Simulated(checkpoint, load_recipe("fp32"), None)
    assert divergence(checkpoint, fp32.read, data.samples, original) < 1e-9
    simulated = Simulated(checkpoint, recipe, data)
    assert 0 < divergence(checkpoint, simulated.read, data.samples, original) < 0.5
    bundle = export_bundle(checkpoint, tmp_path / "bundle", recipe=recipe, calibration="generated:simulated")
    assert bundle.manifest.recipe.calibration is not None
    assert bundle.manifest.recipe.calibration.sha256 == data.sha256
    shipped = {
        value.name: value.const_value
        for value in ir.load(tmp_path / "bundle" / "text_decoder.onnx").graph.initializers.values()
    }
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"):
        found, codes = simulated.quantized(name), shipped[f"{name}.codes"]
        assert found is not None and codes is not None
        assert np.array_equal(pack(found).codes, codes.numpy())


@torch.no_grad()
def test_more_bits_are_felt_less(tiny_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint)
    recipe = replace(load_recipe("gptq-g32"), calibration=CalibrationConfig(sequences=2))
    samples = read_calibration("generated:felt", read_frontend(checkpoint), recipe, 512).samples
    rules = [Rule(("*",), "round-to-nearest", {"bits": bits, "group_size": 32}) for bits in (4, 8)]
    found = sensitivities(checkpoint, samples, [*rules, Rule(("*",), "keep")])
    assert len(found) == 2 * 7 + (not checkpoint.config.text.tie_word_embeddings)
    for name, (four, eight, kept) in found.items():
        assert four.error > 10 * eight.error > 0 == kept.error, name
        assert four.bytes < eight.bytes < kept.bytes
