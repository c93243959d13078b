"""What an export is said to take: it grows with what is done, and other work on the machine is not in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pocketvlm.export import cost
from pocketvlm.export.read.calibration import DEFAULT_TEXT
from pocketvlm.models.checkpoint import Checkpoint, open_checkpoint
from pocketvlm.recipe import load_recipe
from tests.support.vision_families import WRITERS


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    monkeypatch.setattr(cost, "matmul_flops", lambda: 100e9)
    return open_checkpoint(tiny_checkpoint)


def test_seconds_follow_from_layers_sequences_and_back_ends(checkpoint: Checkpoint) -> None:
    layers = checkpoint.config.text.num_hidden_layers + checkpoint.config.vision.num_hidden_layers  # type: ignore[union-attr]
    once, twice = (
        cost.estimate(checkpoint, load_recipe("int8"), 512, backends).seconds
        for backends in (("onnx",), ("onnx", "executorch"))
    )
    assert once == pytest.approx(cost.START_SECONDS + layers * cost.LAYER_SECONDS, rel=0.05)
    assert twice - once == pytest.approx(layers * cost.LAYER_SECONDS, rel=0.05)
    few = load_recipe("gptq-g32")
    many = replace(few, calibration=replace(few.calibration, sequences=2 * few.calibration.sequences))
    differs = cost.estimate(checkpoint, many, 512).seconds - cost.estimate(checkpoint, few, 512).seconds
    steps = few.calibration.sequences * layers * cost.CALIBRATION_PASSES
    assert differs == pytest.approx(steps * cost.STEP_SECONDS, rel=0.05)  # of no more tokens
    assert cost.estimate(checkpoint, few, 512).seconds > once + cost.DATA_SECONDS + cost.PICTURES_SECONDS
    # of the text that ships fewer windows are looked at than a recipe may ask for
    of_text = [cost.estimate(checkpoint, recipe, 512, calibration=DEFAULT_TEXT) for recipe in (few, many)]
    assert of_text[0] == of_text[1]


def test_what_a_machine_reaches_is_measured_on_its_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the clock, which goes on while other work runs."""
    ticks = iter(range(100))
    monkeypatch.setattr("pocketvlm.export.cost.time.thread_time", lambda: next(ticks) * 0.01)
    assert cost.matmul_flops() == pytest.approx(2 * 256 * 2048 * 2048 / 0.01)


def test_a_picture_of_native_resolution_costs_what_the_whole_test_card_does(tmp_path: Path) -> None:
    """81 tokens, each of four patches."""
    checkpoint = open_checkpoint(WRITERS["qwen2_vl"](tmp_path).directory)
    names = ("vision_tower.encoder.layers.0.mlp.fc1.weight", "model.layers.0.mlp.up_proj.weight")
    assert [cost._sample_tokens(checkpoint, name) for name in names] == [4 * 81, cost.SAMPLE_TEXT_TOKENS + 81]
