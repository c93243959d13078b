"""Scores of answers: Wilson's interval, edit distance, groups, McNemar's test."""

from __future__ import annotations

import math
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.bench.accuracy.scores import Z_95, Outcome, edit_distance, mcnemar, score, score_by, wilson

counts = st.integers(1, 5000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count)))


def outcome(wanted: str, got: str, kind: str = "line", scene: str = "sign", grid: str = "1x1") -> Outcome:
    return Outcome("What is it?", wanted, got, kind, scene, grid)


# --- Wilson -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_the_published_one(right: int, count: int, low: float, high: float) -> None:
    """R. G. Newcombe, Statistics in Medicine 17 (1998) 857, table I: method 3, the score method."""
    assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)


@given(counts)
def test_the_bounds_are_where_the_observed_share_is_just_not_rejected(pair: tuple[int, int]) -> None:
    """What defines the interval: |share - bound| = z * sqrt(bound (1 - bound) / count)."""
    right, count = pair
    share = right / count
    low, high = wilson(right, count)
    assert 0 <= low <= share <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1:
            assert abs(share - bound) == pytest.approx(Z_95 * math.sqrt(bound * (1 - bound) / count), rel=1e-6)


@given(counts)
def test_the_interval_is_symmetric_in_right_and_wrong(pair: tuple[int, int]) -> None:
    right, count = pair
    low, high = wilson(right, count)
    assert wilson(count - right, count) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("right", "count"), [(0, 0), (3, 2), (-1, 2)])
def test_what_is_no_share_is_refused(right: int, count: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        wilson(right, count)


# --- Edit distance ----------------------------------------------------------------------------------------------------


def slow_distance(first: str, second: str) -> int:
    """The definition, from the ends."""

    @cache
    def distance(left: int, right: int) -> int:
        if not left or not right:
            return left + right
        replaced = distance(left - 1, right - 1) + (first[left - 1] != second[right - 1])
        return min(distance(left - 1, right) + 1, distance(left, right - 1) + 1, replaced)

    return distance(len(first), len(second))


@pytest.mark.parametrize(
    ("first", "second", "distance"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("ab", "ba", 2)]
)
def test_known_distances(first: str, second: str, distance: int) -> None:
    assert edit_distance(first, second) == distance


@given(st.text("abc", max_size=9), st.text("abc", max_size=9))
def test_the_distance_is_its_definition(first: str, second: str) -> None:
    assert edit_distance(first, second) == slow_distance(first, second) == edit_distance(second, first)


def test_the_distance_of_long_texts_is_quick_and_right() -> None:
    """Longer than a machine word; a hostile pair of answers must not take minutes."""
    assert edit_distance("ab" * 4000, "ba" * 4000) == 2
    assert edit_distance("x" * 300 + "abc", "abc" + "y" * 200) == 303


# --- Scores -----------------------------------------------------------------------------------------------------------


def test_a_score_counts_answers_and_characters() -> None:
    found = score([outcome("abcd", "abcd"), outcome("abcd", "abd"), outcome("ab", "xyab"), outcome("10", "10 ")])
    assert (found.questions, found.right, found.share) == (4, 1, 0.25)
    assert (found.low, found.high) == wilson(1, 4)
    assert found.character_error_rate == (1 + 2 + 1) / (4 + 4 + 2 + 2)


def test_any_accepted_answer_is_right_and_the_nearest_one_counts_the_errors() -> None:
    known = Outcome("?", "two", "2", "", "", "1x1", also=("2", "two"))
    assert known.accepted == ("two", "2", "two")
    assert known.exact
    assert known.character_errors == (0, 1)
    near = Outcome("?", "12345", "teb", "", "", "1x1", also=("ten",))
    assert not near.exact
    assert near.character_errors == (1, 3)
    assert score([known, near]).character_error_rate == 1 / 4


def test_groups_are_scored_apart() -> None:
    outcomes = [
        outcome("a", "a", "line", "sign", "2x1"),
        outcome("a", "b", "count", "sign", "1x1"),
        outcome("a", "a", "line", "chart", "1x1"),
    ]
    assert {name: (found.right, found.questions) for name, found in score_by(outcomes, "kind").items()} == {
        "count": (0, 1),
        "line": (2, 2),
    }
    assert list(score_by(outcomes, "scene")) == ["chart", "sign"]
    assert list(score_by(outcomes, "grid")) == ["1x1", "2x1"]


def test_no_answers_have_no_score() -> None:
    with pytest.raises(ValueError, match="no share"):
        score([])


# --- McNemar ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    # Tails of the binomial distribution with 1/2: of 10, at most 2: 56/1024; of 6, 0: 1/64.
    [(2, 8, 2 * 56 / 1024), (8, 2, 2 * 56 / 1024), (0, 6, 2 / 64), (5, 5, 1.0), (0, 0, 1.0), (0, 1, 1.0)],
)
def test_mcnemar_is_the_exact_binomial_test(only_first: int, only_second: int, p_value: float) -> None:
    first = [True] * only_first + [False] * only_second + [True, False] * 7
    second = [False] * only_first + [True] * only_second + [True, False] * 7
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.p_value == pytest.approx(p_value, rel=1e-12)


def test_mcnemar_of_thousands_neither_overflows_nor_vanishes() -> None:
    found = mcnemar([True] * 1500 + [False] * 900, [False] * 1500 + [True] * 900)
    # The normal approximation, (b - c)^2 / (b + c) = 150 -> p = 1.7e-34
    assert 1e-36 < found.p_value < 1e-32


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_mcnemar_is_symmetric_and_a_probability(pairs: list[tuple[bool, bool]]) -> None:
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    found = mcnemar(first, second)
    assert 0 < found.p_value <= 1
    assert mcnemar(second, first).p_value == found.p_value
    assert found.only_first - found.only_second == sum(first) - sum(second)


def test_systems_on_different_questions_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="longer"):
        mcnemar([True], [True, False])
