"""Transformed checkpoints compute what the original does, and the study sees it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from pocketvlm.export.read.calibration import CalibrationSet, read_calibration
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.quant import RoundToNearest
from pocketvlm.recipe import load_recipe
from studies.reader import transforms, transforms_study


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> transforms.Held:
    checkpoint = open_checkpoint(tiny_checkpoint)
    weights = {name: checkpoint.tensor(name) for name in checkpoint.tensors}
    generator = torch.Generator().manual_seed(0)
    for name, weight in weights.items():
        if name.startswith("model.") and "norm" in name:
            weights[name] = 1 + 0.3 * torch.randn(weight.shape, generator=generator)
    return transforms.held(checkpoint, weights)


@pytest.fixture(scope="module")
def calibration(tiny_checkpoint: Path) -> CalibrationSet:
    checkpoint, recipe = open_checkpoint(tiny_checkpoint), load_recipe("gptq-g128")
    recipe = dataclasses.replace(recipe, calibration=dataclasses.replace(recipe.calibration, sequences=2))
    positions = checkpoint.config.text.max_position_embeddings
    return read_calibration("generated:calibration", read_frontend(checkpoint), recipe, positions)


@torch.no_grad()
def logits(model: transforms.Held, calibration: CalibrationSet) -> torch.Tensor:
    return torch.cat(list(transforms_study.logits_of(model.config, model.tensor, calibration.samples)))


@torch.no_grad()
def test_logits_stay_as_they_are(model: transforms.Held, calibration: CalibrationSet) -> None:
    wanted = logits(model, calibration)
    hidden = model.config.text.hidden_size
    folded = transforms.folded(model)
    changed = {
        "folded": folded,
        "turned": transforms.rotated(folded, transforms.orthogonal(hidden, 0)),
        "awq": transforms.awq(
            model, transforms.inputs_of(model, calibration.samples), RoundToNearest(4, 32), head=False
        )[0],
    }
    for name, other in changed.items():
        assert torch.allclose(logits(other, calibration), wanted, atol=1e-4 * float(wanted.abs().max())), name
    before, after = (held.weights["model.layers.0.mlp.up_proj.weight"] for held in (folded, changed["turned"]))
    assert not torch.allclose(before, after)


def test_turns_are_orthogonal() -> None:
    for turn in (transforms.orthogonal(48, 1), transforms.hadamard(64, 1)):
        assert torch.allclose(turn @ turn.T, torch.eye(len(turn), dtype=torch.float64), atol=1e-12)


def test_the_best_scale_is_no_worse_than_none() -> None:
    """One input channel is 50 times the others: scales that favour it lessen the output's error."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(500, 64, generator=generator)
    inputs[:, 3] *= 50
    weight, quantizer = torch.randn(32, 64, generator=generator), RoundToNearest(4, 32)
    read = transforms.Inputs(inputs.T @ inputs, inputs.abs().mean(0))
    alpha, scale = transforms.best_scale([weight], read, quantizer)
    assert alpha > 0

    def error(scale: torch.Tensor) -> float:
        stored = torch.from_numpy(quantizer.quantize(weight * scale).dequantize()) / scale
        return float((inputs @ (stored - weight).T).square().sum())

    assert error(scale) < 0.7 * error(torch.ones(64))


@torch.no_grad()
def test_a_line_for_each_transformation(
    model: transforms.Held, calibration: CalibrationSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transforms_study, "hadamard", transforms.orthogonal)  # 96 is no power of two
    lines = list(transforms_study.measure(model, calibration, calibration.samples, ["gptq-channel"]))
    names = ["as it is", "awq", "awq own", "folded", "rotated 0", "hadamard 0", "rotated 1", "hadamard 1"]
    assert [line["transformation"] for line in lines] == names
    assert lines[0]["difference"] is None
    first = lines[0]["kl"]["mean"]
    assert lines[3]["difference"]["mean"] == pytest.approx(lines[3]["kl"]["mean"] - first)
    assert all(0 < line["kl"]["mean"] < 1 and line["error_of_float_logits"] < 1e-4 for line in lines)
    assert "to folded" in transforms_study.row(lines[4])
