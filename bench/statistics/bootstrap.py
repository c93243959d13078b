"""Intervals of means without assuming how the values are distributed: the percentile bootstrap.

B. Efron, "Bootstrap methods: another look at the jackknife", Ann. Statist. 7 (1979) 1; the percentile interval is in
B. Efron, R. Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

#: how often the questions are drawn anew
RESAMPLES = 10_000
#: the same answers get the same interval
SEED = 0
#: the two-sided 95 % interval
TAILS = (0.025, 0.975)
#: how many counts are held at once: 32 MB
CHUNK = 4 * 1024 * 1024

Floats = npt.NDArray[np.float64]


def bootstrap(values: Sequence[float] | Floats, resamples: int = RESAMPLES, seed: int = SEED) -> tuple[float, float]:
    """The 95 % interval (low, high) of the mean: percentiles, linearly interpolated, of the resamples' means.

    Where all values are equal it has no width; it is meant for tens of values and more.

    :raises ValueError: there are no values
    """
    distinct, how_often = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    if distinct.size == 0:
        raise ValueError("no values have no mean")
    parts = (drawn @ distinct for drawn in draws(how_often, resamples, seed))
    low, high = np.quantile(np.concatenate(list(parts)) / how_often.sum(), TAILS)
    return float(low), float(high)


def draws(how_often: npt.NDArray[np.int64], resamples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """How often each distinct value is drawn in a resample: int64 [some resamples, distinct values], chunk by chunk.

    To draw n of n values with replacement is to draw these counts from a multinomial distribution, which is cheap
    where values repeat, as shares and soft accuracies do.
    """
    generator = np.random.default_rng(seed)
    count = int(how_often.sum())
    rows = max(CHUNK // how_often.size, 1)
    for start in range(0, resamples, rows):
        yield generator.multinomial(count, how_often / count, size=min(rows, resamples - start))
