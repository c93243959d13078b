"""ANLS, VQA accuracy and multiple choice against values worked out by hand and against slow versions of their rules."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.bench.accuracy.choice import chosen
from pocketvlm.bench.accuracy.metrics import (
    METRICS,
    MetricMean,
    anls,
    check_metrics,
    choice,
    estimate,
    exact,
    score_each,
    vqa,
)
from pocketvlm.bench.accuracy.scores import Outcome
from pocketvlm.bench.accuracy.vqa import normalized, vqa_accuracy
from pocketvlm.bench.statistics.bootstrap import bootstrap
from pocketvlm.bench.statistics.intervals import wilson
from pocketvlm.errors import DataError

ANIMALS = (("A", "Cat"), ("B", "A dog"), ("C", "Horse"))


def outcome(got: str, *answers: str, choices: tuple[tuple[str, str], ...] = ()) -> Outcome:
    wanted, *also = answers
    return Outcome("?", wanted, got, "", "", "1x1", tuple(also), choices)


# --- ANLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("got", "answers", "similarity"),
    [
        ("Coca-Cola", ["coca-cola"], 1.0),
        ("kitten", ["sitting"], 1 - 3 / 7),
        # distance 5 of 9 is more than half
        ("kit", ["sitting b"], 0.0),
        # just half counts as it does on the leaderboards
        ("abcd", ["abxy"], 0.5),
        ("abcde", ["abxyz"], 0.0),
        # the best of several
        ("$12.50", ["12.50", "$ 12.50"], 1 - 1 / 7),
        ("  two \n words ", ["two words"], 1.0),
        ("", ["no"], 0.0),
    ],
)
def test_anls_is_what_its_definition_gives_by_hand(got: str, answers: list[str], similarity: float) -> None:
    assert anls(outcome(got, *answers)) == pytest.approx(similarity, abs=1e-12)


def slow_anls(got: str, answers: Sequence[str]) -> float:
    """VLMEvalKit's two steps (anls_compute, hit_calculate) with a table as in a textbook."""

    def distance(first: str, second: str) -> int:
        table = [[row + column for column in range(len(second) + 1)] for row in range(len(first) + 1)]
        for row, left in enumerate(first, 1):
            for column, right in enumerate(second, 1):
                steps = (table[row - 1][column] + 1, table[row][column - 1] + 1)
                table[row][column] = min(*steps, table[row - 1][column - 1] + (left != right))
        return table[-1][-1]

    shares = []
    for answer in answers:
        first, second = " ".join(answer.strip().lower().split()), " ".join(got.strip().lower().split())
        longest = max(len(first), len(second))
        shares.append(distance(first, second) / longest if longest else 0.0)
    best = 1 - min(shares)
    return 0.0 if best < 0.5 else best


@given(st.text("aB 1", max_size=8), st.lists(st.text("Ab 1", max_size=8), min_size=1, max_size=4))
def test_anls_is_that_of_a_slow_version(got: str, answers: list[str]) -> None:
    assert anls(outcome(got, *answers)) == pytest.approx(slow_anls(got, answers), abs=1e-12)


# --- VQA accuracy -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        ("The Dog.", "dog"),
        ("two", "2"),
        ("none", "0"),
        ("ten o'clock", "10 o'clock"),
        # a decimal point stays, an end of sentence goes
        ("3.5", "3.5"),
        ("3.", "3"),
        ("U.S.A.", "usa"),
        # a mark between letters is a space, beside a space nothing
        ("t-shirt", "t shirt"),
        ("red/ blue", "red blue"),
        ("yes!", "yes"),
        # a comma within a number: no mark leaves a space
        ("100,978", "100978"),
        ("100,978-a", "100978a"),
        # apostrophe and colon stay
        ("girl's", "girl's"),
        ("2:50 pm", "2:50 pm"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),
        ("couldn'tve", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("it's a\tcat\n", "it's cat"),
        ("An", ""),
        ("well", "well"),
    ],
)
def test_answers_are_made_the_same_as_the_organizers_do(answer: str, same: str) -> None:
    assert normalized(answer) == same


