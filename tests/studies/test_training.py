"""Training: steps lower the loss, a resumed run equals an uninterrupted one, and damage leaves the old state whole."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pocketvlm.models.blocks.vision import VisionMlp
from pocketvlm.scenes import GRIDS
from studies.reader.data import make_batch
from studies.reader.fast import _replace, speed_up, vision_mlp
from studies.reader.learner import Learner, losses, save_heads, save_state
from studies.reader.publish import publish
from studies.reader.schedule import JOINT_RATE, LAST_RATE, Budget, batch_plan, learning_rate
from studies.reader.train import HEADS, STATE, Run, Settings, train

BUDGET = Budget(vision_steps=2, steps=6)


def _settings(output: Path, budget: Budget) -> Settings:
    return Settings(output, budget, batch_scale=0.05, precision="fp32", evaluate_seconds=1e9)


@pytest.mark.parametrize("vision_steps", [100, 0])
def test_two_steps_lower_the_loss(tmp_path: Path, vision_steps: int) -> None:
    run = Run(_settings(tmp_path, Budget(vision_steps=vision_steps, steps=200)))
    run.progress.step = 50
    batch = run.batch(50, 0.0)
    first = run.train_step(batch)[0].total.item()
    run.train_step(batch)
    with torch.no_grad():
        last = losses(run.learner, batch, joint=vision_steps == 0).total.item()
    assert last < first


def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    uninterrupted = Run(_settings(whole, BUDGET))
    train(uninterrupted)

    stopped = threading.Event()
    killed = Run(_settings(cut, BUDGET))
    train(killed, on_log=lambda row: stopped.set() if row["step"] == 3 else None, stopped=stopped)
    resumed = Run(_settings(cut, BUDGET))
    resumed.restore()
    assert resumed.progress.step == 3
    train(resumed)

    assert resumed.progress.step == uninterrupted.progress.step == 6
    for name, weight in uninterrupted.learner.state_dict().items():
        assert torch.equal(weight, resumed.learner.state_dict()[name]), name


def test_failed_save_leaves_the_old_state(tmp_path: Path) -> None:
    path = tmp_path / STATE
    save_state(path, {"step": 1})
    with pytest.raises(TypeError, match="generator"):
        save_state(path, {"step": (x for x in "a generator cannot be saved")})
    assert torch.load(path, weights_only=True) == {"step": 1}


def test_schedule() -> None:
    budget = Budget(vision_seconds=60, seconds=600)
    assert not budget.position(0, 59.0).joint
    assert budget.position(0, 60.0).joint
    assert budget.position(0, 600.0).share == 1.0
    assert not budget.spent(10**6, 599.0)
    assert budget.spent(0, 600.0)
    rates = [learning_rate(budget.position(1000, elapsed), 1000) for elapsed in range(60, 601)]
    assert max(rates) == pytest.approx(JOINT_RATE, rel=0.01)
    assert rates[-1] == pytest.approx(LAST_RATE)


def test_curriculum_widens() -> None:
    budget = Budget(vision_seconds=0, seconds=100)
    early = [batch_plan(budget.position(0, 1.0), random.Random(seed)) for seed in range(200)]
    late = [batch_plan(budget.position(0, 90.0), random.Random(seed)) for seed in range(200)]
    assert max(plan.grid[0] * plan.grid[1] for plan in early) == 2
    assert {plan.grid for plan in late} == set(GRIDS)
    assert {plan.several for plan in late} == {True, False}


def test_sped_up_layers_compute_the_same() -> None:
    """Also the gradients; float32, not compiled."""
    batch = make_batch("fast", (2, 1), 3, several=True)
    found = []
    for is_fast in (False, True):
        learner = Learner(1)
        if is_fast:
            speed_up(learner.reader, compiled=False)
            for module in learner.modules():
                if isinstance(module, VisionMlp):
                    _replace(module, vision_mlp)
        loss = losses(learner, batch, joint=True).total
        loss.backward()
        found.append((loss.detach(), [parameter.grad for parameter in learner.parameters()]))
    (loss, gradients), (same_loss, same_gradients) = found
    torch.testing.assert_close(same_loss, loss)
    for gradient, same in zip(gradients, same_gradients, strict=True):
        torch.testing.assert_close(same, gradient, atol=1e-5, rtol=1e-3)


def test_a_published_model_can_be_trained_further(tmp_path: Path) -> None:
    trained = Run(_settings(tmp_path, Budget(vision_steps=0, steps=3)))
    train(trained)
    publish(trained.learner.reader, tmp_path / "checkpoint")
    save_heads(trained.learner, tmp_path / HEADS)
    start = tmp_path / "checkpoint"
    continued = Run(replace(_settings(tmp_path, Budget(steps=100)), start=start))
    for name, weight in trained.learner.state_dict().items():
        torch.testing.assert_close(continued.learner.state_dict()[name], weight, atol=1e-3, rtol=1e-3)
    assert {continued.batch(step, 0.0).grid for step in range(40)} > {(1, 1), (2, 4), (4, 2)}
