"""What every quantizer keeps to: exact packing, exact padding and zeros, honest sizes, clear refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pocketvlm.errors import RecipeError
from pocketvlm.quant import QUANTIZERS, ClipSearch, GroupQuantizer, Hqq, Keep, RoundToNearest, groups, quantizer_of
from pocketvlm.quant.tensors import pack, unpack
from pocketvlm.recipe import Rule
from tests.support.schemes import CHANNEL, each_scheme

ROUNDING = [
    RoundToNearest(bits, group, symmetric)
    for bits in (4, 8)
    for group in (32, 128, CHANNEL)
    for symmetric in (True, False)
]


@each_scheme
@settings(max_examples=25)
@given(data=st.data())
def test_packing_is_exact(quantizer: GroupQuantizer, data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 300))
    values = hnp.arrays(np.float32, (rows, columns), elements=st.floats(-1e4, 1e4, width=32))
    tensor = quantizer.quantize(torch.from_numpy(data.draw(values)))
    again = unpack(pack(tensor), bits=quantizer.bits, columns=columns)
    assert np.array_equal(again.codes, tensor.codes)
    assert (tensor.zero_points is None) == quantizer.symmetric
    if tensor.zero_points is not None:
        assert again.zero_points is not None
        assert np.array_equal(again.zero_points, tensor.zero_points)
    assert np.array_equal(again.dequantize(), tensor.dequantize())
    assert tensor.dequantize().shape == (rows, columns)
    padding = np.delete(tensor.codes.reshape(rows, -1), np.s_[:columns], axis=1)
    zero: Any = 1 << (quantizer.bits - 1)
    if tensor.zero_points is not None:
        zero = np.repeat(tensor.zero_points[:, -1:], padding.shape[1], 1)
    assert np.array_equal(padding, np.broadcast_to(zero, padding.shape)), "padding is not worth zero"


@pytest.mark.parametrize("quantizer", ROUNDING, ids=repr)
@given(seed=st.integers(0, 1 << 30), spread=st.sampled_from([1e-20, 1e-3, 1.0, 1e10]))
def test_no_weight_is_off_by_more_than_its_step(quantizer: RoundToNearest, seed: int, spread: float) -> None:
    """Half a step for each weight inside the range; a whole one at the end that symmetric codes do not reach."""
    weight = torch.randn(3, 200, generator=torch.Generator().manual_seed(seed)) * spread
    tensor = quantizer.quantize(weight)
    steps = np.repeat(np.abs(tensor.scales), tensor.group_size, axis=1)[:, :200]
    error = np.abs(tensor.dequantize() - weight.numpy())
    assert (error <= steps * (1.0 if quantizer.symmetric else 0.5) * (1 + 1e-4)).all()
    largest = np.abs(weight.numpy()).max()
    assert error.max() < largest * (0.2 if quantizer.bits == 4 else 0.01)


@each_scheme
@pytest.mark.parametrize("value", [0.0, 0.37, -5.0, 1e-41])
def test_constant_groups_are_kept(quantizer: GroupQuantizer, value: float) -> None:
    tensor = quantizer.quantize(torch.full((2, 150), value))
    assert np.isfinite(tensor.scales).all()
    assert np.allclose(tensor.dequantize(), value, rtol=1e-6, atol=1e-40)


@each_scheme
def test_zeros_stay_zeros(quantizer: GroupQuantizer) -> None:
    """Groups of zeros beside others, and single zeros; nothing else is needed for pruned weights to stay pruned."""
    weight = torch.randn(6, 300, generator=torch.Generator().manual_seed(3))
    weight[1], weight[2, :256], weight[3, ::3] = 0, 0, 0
    assert not quantizer.quantize(weight).dequantize()[weight.numpy() == 0].any()


@each_scheme
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_gives_what_its_float32_gives(quantizer: GroupQuantizer, dtype: torch.dtype) -> None:
    weight = torch.randn(5, 200, generator=torch.Generator().manual_seed(1)).to(dtype)
    found, wanted = quantizer.quantize(weight), quantizer.quantize(weight.float())
    assert np.array_equal(found.codes, wanted.codes)
    assert np.array_equal(found.dequantize(), wanted.dequantize())


@each_scheme
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e300])
def test_a_value_that_is_not_finite_is_refused(quantizer: GroupQuantizer, value: float) -> None:
    """Wherever it stands; and one that float32 cannot hold."""
    for column in (0, 77, 199):
        weight = torch.randn(4, 200, dtype=torch.float64)
        weight[2, column] = value
        with pytest.raises(RecipeError, match="cannot be quantized"):
            quantizer.quantize(weight)


@each_scheme
@pytest.mark.parametrize("shape", [(), (64,), (4, 64, 2), (0, 64), (64, 0)])
def test_only_matrices_are_quantized(quantizer: GroupQuantizer, shape: tuple[int, ...]) -> None:
    with pytest.raises(RecipeError, match="matrices"):
        quantizer.quantize(torch.ones(shape))
    with pytest.raises(RecipeError, match="matrices"):
        quantizer.stored_bytes(shape)


@each_scheme
def test_rows_do_not_depend_on_what_is_quantized_with_them(
    quantizer: GroupQuantizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large matrix is worked on some rows at a time: here one, two or seven, all of it otherwise."""
    weight = torch.randn(48, 320, generator=torch.Generator().manual_seed(2))
    whole = quantizer.quantize(weight)
    for rows in (1, 2, 7):
        monkeypatch.setattr(groups, "WEIGHTS_AT_A_TIME", rows * 320)
        parts = quantizer.quantize(weight)
        assert np.array_equal(parts.codes, whole.codes)
        assert np.array_equal(parts.scales, whole.scales)