@pytest.mark.parametrize(
    ("agree", "accuracy"),
    # Of 10 people k agree: (k min(k - 1, 3) + (10 - k) min(k, 3)) / 30, which is the known 0.3, 0.6, 0.9, 1
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_the_accuracy_of_ten_people_is_the_known_one(agree: int, accuracy: float) -> None:
    answers = ["Yes."] * agree + [f"no {number}" for number in range(10 - agree)]
    assert vqa_accuracy("yes", answers) == pytest.approx(accuracy, abs=1e-12)


@given(st.sampled_from("abc"), st.lists(st.sampled_from("abc").map(lambda x: x * 2), min_size=4, max_size=12))
def test_the_accuracy_leaves_out_each_person_once(got: str, answers: list[str]) -> None:
    said, wanted = got * 2, 0.0
    for index in range(len(answers)):
        others = answers[:index] + answers[index + 1 :]
        wanted += min(1, others.count(said) / 3)
    assert vqa_accuracy(said, answers) == pytest.approx(wanted / len(answers), abs=1e-12)


@pytest.mark.parametrize(
    ("answers", "accuracy"), [(["Two"], 1.0), (["3"], 0.0), (["3", "2"], 1.0), (["1", "2", "3"], 1.0)]
)
def test_too_few_answers_to_agree_with_are_alternatives(answers: list[str], accuracy: float) -> None:
    assert vqa_accuracy("two.", answers) == accuracy


# --- Multiple choice --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("**C**.", "C"),
        ("Answer: C", "C"),
        ("C. Horse", "C"),
        ("horse", "C"),
        ("It is a cat", "A"),
        # an option's text that begins like a letter is that option
        ("A dog", "B"),
        ("A or B", None),
        ("a cat and a dog", None),
        ("", None),
        ("D", None),
        ("the horse " + "and so on " * 10, None),
    ],
)
def test_the_option_that_an_answer_means(answer: str, letter: str | None) -> None:
    assert chosen(answer, ANIMALS) == letter


def test_an_open_question_among_multiple_choices_has_to_be_right_exactly() -> None:
    assert choice(outcome("(A)", "A", choices=ANIMALS)) == 1.0
    assert choice(outcome("(B)", "A", choices=ANIMALS)) == 0.0
    assert choice(outcome("(A)", "A")) == 0.0
    assert choice(outcome("7", "7")) == 1.0


# --- The registry -----------------------------------------------------------------------------------------------------


def test_metrics_are_known_by_name() -> None:
    assert {name: metric.score for name, metric in METRICS.items()} == {
        "exact": exact, "anls": anls, "vqa": vqa, "choice": choice,
    }  # fmt: skip
    assert check_metrics(["anls", "vqa", "anls"]) == ("anls", "vqa")
    with pytest.raises(DataError, match=re.escape(r"'\x1b[2J' is no metric. Possible is: exact, anls, vqa, choice")):
        check_metrics(["\x1b[2J"])


def test_shares_have_wilsons_interval_and_means_the_bootstraps() -> None:
    outcomes = [outcome("kitten", "sitting"), outcome("a", "a"), outcome("b", "a")]
    scores = score_each(outcomes, ["exact", "anls"])
    assert scores["exact"].tolist() == [0, 1, 0]
    assert estimate("exact", scores["exact"]) == MetricMean(1 / 3, *wilson(1, 3))
    found = estimate("anls", scores["anls"])
    assert (found.low, found.high) == bootstrap([4 / 7, 1.0, 0.0])
    assert math.isclose(found.mean, (4 / 7 + 1) / 3)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_lies_between_0_and_1(name: str) -> None:
    for got in ("", "a", "A. Cat", "B", "\x1b", "x" * 2000):
        for answers in (["a"], ["A", "A. Cat", "Cat"], ["a"] * 10):
            score = METRICS[name].score(outcome(got, *answers, choices=ANIMALS if answers[0] == "A" else ()))
            assert 0 <= score <= 1
            assert not METRICS[name].is_share or score in (0, 1)
