"""Repetitions in a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, quantiles, stdev


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile: linear interpolation, ends included (type 7)."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return low, middle, high


def spread(values: Sequence[float]) -> float:
    """Half of what lies between the quartiles, by the median."""
    low, middle, high = quartiles(values)
    return (high - low) / 2 / middle


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The sample's standard deviation, as llama-bench has it; 0 of a single value."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0
