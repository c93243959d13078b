"""The quantizers that search: by its own measure each is never worse than its start, and near the best there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.quant import ClipSearch, GroupedTensor, Hqq, RoundToNearest
from pocketvlm.quant.grids import Grid, full_range
from tests.support.schemes import CHANNEL

GROUPS: list[Any] = [16, 32, 64, 128, 256, CHANNEL]


def heavy_tailed(seed: int, rows: int, columns: int, degrees: float = 4.0) -> torch.Tensor:
    """Student's t: with four degrees of freedom, about as long-tailed as the worst layers of language models."""
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.standard_t(degrees, (rows, columns)).astype(np.float32))


def errors(tensor: GroupedTensor, weight: torch.Tensor, power: float) -> np.ndarray:
    """Sum of |error| ** power, in float64, of each group or, where these share a scale, of each row."""
    error = np.abs(tensor.dequantize().astype(np.float64) - weight.numpy()) ** power
    if tensor.per_channel:
        return error.sum(1)
    padded = np.pad(error, ((0, 0), (0, tensor.groups * tensor.group_size - tensor.columns)))
    return padded.reshape(tensor.rows, tensor.groups, -1).sum(-1)


#: what a matrix is drawn from: its seed and columns, how heavy its tails are, its mean
WEIGHTS: dict[str, Any] = {
    "seed": st.integers(0, 1 << 30),
    "columns": st.integers(1, 600),
    "degrees": st.sampled_from([1.0, 2.0, 4.0, 100.0]),
    "shift": st.sampled_from([0.0, 0.5, 5.0]),
}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@settings(max_examples=15)
@given(
    **WEIGHTS,
    spread=st.sampled_from([1e-25, 1.0, 1e15]),
)
def test_clip_search_is_never_worse_than_round_to_nearest(
    group: Any, bits: Any, symmetric: bool, seed: int, columns: int, degrees: float, shift: float, spread: float
) -> None:
    """In no group, whatever the weights' tails, mean and unit are."""
    weight = (heavy_tailed(seed, 3, columns, degrees) + shift) * spread
    found = errors(ClipSearch(bits, group, symmetric).quantize(weight), weight, 2)
    nearest = errors(RoundToNearest(bits, group, symmetric).quantize(weight), weight, 2)
    assert (found <= nearest).all()


def best_of_many(weight: torch.Tensor, group: int, *, symmetric: bool) -> float:
    """The smallest squared error of 400 ratios of the range, each with every zero point."""
    groups = weight.view(weight.shape[0], -1, group)
    start = full_range(groups, 4, symmetric=symmetric)
    smallest = torch.full_like(start.scale, torch.inf)
    zero_points = [8] if symmetric else range(16)
    for ratio in torch.linspace(0.1, 1.2, 400).tolist():
        for zero_point in zero_points:
            grid = Grid(start.scale * ratio, torch.full_like(start.scale, zero_point), 4)
            smallest = torch.minimum(smallest, grid.residual(groups).square().sum(-1, keepdim=True))
    return float(smallest.sum())


@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize("symmetric", [True, False])
def test_clip_search_is_near_the_best_of_an_exhaustive_search(group: Any, symmetric: bool) -> None:
    weight = heavy_tailed(1, 40, 256)
    found = errors(ClipSearch(4, group, symmetric).quantize(weight), weight, 2).sum()
    assert found < best_of_many(weight, group, symmetric=symmetric) * 1.01


@pytest.mark.parametrize(
    ("group", "symmetric", "gain"),
    [(32, True, 0.05), (32, False, 0.05), (128, True, 0.1), (128, False, 0.08), (CHANNEL, True, 0.4)],
)
def test_what_clip_search_gains_on_heavy_tails(group: Any, symmetric: bool, gain: float) -> None:
    """A floor below what numerics.md states."""
    weight = heavy_tailed(2, 64, 2304)
    found = errors(ClipSearch(4, group, symmetric).quantize(weight), weight, 2).sum()
    nearest = errors(RoundToNearest(4, group, symmetric).quantize(weight), weight, 2).sum()
    assert found < nearest * (1 - gain)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("bits", [4, 8])
@settings(max_examples=15)
@given(
    **WEIGHTS,
    lp_norm=st.sampled_from([0.5, 0.7, 1.0]),
)
def test_hqq_never_raises_the_error_it_minimizes(
    group: Any, bits: Any, seed: int, columns: int, degrees: float, shift: float, lp_norm: float
) -> None:
    weight = heavy_tailed(seed, 3, columns, degrees) + shift
    found = errors(Hqq(bits, group, lp_norm=lp_norm).quantize(weight), weight, lp_norm)
    start = errors(RoundToNearest(bits, group, symmetric=False).quantize(weight), weight, lp_norm)
    assert (found <= start).all()


@pytest.mark.parametrize("group", [32, 64, 128, CHANNEL])
def test_hqq_lowers_the_error_it_minimizes(group: Any) -> None:
    """In nearly every group, and by some percent in all."""
    weight = heavy_tailed(3, 64, 2304)
    found = errors(Hqq(4, group).quantize(weight), weight, 0.7)
    start = errors(RoundToNearest(4, group, symmetric=False).quantize(weight), weight, 0.7)
    assert (found < start).mean() > 0.9
    assert found.sum() < start.sum() * 0.96


def test_hqq_takes_the_outlier_for_one() -> None:
    """One weight far off: the squared error is smallest where it is clipped little, the l_p error where the others are
    finely rounded."""
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    weight[:, 5] = 12.0
    ordinary = np.arange(128) != 5
    hqq, clip = (quantizer.quantize(weight).dequantize() for quantizer in (Hqq(4, 128), ClipSearch(4, 128, False)))
    error = {"hqq": np.abs(hqq - weight.numpy()) ** 0.7, "clip": np.abs(clip - weight.numpy()) ** 0.7}
    assert error["hqq"].sum() < error["clip"].sum()
    assert error["hqq"][:, ordinary].sum() < error["clip"][:, ordinary].sum()
