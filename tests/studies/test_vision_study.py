"""The vision part's INT8 schemes: what each of them rounds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.quant.integer import quantize_activations
from studies.reader.vision_study import SCHEMES, Scheme, Seen, measure, rounded, smoothing

VALUES = torch.randn(5, 200, generator=torch.Generator().manual_seed(0)) + 0.5
SEEN = Seen(VALUES.amin(0), VALUES.amax(0))


def test_rows_are_rounded_as_the_integer_arithmetic_rounds_them() -> None:
    whole, step = quantize_activations(VALUES, 8, None)
    found = rounded(VALUES, Scheme("one scale a row", "row"), SEEN)
    assert torch.allclose(found, (whole * step).float(), atol=1e-5)


@pytest.mark.parametrize("zero_point", [False, True])
def test_one_scale_is_that_of_the_range_seen(zero_point: bool) -> None:
    scheme = Scheme("one scale a row", "tensor", zero_point=zero_point)
    low, high = float(VALUES.min()), float(VALUES.max())
    step = (high - low) / 255 if zero_point else max(-low, high) / 127
    found = rounded(VALUES, scheme, SEEN)
    assert float((found - VALUES).abs().max()) <= step * 1.001
    assert len(found.unique()) <= 256
    beyond = rounded(torch.tensor([[100.0]]), scheme, SEEN)
    assert float(beyond) == pytest.approx(high if zero_point else max(-low, high), rel=0.02)


def test_smaller_blocks_are_nearer() -> None:
    spread = VALUES.clone()
    spread[:, :128] *= 100
    row, block = ((rounded(spread, Scheme("one scale a row", kind), SEEN) - spread).norm() for kind in ("row", "block"))
    assert block < row


def test_smoothing_takes_from_inputs_what_it_gives_to_weights() -> None:
    weight, largest = torch.randn(8, 4), torch.tensor([1.0, 100.0, 1.0, 1.0])
    scale = smoothing(largest, weight, 0.5)
    assert (largest / scale)[1] < 100
    assert torch.allclose(largest / scale, weight.abs().amax(0) * scale, rtol=1e-4)


def test_each_scheme_is_measured(tiny_checkpoint: Path) -> None:
    lines = list(measure(open_checkpoint(tiny_checkpoint), SCHEMES[:4], 2))
    errors = [line["image_tokens"]["relative_error"] for line in lines]
    assert all(0 < error < 0.2 for error in errors)
    assert errors[0] < errors[2]
    assert errors[1] < errors[3]
