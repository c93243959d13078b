"""How many times as long: the ratio of two times with its interval, and what it says against a bound.

Of pairs measured in turns, the statistic is exp of the 20 % trimmed mean of the log ratios: the fifth of the pairs at
either end is left out, so that a spike in one of two runs moves it no further than to the edge of the others, while it
stays more efficient than the median, the mean trimmed by a half, where there are no spikes (R. Wilcox, "Introduction to
Robust Estimation and Hypothesis Testing", chapter 3). Of two samples that were not measured in turns, it is the ratio
of the medians.

Intervals are percentile bootstraps by the resamples of ``pocketvlm.bench.statistics.bootstrap``, half of which are the
mirror images of the others (P. Hall, "Antithetic resampling for the bootstrap", Biometrika 76 (1989) 713): when the two
sides are swapped, the interval is turned over exactly, and no verdict depends on which side is called the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import Literal

import numpy as np

from pocketvlm.bench.statistics.bootstrap import RESAMPLES, SEED, Floats, draws

#: The share that is left out at either end of the log ratios of pairs.
TRIM = 0.2
#: Fewer pairs than this decide nothing.
LEAST_PAIRS = 20
#: Fewer repetitions than this on a side decide nothing: the interval of a median cannot reach beyond them, and of four
#: values their whole range holds the median less than 90 times of 100.
LEAST_SAMPLES = 5

Verdict = Literal["regressed", "improved", "same", "too noisy to say"]


@dataclass(frozen=True)
class Ratio:
    """New to base, above 1 where the new one takes longer, with the interval of this ``confidence``."""

    ratio: float
    low: float
    high: float
    count: int
    """pairs; of two samples the number of values in the smaller one"""
    confidence: float


@dataclass(frozen=True)
class Looks:
    """When pairs are looked at: after ``least``, twice as many, and so on, and at last after ``most``.

    Each look could be wrong, and the first that decides ends the measurement. Each of k looks has an error of
    (1 - confidence) / k, so that by Bonferroni's inequality all of them together have at most 1 - confidence, however
    they depend on each other. A bound in the manner of Pocock's (Biometrika 64 (1977) 191), which knows how they do,
    would narrow the intervals of these five looks by 4 %, and needs values that are distributed normally.
    """

    least: int = LEAST_PAIRS
    most: int = 320
    confidence: float = 0.95

    @property
    def counts(self) -> tuple[int, ...]:
        """Pairs at each look."""
        found = [self.least]
        while 2 * found[-1] < self.most:
            found.append(2 * found[-1])
        return tuple(found) if found[-1] == self.most else (*found, self.most)

    @property
    def level(self) -> float:
        """The confidence of one look's interval."""
        return 1 - (1 - self.confidence) / len(self.counts)


def paired_ratio(log_ratios: Sequence[float] | Floats, confidence: float) -> Ratio:
    """Of pairs, given log(new / base) of each.

    :raises ValueError: there are no pairs
    """
    low, high = paired_intervals(np.asarray(log_ratios, np.float64)[None], confidence)[0]
    return Ratio(exp(_trimmed_mean(log_ratios)), exp(low), exp(high), len(log_ratios), confidence)


def paired_intervals(log_ratios: Floats, confidence: float) -> Floats:
    """The intervals of several measurements [measurements, pairs], not exponentiated: float64 [measurements, 2].

    :raises ValueError: there are no pairs
    """
    found = _resampled(log_ratios, _fifth(log_ratios.shape[-1]), SEED, RESAMPLES)
    return np.quantile(found, _tails(confidence), axis=0).T


