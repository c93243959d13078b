"""Squared errors of weights: a search is never worse than what it starts from, smaller groups are better."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.quant import ClipSearch, RoundToNearest
from studies.reader.weights_study import error, matrices, schemes


def test_errors_are_relative_and_ordered(tiny_checkpoint: Path) -> None:
    kinds = matrices(open_checkpoint(tiny_checkpoint))
    assert len(kinds["decoder"]) > 7
    student = kinds["Student's t"]
    nearest = {group: error(RoundToNearest(4, group), student) for group in (32, 64, 128)}
    assert nearest[32] < nearest[64] < nearest[128] < 1
    assert error(ClipSearch(4, 64), student) <= nearest[64]
    assert error(RoundToNearest(4, 64), [10 * weight for weight in student]) == pytest.approx(nearest[64], rel=1e-3)


def test_every_quantizer_without_data_in_every_group() -> None:
    found = {(type(one).__name__, one.group_size, one.symmetric) for one in schemes()}
    assert len(found) == 4 * 5
    assert torch.tensor([one.bits for one in schemes()]).eq(4).all()
