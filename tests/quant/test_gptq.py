"""GPTQ beside a slow implementation of what it approximates, and what holds for any Gram matrix."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pocketvlm.errors import RecipeError
from pocketvlm.quant import ClipSearch, Gptq, GroupedTensor, RoundToNearest, gptq, quantizer_of
from pocketvlm.quant.grids import Grid
from pocketvlm.quant.tensors import pack, unpack
from pocketvlm.recipe import Rule
from tests.support.schemes import CHANNEL

Group = int | Literal["channel"]
GROUPS: tuple[Group, ...] = (32, 128, CHANNEL)
each_group = pytest.mark.parametrize("group", GROUPS)
each_symmetry = pytest.mark.parametrize("symmetric", [True, False])


def correlated(columns: int, seed: int = 0, samples: int = 800) -> Tensor:
    """Inputs [samples, columns] of a layer: correlated, some channels far larger than others."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5
    inputs = torch.randn(samples, columns, generator=generator) @ (mixing + 0.3 * torch.eye(columns))
    return inputs * torch.exp(torch.randn(columns, generator=generator))


def output_error(tensor: GroupedTensor, weight: Tensor, inputs: Tensor) -> float:
    wanted = weight @ inputs.T
    return float((torch.from_numpy(tensor.dequantize()) @ inputs.T - wanted).norm() / wanted.norm())


def optimal_brain_quantizer(weight: Tensor, gram: Tensor, quantizer: Gptq) -> np.ndarray[Any, Any]:
    """Steps by the greedy algorithm itself (arXiv 2208.11580), in float64: after each column, in order of the Gram
    matrix's diagonal, the others are set to their best values given it, and it leaves the inverse by elimination."""
    values = weight.double().numpy().copy()
    columns = values.shape[1]
    found = quantizer.quantize(weight, gram)
    zero_points = np.full(found.scales.shape, 1 << (found.bits - 1)) if found.zero_points is None else found.zero_points
    grid = Grid(torch.from_numpy(found.scales)[..., None], torch.from_numpy(zero_points)[..., None].float(), found.bits)
    size = columns if quantizer.group_size == CHANNEL else int(quantizer.group_size)
    scale = grid.scale.squeeze(-1).double().numpy()
    zero_point = grid.zero_point.squeeze(-1).double().numpy()
    damped = gram.double().numpy().copy()
    damped[np.diag_indices(columns)] += quantizer.damping * damped.diagonal().mean()
    inverse = np.linalg.inv(damped)
    steps = np.zeros_like(values)
    for column in np.argsort(-gram.diagonal().numpy(), kind="stable"):
        group = column // size
        low, high = -zero_point[:, group], grid.top - zero_point[:, group]
        steps[:, column] = np.clip(np.round(values[:, column] / scale[:, group]), low, high)
        error = values[:, column] - steps[:, column] * scale[:, group]
        values -= np.outer(error / inverse[column, column], inverse[column])
        inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return steps


@each_group
@each_symmetry
def test_it_is_optimal_brain_quantization_in_a_fixed_order(group: Group, symmetric: bool) -> None:
    weight = torch.randn(6, 150, generator=torch.Generator().manual_seed(1))
    inputs = correlated(150)
    gram, quantizer = inputs.T @ inputs, Gptq(4, group, symmetric)
    wanted = optimal_brain_quantizer(weight, gram, quantizer)
    found = quantizer.quantize(weight, gram)
    zero_points = found.zero_points if found.zero_points is not None else np.full(found.scales.shape, 8)
    steps = (found.codes.astype(np.int64) - zero_points[..., None]).reshape(6, -1)[:, :150]
    # The same but for values that lie on the border between two steps, where float32 decides.
    assert (steps == wanted).mean() > 0.99


@each_group
@each_symmetry
@pytest.mark.parametrize("bits", [4, 8])
def test_independent_inputs_leave_clip_search(group: Group, symmetric: bool, bits: Literal[4, 8]) -> None:
    """Bit for bit: without correlation no column can make up for another."""
    weight = torch.randn(7, 300, generator=torch.Generator().manual_seed(2))
    found = Gptq(bits, group, symmetric).quantize(weight, torch.eye(300) * 5)
    plain = ClipSearch(bits, group, symmetric).quantize(weight)
    assert np.array_equal(found.codes, plain.codes)
    assert np.array_equal(found.scales, plain.scales)


