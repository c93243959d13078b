"""How close a bundle's numbers are to the original model's: statistics of logits, image tokens and layers, in float64.

Kullback-Leibler divergence: S. Kullback, R. A. Leibler, "On information and sufficiency", Ann. Math. Statist. 22 (1951)
1. Here it is KL(original || bundle) of the next token's distribution, in nats: what is lost by predicting with the
bundle where the original is right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.bench.statistics.bootstrap import RESAMPLES, SEED, TAILS, draws
from pocketvlm.errors import ResultsError

#: rows of logits that are looked at at once: 80 MB of float64 for a vocabulary of 150,000
ROWS = 64
#: beyond it exp() overflows
LARGEST_EXPONENT = 700.0

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


def log_softmax(logits: Array) -> Floats:
    """Logarithms of probabilities, float64 [..., vocabulary], of logits of any float type."""
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(-1, keepdims=True)
    difference: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return difference


def kl_divergence(original: Array, bundle: Array) -> Floats:
    """KL(original || bundle) in nats, float64 [...], of logits [..., vocabulary]; rounding makes none negative."""
    return _kl_of_logs(log_softmax(original), log_softmax(bundle))


@dataclass(frozen=True)
class TokenScores:
    """The scored positions of one conversation, each array [scored]; losses are -log p(right token), in nats."""

    kl: Floats
    agrees: npt.NDArray[np.bool_]
    """both have the same most likely token, of equal ones the lowest id"""
    original_loss: Floats
    bundle_loss: Floats


def score_tokens(original: Array, bundle: Array, targets: npt.NDArray[np.int64]) -> TokenScores:
    """Compare logits [scored, vocabulary], of which row i predicts the token targets[i].

    :raises ResultsError: a logit of the bundle is not finite
    """
    parts = []
    for first in range(0, len(targets), ROWS):
        rows = slice(first, first + ROWS)
        if not np.isfinite(bundle[rows]).all():
            raise ResultsError("the bundle gives logits that are not finite: its graphs do not work on this machine")
        wanted, found = log_softmax(original[rows]), log_softmax(bundle[rows])
        at = np.arange(len(wanted)), targets[rows]
        agrees = wanted.argmax(-1) == found.argmax(-1)
        parts.append((_kl_of_logs(wanted, found), agrees, -wanted[at], -found[at]))
    return TokenScores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@dataclass(frozen=True)
class MeanEstimate:
    """A figure and its 95 % interval: the percentile bootstrap over conversations."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LogitsReport:
    """All scored positions of all conversations; each position counts the same. KL divergence in nats."""

    tokens: int
    kl_mean: MeanEstimate
    kl_median: float
    kl_p999: float
    """99.9th percentile, linearly interpolated"""
    kl_max: float
    top1_agreement: float
    perplexity_original: float
    """exp of the mean loss of the right tokens"""
    perplexity_bundle: float
    perplexity_ratio: MeanEstimate
    """the bundle's by the original's"""


def report_logits(conversations: Sequence[TokenScores]) -> LogitsReport:
    """What they come to.

    :raises ValueError: there are no conversations
    """
    kl = np.concatenate([scores.kl for scores in conversations])
    original, bundle = (
        np.array([getattr(scores, side).sum() for scores in conversations]) for side in ("original_loss", "bundle_loss")
    )
    counts = np.array([len(scores.kl) for scores in conversations], np.float64)
    loss_ratio = estimate_ratio(bundle - original, counts)
    return LogitsReport(
        tokens=len(kl),
        kl_mean=estimate_ratio(np.array([scores.kl.sum() for scores in conversations]), counts),
        kl_median=float(np.median(kl)),
        kl_p999=float(np.quantile(kl, 0.999)),
        kl_max=float(kl.max()),
        top1_agreement=float(np.concatenate([scores.agrees for scores in conversations]).mean()),
        perplexity_original=_exp(original.sum() / counts.sum()),
        perplexity_bundle=_exp(bundle.sum() / counts.sum()),
        perplexity_ratio=MeanEstimate(_exp(loss_ratio.value), _exp(loss_ratio.low), _exp(loss_ratio.high)),
    )


def estimate_ratio(sums: Floats, counts: Floats, resamples: int = RESAMPLES, seed: int = SEED) -> MeanEstimate:
    """sum(sums) / sum(counts), where conversation i has the sum sums[i] over counts[i] tokens.

    Conversations are drawn, not tokens: those of one answer depend on each other.

    :raises ValueError: there are no conversations
    """
    if not len(sums):
        raise ValueError("no conversations have no mean")
    once = np.ones(len(sums), np.int64)
    ratios = [(drawn @ sums) / (drawn @ counts) for drawn in draws(once, resamples, seed)]
    low, high = np.quantile(np.concatenate(ratios), TAILS)
    return MeanEstimate(float(sums.sum() / counts.sum()), float(low), float(high))


@dataclass(frozen=True)
class SquaredError:
    """Squared 2-norms of a difference and of what is wanted; those of several parts add up."""

    difference: float = 0.0
    wanted: float = 0.0

    def __add__(self, other: SquaredError) -> SquaredError:
        return SquaredError(self.difference + other.difference, self.wanted + other.wanted)

    @property
    def relative(self) -> float:
        """2-norm of the difference by that of what is wanted."""
        return math.sqrt(self.difference / max(self.wanted, 1e-300))


def squared_error(found: Array, wanted: Array) -> SquaredError:
    """Of two arrays of one shape."""
    exact = np.asarray(wanted, np.float64)
    difference = np.asarray(found, np.float64) - exact
    return SquaredError(float(np.square(difference).sum()), float(np.square(exact).sum()))


def cosines(found: Array, wanted: Array) -> Floats:
    """Cosine of the angle between the rows of [rows, width] and those of another: float64 [rows]."""
    first, second = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    cosine: Floats = (first * second).sum(-1) / np.maximum(norms, 1e-300)
    return cosine


@dataclass(frozen=True)
class ImageScores:
    """Image tokens of one conversation: their cosines [image tokens], and their error."""

    cosines: Floats
    error: SquaredError


@dataclass(frozen=True)
class ImageReport:
    """Image tokens of all conversations."""

    tokens: int
    cosine_mean: float
    cosine_p1: float
    """1st percentile, linearly interpolated"""
    relative_error: float


def score_images(found: Array, wanted: Array) -> ImageScores:
    """Image tokens [image tokens, hidden] of the bundle and of the original."""
    return ImageScores(cosines(found, wanted), squared_error(found, wanted))


def report_images(conversations: Sequence[ImageScores]) -> ImageReport | None:
    """None where no conversation has an image."""
    if not conversations:
        return None
    values = np.concatenate([scores.cosines for scores in conversations])
    return ImageReport(
        tokens=len(values),
        cosine_mean=float(values.mean()),
        cosine_p1=float(np.quantile(values, 0.01)),
        relative_error=reduce(SquaredError.__add__, [scores.error for scores in conversations]).relative,
    )


def _kl_of_logs(original: Floats, bundle: Floats) -> Floats:
    divergence: Floats = np.maximum((np.exp(original) * (original - bundle)).sum(-1), 0.0)
    return divergence


def _exp(value: float) -> float:
    return math.exp(min(value, LARGEST_EXPONENT))
