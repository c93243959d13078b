"""A recipe on an NPU's arithmetic: the same modules, other products."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pocketvlm.export.read.calibration import CalibrationSet, read_calibration
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.reference.simulate import Simulated, scored_logits
from pocketvlm.export.tune.npu_arithmetic import ARITHMETICS, Arithmetic, input_ranges, simulated_logits
from pocketvlm.models.checkpoint import Checkpoint, open_checkpoint
from pocketvlm.recipe import CalibrationConfig, load_recipe


@pytest.fixture(scope="module")
def data(tiny_checkpoint: Path) -> tuple[Checkpoint, CalibrationSet]:
    checkpoint = open_checkpoint(tiny_checkpoint)
    recipe = replace(load_recipe("gptq-g32"), calibration=CalibrationConfig(sequences=2))
    return checkpoint, read_calibration("generated:npu", read_frontend(checkpoint), recipe, 512)


def test_ranges_are_of_every_linear_layer_of_the_decoder(data: tuple[Checkpoint, CalibrationSet]) -> None:
    checkpoint, calibration = data
    ranges = input_ranges(checkpoint, calibration.samples)
    assert len(ranges) == 2 * 7
    assert all(value > 0 for value in ranges.values())
    shared = {ranges[f"model.layers.0.self_attn.{part}_proj.weight"] for part in "qkv"}
    assert len(shared) == 1, "three layers with the same inputs"


@pytest.mark.parametrize("name", ["int4-channel", "int4-g32"])
def test_finer_activations_are_nearer_to_float(data: tuple[Checkpoint, CalibrationSet], name: str) -> None:
    checkpoint, calibration = data
    ranges = input_ranges(checkpoint, calibration.samples)
    simulated = Simulated(checkpoint, load_recipe(name), None)
    exact = scored_logits(checkpoint, simulated.read, calibration.samples)

    def error(arithmetic: Arithmetic) -> float:
        found = simulated_logits(checkpoint, simulated, calibration.samples, arithmetic, ranges)
        return float((found - exact).norm() / exact.norm())

    errors = {arithmetic.name: error(arithmetic) for arithmetic in ARITHMETICS}
    assert errors["float32"] == 0
    assert 0 < errors["A16 per tensor"] < 5e-3
    assert errors["A16 per tensor"] < errors["A16 per tensor, vision FP16"] < 1e-2
    assert errors["A16 per tensor"] < errors["A8 per row"] < errors["A8 per tensor"] < 0.3


def test_what_is_kept_is_computed_in_float(data: tuple[Checkpoint, CalibrationSet]) -> None:
    checkpoint, calibration = data
    simulated = Simulated(checkpoint, load_recipe("fp32"), None)
    found = simulated_logits(checkpoint, simulated, calibration.samples, ARITHMETICS[1], {})
    assert torch.equal(found, scored_logits(checkpoint, checkpoint.tensor, calibration.samples))
