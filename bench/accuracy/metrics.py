"""Scores of an answer beside the exact match, from 0 to 1. A new one is a function and a line in ``METRICS``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pocketvlm.bench.accuracy.choice import chosen
from pocketvlm.bench.accuracy.scores import Outcome
from pocketvlm.bench.accuracy.vqa import vqa_accuracy
from pocketvlm.bench.statistics.bootstrap import Floats, bootstrap
from pocketvlm.bench.statistics.intervals import wilson
from pocketvlm.errors import DataError, one_line

#: Of the extra "bench".
PACKAGES = ("rapidfuzz", "scipy")
#: an answer less similar than this counts nothing (DocVQA's threshold)
ANLS_THRESHOLD = 0.5


@dataclass(frozen=True)
class Metric:
    """What it is called in a table, and the score of an answer."""

    heading: str
    score: Callable[[Outcome], float]
    is_share: bool = False
    """every score is 0 or 1: the interval is Wilson's, else the percentile bootstrap's"""


@dataclass(frozen=True)
class MetricMean:
    """A mean from 0 to 1 and its 95 % interval."""

    mean: float
    low: float
    high: float


def exact(outcome: Outcome) -> float:
    """1 where every character is right."""
    return float(outcome.exact)


def anls(outcome: Outcome) -> float:
    """Average normalized Levenshtein similarity of one answer: the best of all accepted ones, without case.

    A. F. Biten et al., "Scene Text Visual Question Answering" (arXiv 1905.13648), section 4; used by DocVQA (arXiv
    2007.00398). 1 - distance / longer length, and 0 below 0.5. At just 0.5 the papers have 0, and what computes the
    leaderboards has 0.5, as VLMEvalKit and this. Runs of white space count as one space.
    """
    got = _plain(outcome.got)
    return max(_similarity(got, answer) for answer in {_plain(answer) for answer in outcome.accepted})


def vqa(outcome: Outcome) -> float:
    """The soft accuracy of VQAv2."""
    return vqa_accuracy(outcome.got, outcome.accepted)


def choice(outcome: Outcome) -> float:
    """1 where the answer means the right option; an open question has to be right exactly."""
    if not outcome.choices:
        return exact(outcome)
    return float(chosen(outcome.got, outcome.choices) == outcome.wanted)


#: name on the command line and in JSON -> metric
METRICS: dict[str, Metric] = {
    "exact": Metric("exact match", exact, is_share=True),
    "anls": Metric("ANLS", anls),
    "vqa": Metric("VQA accuracy", vqa),
    "choice": Metric("right option", choice, is_share=True),
}


def check_metrics(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once, before hours of work.

    :raises DataError: there is no such metric
    :raises ModuleNotFoundError: what computes scores and intervals is not installed
    """
    for package in PACKAGES:
        importlib.import_module(package)
    for name in names:
        if name not in METRICS:
            raise DataError(f"{one_line(repr(name), 80)} is no metric. Possible is: {', '.join(METRICS)}")
    return tuple(dict.fromkeys(names))


def score_each(outcomes: Sequence[Outcome], names: Iterable[str]) -> dict[str, Floats]:
    """Metric -> float64 [outcomes]."""
    return {name: np.array([METRICS[name].score(outcome) for outcome in outcomes]) for name in names}


def estimate(name: str, scores: Floats) -> MetricMean:
    """The mean of a metric's scores with the interval that fits it.

    :raises ValueError: there are no scores
    """
    interval = wilson(int(scores.sum()), scores.size) if METRICS[name].is_share else bootstrap(scores)
    return MetricMean(float(scores.mean()), *interval)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(got: str, answer: str) -> float:
    from rapidfuzz.distance import Levenshtein

    similarity = Levenshtein.normalized_similarity(answer, got)
    return similarity if similarity >= ANLS_THRESHOLD else 0.0
