"""Scales that XNNPACK or an NPU can hold: chosen before codes are rounded, so nothing is rounded afterwards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.errors import RecipeError
from pocketvlm.quant import ClipSearch, Gptq, GroupQuantizer, RoundToNearest, quantizer_of
from pocketvlm.quant.groups import SCALES
from pocketvlm.recipe import Rule

QUANTIZERS: list[type[GroupQuantizer]] = [RoundToNearest, ClipSearch, Gptq]


def matrix(rows: int, columns: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((rows, columns), generator=generator) * torch.rand((rows, 1), generator=generator).exp2()


@pytest.mark.parametrize("kind", QUANTIZERS)
@given(rows=st.integers(1, 12), columns=st.integers(1, 150), seed=st.integers(0, 1 << 30))
def test_every_scale_is_one_that_is_asked_for(kind: type[GroupQuantizer], rows: int, columns: int, seed: int) -> None:
    weight = matrix(rows, columns, seed)
    inputs = matrix(64, columns, seed + 1)
    for bits, size, scales in (
        (4, 32, "bfloat16"), (4, "channel", "positive"), (8, "channel", "positive"), (4, 32, "multiples"),
    ):  # fmt: skip
        found = kind(bits=bits, group_size=size, scales=scales).quantize(weight, inputs.T @ inputs)  # type: ignore[arg-type]
        assert (found.scales > 0).all()
        if scales == "bfloat16":
            rounded = torch.from_numpy(found.scales).bfloat16().float().numpy()
            assert np.array_equal(rounded, found.scales)
        if scales == "multiples":
            multiples = found.scales / (found.scales.max(axis=1, keepdims=True) / 16)
            assert np.rint(multiples) == pytest.approx(multiples, rel=1e-6)
            assert 0.9 < multiples.min() <= multiples.max() == 16


@given(rows=st.integers(1, 12), columns=st.integers(1, 150), seed=st.integers(0, 1 << 30))
def test_codes_are_the_nearest_with_the_scales_as_they_are_stored(rows: int, columns: int, seed: int) -> None:
    weight = matrix(rows, columns, seed)
    found = RoundToNearest(bits=4, group_size=32, scales="bfloat16").quantize(weight)
    scales = np.repeat(found.scales, 32, axis=1)[:, :columns]
    steps = np.clip(np.rint(weight.numpy() / scales), -8, 7)
    assert np.array_equal(steps * scales, found.dequantize())


def test_the_largest_weight_of_either_sign_is_reached() -> None:
    weight = torch.tensor([[-3.0, 1.0], [1.0, 3.0]]).repeat(1, 16)
    found = RoundToNearest(bits=4, group_size=32, scales="positive").quantize(weight)
    assert found.scales[:, 0].tolist() == [3.0 / 8, np.float32(3.0) / np.float32(7)]
    assert np.abs(found.dequantize()).max(axis=1) == pytest.approx([3.0, 3.0], rel=1e-6)


def test_multiples_lose_less_than_the_nearest_ones_do() -> None:
    weight = matrix(64, 256, 3)
    quantizer = ClipSearch(bits=4, group_size=32, scales="multiples")
    groups = quantizer.grouped(weight)
    fitted = quantizer.fit(groups)
    unit = fitted.scale.amax(1, keepdim=True) / 16
    nearest = replace(fitted, scale=(fitted.scale / unit).round().clamp(1, 16) * unit)
    lost, alone = (grid.residual(groups).square().sum() for grid in (quantizer.grid(groups), nearest))
    assert fitted.residual(groups).square().sum() < lost < 0.995 * alone


def test_a_group_of_zeros_stays_zero() -> None:
    found = RoundToNearest(bits=4, group_size=32, scales="bfloat16").quantize(torch.zeros(2, 40))
    assert (found.dequantize() == 0).all()
    assert (found.scales == 1).all()


def test_other_scales_are_refused() -> None:
    with pytest.raises(RecipeError, match="scales is 'float16'; it is one of float32, positive, bfloat16, multiples"):
        quantizer_of(Rule(("*",), "round-to-nearest", {"bits": 4, "group_size": 32, "scales": "float16"}))
    assert SCALES[0] == RoundToNearest(bits=4, group_size=32).scales