@each_group
@each_symmetry
@given(seed=st.integers(0, 1 << 20))
@settings(max_examples=10, deadline=None)
def test_the_layers_output_is_nearer_than_by_rounding_to_nearest(group: Group, symmetric: bool, seed: int) -> None:
    weight, inputs = torch.randn(16, 160, generator=torch.Generator().manual_seed(seed)), correlated(160, seed)
    calibrated = Gptq(4, group, symmetric).quantize(weight, inputs.T @ inputs)
    plain = RoundToNearest(4, group, symmetric).quantize(weight)
    assert output_error(calibrated, weight, inputs) < output_error(plain, weight, inputs)


@each_group
@each_symmetry
@given(rows=st.integers(1, 5), columns=st.integers(1, 200), seed=st.integers(0, 1 << 20))
@settings(max_examples=20, deadline=None)
def test_packing_is_exact(group: Group, symmetric: bool, rows: int, columns: int, seed: int) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    inputs = correlated(columns, seed, samples=columns // 2 + 1)  # fewer than columns: a singular Gram matrix
    tensor = Gptq(4, group, symmetric).quantize(weight, inputs.T @ inputs)
    again = unpack(pack(tensor), bits=4, columns=columns)
    assert np.array_equal(again.dequantize(), tensor.dequantize())
    assert tensor.dequantize().shape == (rows, columns)


def test_rows_do_not_depend_on_how_many_are_taken_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, inputs = torch.randn(32, 96, generator=torch.Generator().manual_seed(3)), correlated(96)
    whole = Gptq(4, 32).quantize(weight, inputs.T @ inputs)
    monkeypatch.setattr(gptq, "WEIGHTS_AT_A_TIME", 96 * 8)
    assert (Gptq(4, 32).quantize(weight, inputs.T @ inputs).codes == whole.codes).mean() > 0.999


def test_columns_that_no_input_reaches_are_rounded_to_nearest() -> None:
    weight, inputs = torch.randn(5, 64, generator=torch.Generator().manual_seed(4)), correlated(64)
    inputs[:, ::4] = 0
    found = Gptq(4, 32).quantize(weight, inputs.T @ inputs)
    scale = found.scales.repeat(32, axis=1)
    nearest = np.clip(np.round(weight.numpy() / scale), -8, 7) * scale
    assert np.array_equal(found.dequantize()[:, ::4], nearest[:, ::4])
    assert not np.array_equal(found.dequantize(), nearest)
    nothing = Gptq(4, 32).quantize(weight, torch.zeros(64, 64)).dequantize()
    assert np.array_equal(nothing, ClipSearch(4, 32).quantize(weight).dequantize())


@each_group
@each_symmetry
def test_a_columns_error_counts_as_much_as_it_costs(
    group: Group, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few columns of inputs far larger than the others, with weights that a grid for all would not meet."""
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(5)) * 0.2
    weight[:, ::32] = 1.0 + 0.02 * torch.rand(64, 4, generator=torch.Generator().manual_seed(6))
    inputs = torch.randn(400, 128, generator=torch.Generator().manual_seed(7))
    inputs[:, ::32] *= 100
    quantizer = Gptq(4, group, symmetric)
    weighed = output_error(quantizer.quantize(weight, inputs.T @ inputs), weight, inputs)
    monkeypatch.setattr(gptq, "_importance", lambda diagonal, *_: torch.ones_like(diagonal))
    alike = output_error(quantizer.quantize(weight, inputs.T @ inputs), weight, inputs)
    assert weighed < 0.9 * alike


def test_what_cannot_be_calibrated_is_refused() -> None:
    weight = torch.randn(4, 64)
    with pytest.raises(RecipeError, match="has to be calibrated"):
        Gptq(4, 32).quantize(weight)
    with pytest.raises(RecipeError, match="has to be calibrated"):
        Gptq(4, 32).quantize(weight, torch.eye(32))
    with pytest.raises(RecipeError, match="not finite"):
        Gptq(4, 32).quantize(weight, torch.full((64, 64), torch.nan))
    with pytest.raises(RecipeError, match="NaN, infinite"):
        Gptq(4, 32).quantize(weight * torch.inf, torch.eye(64))
    for damping in (0, -1, True, "much", float("nan"), 2):
        with pytest.raises(RecipeError, match="damping"):
            quantizer_of(Rule(("*",), "gptq", {"bits": 4, "group_size": 32, "damping": damping}))


def test_constant_and_zero_groups_stay_exact() -> None:
    weight = torch.zeros(3, 64)
    weight[1] = 2.5
    inputs = correlated(64)
    found = Gptq(4, 32).quantize(weight, inputs.T @ inputs).dequantize()
    assert np.array_equal(found, weight.numpy())