@each_scheme
@pytest.mark.parametrize("exponent", [-90, -7, 60])
def test_a_power_of_two_scales_the_scales_only(quantizer: GroupQuantizer, exponent: int) -> None:
    """No square overflows or vanishes, and nothing is measured in the weights' own unit."""
    weight = torch.randn(4, 200, generator=torch.Generator().manual_seed(5))
    found, wanted = quantizer.quantize(weight * 2.0**exponent), quantizer.quantize(weight)
    assert np.array_equal(found.codes, wanted.codes)
    assert np.array_equal(found.scales, wanted.scales * np.float32(2.0**exponent))


def test_scaling_changes_scales_only() -> None:
    tensor = RoundToNearest(4, 32).quantize(torch.randn(4, 70))
    scaled = tensor.scaled(0.25)
    assert np.array_equal(scaled.codes, tensor.codes)
    assert np.array_equal(scaled.dequantize(), tensor.dequantize() * 0.25)


def test_bits_per_weight_counts_scales_and_padding() -> None:
    assert RoundToNearest(4, 128).quantize(torch.randn(8, 256)).bits_per_weight == 4.25
    assert RoundToNearest(4, 32).quantize(torch.randn(8, 256)).bits_per_weight == 5.0
    assert RoundToNearest(8, 128).quantize(torch.randn(8, 256)).bits_per_weight == 8.25
    assert RoundToNearest(4, 32, symmetric=False).quantize(torch.randn(8, 256)).bits_per_weight == 5.125
    assert RoundToNearest(4, CHANNEL).quantize(torch.randn(8, 2304)).bits_per_weight == 4.125


@each_scheme
@pytest.mark.parametrize("columns", [32, 100, 129, 256])
def test_stored_bytes_are_the_bytes_packed(quantizer: GroupQuantizer, columns: int) -> None:
    tensor = quantizer.quantize(torch.randn(7, columns))
    packed = pack(tensor)
    size = sum(array.nbytes for array in (packed.codes, packed.scales, packed.zero_points) if array is not None)
    assert quantizer.stored_bytes((7, columns)) == size == round(tensor.bits_per_weight * 7 * columns / 8)


@pytest.mark.parametrize(("columns", "block"), [(2304, 256), (5760, 128), (192, 64), (4304, 256), (96, 32), (7, 16)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_channel_is_stored_in_blocks_that_repeat_its_scale(columns: int, block: int, symmetric: bool) -> None:
    weight = torch.randn(3, columns, generator=torch.Generator().manual_seed(columns))
    tensor = RoundToNearest(4, CHANNEL, symmetric).quantize(weight)
    assert tensor.per_channel
    assert tensor.group_size == block
    assert (tensor.scales == tensor.scales[:, :1]).all()
    low, high = weight.amin(1).clamp(max=0), weight.amax(1).clamp(min=0)
    wanted = weight.abs().amax(1) / 8 if symmetric else (high - low) / 15
    assert np.allclose(np.abs(tensor.scales[:, 0]), wanted.numpy(), rtol=1e-6)
    if tensor.zero_points is not None:
        assert (tensor.zero_points == tensor.zero_points[:, :1]).all()


def test_the_rule_names_the_quantizer() -> None:
    options = {"bits": 4, "group_size": 32}
    assert quantizer_of(Rule(("*",), "round-to-nearest", options)) == RoundToNearest(4, 32)
    assert quantizer_of(Rule(("*",), "clip-search", {**options, "symmetric": False})) == ClipSearch(4, 32, False)
    assert quantizer_of(Rule(("*",), "hqq", {**options, "group_size": "channel"})) == Hqq(4, "channel")
    assert quantizer_of(Rule(("*",), "keep")) == Keep()
    assert set(QUANTIZERS) == {"keep", "round-to-nearest", "clip-search", "hqq", "gptq"}


@pytest.mark.parametrize(
    ("quantizer", "options", "words"),
    [
        ("magic", {}, "magic"),
        ("round-to-nearest", {"bits": 3, "group_size": 32}, "round-to-nearest: bits"),
        ("round-to-nearest", {"bits": 4.0, "group_size": 32}, "bits"),
        ("round-to-nearest", {"bits": 4, "group_size": 48}, "group_size"),
        ("round-to-nearest", {"bits": 4, "group_size": "row"}, "group_size"),
        ("round-to-nearest", {"bits": 4, "group_size": [32]}, "group_size"),
        ("round-to-nearest", {"bits": 4}, "group_size"),
        ("round-to-nearest", {"bits": 4, "group_size": 32, "zero": 1}, "zero"),
        ("round-to-nearest", {"bits": 4, "group_size": 32, "symmetric": "no"}, "symmetric"),
        ("hqq", {"bits": 4, "group_size": 32, "symmetric": True}, "hqq: symmetric"),
        ("hqq", {"bits": 4, "group_size": 32, "lp_norm": 2.0}, "lp_norm"),
        ("hqq", {"bits": 4, "group_size": 32, "beta": float("nan")}, "beta"),
        ("hqq", {"bits": 4, "group_size": 32, "iterations": 2.5}, "iterations"),
        ("keep", {"bits": 4}, "bits"),
    ],
)
def test_wrong_options_are_named(quantizer: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        quantizer_of(Rule(("*",), quantizer, options))
