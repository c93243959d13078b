"""Two bundles on the same questions: that they are the same, and what chance makes of the difference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pocketvlm.bench.report.files import Results
from pocketvlm.bench.statistics.bootstrap import bootstrap
from pocketvlm.bench.statistics.intervals import mcnemar
from pocketvlm.errors import ResultsError, one_line
from pocketvlm.questions.question import Question


@dataclass(frozen=True)
class PairedComparison:
    """Exact match of two bundles on the same questions; shares from -1 to 1."""

    questions: int
    both: int
    """so many times both are right"""
    neither: int
    only_this: int
    only_baseline: int
    p_value: float
    """McNemar's, exact and two-sided: so likely is a split of the two counts above as uneven, if both are as good"""
    difference: float
    """this bundle's share minus the baseline's"""
    low: float
    high: float
    """95 %, paired percentile bootstrap"""


def check_data(baseline: Results, origin: dict[str, str], most: int) -> None:
    """Before anything is asked: the data are the baseline's, as far as can be told.

    :raises ResultsError: they are not, or have fewer questions
    """
    if _content(baseline.data) != _content(origin):
        said, asked = (" ".join(map(str, data.values())) for data in (baseline.data, origin))
        raise ResultsError(f"{baseline.name} is about other data: {one_line(said, 80)}, not {one_line(asked, 80)}")
    if len(baseline.questions) > most:
        raise ResultsError(f"{baseline.name} has {len(baseline.questions)} questions, not {most}: see --questions")


def follow(baseline: Results, questions: Iterator[Question]) -> Iterator[Question]:
    """The questions as long as they are the baseline's.

    :raises ResultsError: one differs, or there are more or fewer
    """
    asked = 0
    for question in questions:
        if asked == len(baseline.questions):
            raise ResultsError(f"{baseline.name} has only {asked} questions: give --questions {asked}")
        if (question.text, question.answers[0]) != (baseline.questions[asked], baseline.wanted[asked]):
            raise ResultsError(f"{baseline.name} is about other questions: its number {asked + 1} differs")
        yield question
        asked += 1
    if asked != len(baseline.questions):
        raise ResultsError(f"{baseline.name} has {len(baseline.questions)} questions, and there are only {asked}")


def compare(this: Sequence[bool], baseline: Sequence[bool]) -> PairedComparison:
    """Two bundles by whether each answer is exactly right.

    :raises ValueError: there are no questions, or not as many of both
    """
    test = mcnemar(this, baseline)
    differences = [float(one) - float(other) for one, other in zip(this, baseline, strict=True)]
    low, high = bootstrap(differences)
    both = sum(one and other for one, other in zip(this, baseline, strict=True))
    neither = len(this) - both - test.only_first - test.only_second
    return PairedComparison(
        questions=len(this),
        both=both,
        neither=neither,
        only_this=test.only_first,
        only_baseline=test.only_second,
        p_value=test.p_value,
        difference=(test.only_first - test.only_second) / len(this),
        low=low,
        high=high,
    )


def _content(data: dict[str, str]) -> dict[str, str]:
    """What the data are, wherever they lie."""
    return {name: value for name, value in data.items() if name != "file"}
