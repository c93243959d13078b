"""Integer products beside NumPy's, in 64-bit integers; FP16 products beside their definition."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from pocketvlm.quant import GroupQuantizer, RoundToNearest
from pocketvlm.quant.integer import half_linear, integer_linear, quantize_activations
from tests.support.schemes import CHANNEL

SCHEMES: list[GroupQuantizer] = [
    RoundToNearest(bits, group, symmetric)
    for bits in (4, 8)
    for group in (32, 128, CHANNEL)
    for symmetric in (True, False)
]
NUMPY_TYPES = {8: np.int8, 16: np.int16}


@pytest.mark.parametrize("quantizer", SCHEMES, ids=repr)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("scale", [None, 2.5])
def test_products_are_those_of_integers(quantizer: GroupQuantizer, bits: Literal[8, 16], scale: float | None) -> None:
    generator = torch.Generator().manual_seed(bits)
    weight = quantizer.quantize(torch.randn(6, 200, generator=generator))
    inputs = torch.randn(2, 3, 200, generator=generator)
    top = 2 ** (bits - 1) - 1
    flat = inputs.reshape(6, 200).double().numpy()
    step = np.abs(flat).max(1, keepdims=True) / top if scale is None else np.full((6, 1), scale / top)
    whole = np.clip(np.rint(flat / step), -top, top).astype(NUMPY_TYPES[bits]).astype(np.int64)
    zero = 1 << (quantizer.bits - 1) if weight.zero_points is None else weight.zero_points[..., None].astype(np.int64)
    steps = (weight.codes.astype(np.int64) - zero).reshape(6, -1)[:, :200]
    if quantizer.group_size == CHANNEL:
        wanted = (whole @ steps.T).astype(np.float32) * weight.scales[:, 0]
    else:
        size = int(quantizer.group_size)
        parts = [slice(start, start + size) for start in range(0, 200, size)]
        sums = [(whole[:, part] @ steps[:, part].T).astype(np.float32) for part in parts]
        wanted = sum(part * weight.scales[:, index] for index, part in enumerate(sums))
    wanted = np.asarray(wanted * step.astype(np.float32)).reshape(2, 3, 6)
    found = integer_linear(inputs, weight, bits, scale).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    if quantizer.group_size == CHANNEL:
        assert np.array_equal(found, wanted), "one sum, one scale: bit for bit"


def test_activations_keep_to_their_range() -> None:
    inputs = torch.tensor([[0.0, 0.0], [3.0, -1.0], [100.0, -100.0]])
    whole, step = quantize_activations(inputs, 8, 3.0)
    assert whole.tolist() == [[0, 0], [127, -42], [127, -127]]
    rows, steps = quantize_activations(inputs, 8, None)
    assert rows.tolist() == [[0, 0], [127, -42], [127, -127]]
    assert step[1] == pytest.approx(3 / 127) == steps[1]


def test_more_bits_are_nearer() -> None:
    weight = RoundToNearest(4, 32).quantize(torch.randn(16, 256, generator=torch.Generator().manual_seed(1)))
    inputs = torch.randn(9, 256, generator=torch.Generator().manual_seed(2))
    exact = inputs @ torch.from_numpy(weight.dequantize()).T
    errors = [float((integer_linear(inputs, weight, bits) - exact).norm() / exact.norm()) for bits in (8, 16)]
    assert 1e-3 < errors[0] < 2e-2
    assert errors[1] < 1e-4


def test_half_products_are_rounded_three_times() -> None:
    weight = RoundToNearest(8, 128).quantize(torch.randn(8, 256, generator=torch.Generator().manual_seed(3)))
    inputs = torch.randn(5, 256, generator=torch.Generator().manual_seed(4))
    values = weight.dequantize().astype(np.float16).astype(np.float32)
    wanted = (inputs.numpy().astype(np.float16).astype(np.float32) @ values.T).astype(np.float16)
    found = half_linear(inputs, weight).numpy()
    assert np.array_equal(found, found.astype(np.float16))
    np.testing.assert_allclose(found, wanted.astype(np.float32), rtol=2e-3, atol=1e-3)
