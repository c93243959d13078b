"""The percentile bootstrap against a slow version with the same resamples, and against what theory says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.bench.statistics import bootstrap as module
from pocketvlm.bench.statistics.bootstrap import RESAMPLES, SEED, bootstrap, draws


def quantile(ordered: list[float], share: float) -> float:
    """Linear interpolation between the values beside ``share`` of the way (R's and numpy's default, type 7)."""
    place = (len(ordered) - 1) * share
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def slow_bootstrap(values: list[float], resamples: int, seed: int) -> tuple[float, float]:
    """Each resample as a list of values, its mean, and the percentiles of the means."""
    distinct = sorted(set(values))
    how_often = np.array([values.count(value) for value in distinct])
    means = []
    for chunk in draws(how_often, resamples, seed):
        for row in chunk.tolist():
            resample = [value for value, times in zip(distinct, row, strict=True) for _ in range(times)]
            assert len(resample) == len(values)
            means.append(math.fsum(resample) / len(resample))
    return quantile(sorted(means), 0.025), quantile(sorted(means), 0.975)


@settings(max_examples=20)
@given(
    st.lists(st.sampled_from([0.0, 0.3, 0.6, 1.0, 1 / 3, -1.0]), min_size=1, max_size=30),
    st.integers(0, 2**32),
)
def test_the_interval_is_that_of_a_slow_version(values: list[float], seed: int) -> None:
    assert bootstrap(values, 200, seed) == pytest.approx(slow_bootstrap(values, 200, seed), abs=1e-12)


def test_the_interval_is_scipys_but_for_the_random_numbers() -> None:
    source = np.random.default_rng(1)
    for values in (source.random(60), source.integers(0, 4, 300) / 3):
        found = scipy.stats.bootstrap(
            (values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(2)
        ).confidence_interval
        assert bootstrap(values) == pytest.approx((found.low, found.high), abs=0.003)


def test_the_interval_of_many_values_is_the_normal_one() -> None:
    values = np.random.default_rng(3).normal(0.5, 0.2, 400)
    half = 1.96 * values.std() / 20
    assert bootstrap(values) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.002)


def test_chunks_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [0.0, 0.3, 1.0, 1.0]
    whole = bootstrap(values, 1000)
    monkeypatch.setattr(module, "CHUNK", 10)
    assert [chunk.shape for chunk in draws(np.array([1, 1, 2]), 7, SEED)] == [(3, 3), (3, 3), (1, 3)]
    assert bootstrap(values, 1000) == whole


def test_equal_values_have_no_width_and_none_have_no_mean() -> None:
    assert bootstrap([0.25] * 5) == (0.25, 0.25)
    assert bootstrap([1.0]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="no values"):
        bootstrap([])


def test_the_same_values_get_the_same_interval() -> None:
    assert RESAMPLES >= 10_000
    assert bootstrap([0.0, 1.0, 0.5]) == bootstrap([0.5, 0.0, 1.0])