def ratio_of_medians(baseline: Sequence[float], candidate: Sequence[float], confidence: float) -> Ratio:
    """Of two samples of positive numbers that were not measured in turns: both are resampled, each on its own.

    :raises ValueError: one of them is empty
    """
    samples = [np.asarray(values, np.float64)[None] for values in (baseline, candidate)]
    # Each seed serves each side once: swapped sides have the same resamples.
    baseline_logs, candidate_logs = (
        np.log([_resampled(values, _half(values.shape[-1]), seed, RESAMPLES // 2)[:, 0] for seed in seeds])
        for values, seeds in zip(samples, ((SEED, SEED + 1), (SEED + 1, SEED)), strict=True)
    )
    low, high = np.quantile(candidate_logs - baseline_logs, _tails(confidence))
    ratio = float(np.median(samples[1]) / np.median(samples[0]))
    return Ratio(ratio, exp(low), exp(high), min(len(baseline), len(candidate)), confidence)


def verdict_of(ratio: Ratio, bound: float, running: Ratio | None = None) -> Verdict | None:
    """What the interval says where the new one may take longer by the share ``bound``; None where it says nothing yet.

    Regressed: it lies above 1 + bound. Improved: it lies below 1 / (1 + bound), so that the base would have regressed
    from the new one. Same: it does not reach beyond 1 + bound. How much faster it may be is then left open, because no
    gate asks for it: to go on until that is known would take the most time where the new one is faster.

    ``running``: the same without the time that either waited for a CPU. Slower or faster is only what is so in it too:
    else other work took the CPU from one more than from the other.
    """
    running = ratio if running is None else running
    if min(ratio.low, running.low) > 1 + bound:
        return "regressed"
    if max(ratio.high, running.high) < 1 / (1 + bound):
        return "improved"
    return "same" if ratio.high <= 1 + bound else None


def decide(
    log_ratios: Sequence[float] | Floats, bound: float, looks: Looks, running: Sequence[float] | Floats | None = None
) -> Verdict | None:
    """The verdict after these pairs, or None: go on. ``running``: the same pairs without what waited for a CPU.

    Between two looks nothing is decided. At the last, what no interval decided is too noisy to say. The chance of a
    wrong "regressed" or "improved" over all looks is at most 1 - ``looks.confidence``, see ``Looks``.

    :raises ValueError: there are more pairs than the last look has
    """
    count = len(log_ratios)
    if count > looks.most:
        raise ValueError(f"{count} pairs, and the last look has {looks.most}")
    if count not in looks.counts:
        return None
    verdict = verdict_of(
        paired_ratio(log_ratios, looks.level), bound, None if running is None else paired_ratio(running, looks.level)
    )
    return "too noisy to say" if verdict is None and count == looks.most else verdict


def judge(
    log_ratios: Sequence[float] | Floats, bound: float, looks: Looks, running: Sequence[float] | Floats | None = None
) -> tuple[Verdict, Ratio]:
    """The verdict over pairs that were saved, and the ratio that gave it: of the first look that decides.

    Where the pairs end between two looks, their end counts as the last.

    :raises ValueError: there are fewer pairs than the first look has
    """
    values = np.asarray(log_ratios, np.float64)[: looks.most]
    if len(values) < looks.least:
        raise ValueError(f"{len(values)} pairs, and the first look has {looks.least}")
    ends = [count for count in looks.counts if count < len(values)]
    for count in (*ends, len(values)):
        ratio = paired_ratio(values[:count], looks.level)
        verdict = verdict_of(ratio, bound, None if running is None else paired_ratio(running[:count], looks.level))
        if verdict is not None:
            return verdict, ratio
    return "too noisy to say", ratio


def _trimmed_mean(values: Sequence[float] | Floats) -> float:
    cut = _fifth(len(values))
    return float(np.sort(np.asarray(values, np.float64))[cut : len(values) - cut].mean())


def _resampled(values: Floats, cut: int, seed: int, resamples: int) -> Floats:
    """Trimmed means of resamples of each row of ``values`` [rows, n], ``cut`` at either end: [resamples, rows].

    A resample is how often it has the smallest value, the second, and so on. Summed up, these are the ranks that each
    value takes in it; those within ``cut`` of either end are clipped away, and what is left are the weights of a mean.
    """
    count = values.shape[-1]
    if not count:
        raise ValueError("no values have no mean")
    ordered = np.sort(values, axis=-1).T
    parts = []
    for drawn in draws(np.ones(count, np.int64), resamples // 2, seed):
        ranks = np.clip(np.cumsum(drawn, axis=1), cut, count - cut)
        weights = np.diff(ranks, axis=1, prepend=cut).astype(np.float64)
        parts += [weights @ ordered, weights[:, ::-1] @ ordered]
    return np.concatenate(parts) / (count - 2 * cut)


def _fifth(count: int) -> int:
    return int(TRIM * count)


def _half(count: int) -> int:
    """What the median leaves out at either end: all but one value, or two."""
    return (count - 1) // 2


def _tails(confidence: float) -> tuple[float, float]:
    return (1 - confidence) / 2, (1 + confidence) / 2
