"""Scores of answers: exact matches, character errors, groups."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.bench.accuracy.scores import Outcome, members_by, score
from pocketvlm.bench.statistics.intervals import wilson


def outcome(wanted: str, got: str, kind: str = "line", scene: str = "sign", grid: str = "1x1") -> Outcome:
    return Outcome("What is it?", wanted, got, kind, scene, grid)


# --- Character errors -------------------------------------------------------------------------------------------------


def errors(wanted: str, got: str) -> int:
    return outcome(wanted, got).character_errors[0]


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
    assert errors(first, second) == distance


@given(st.text("aé\n😀", max_size=9), st.text("aé\n😀", max_size=9))
def test_the_errors_are_the_edit_distance_of_the_definition(first: str, second: str) -> None:
    assert errors(first, second) == slow_distance(first, second) == errors(second, first)


def test_the_distance_of_long_texts_is_quick_and_right() -> None:
    """Longer than a machine word; a hostile pair of answers must not take minutes."""
    assert errors("ab" * 4000, "ba" * 4000) == 2
    assert errors("x" * 300 + "abc", "abc" + "y" * 200) == 303


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
    assert members_by(outcomes, "kind") == {"line": [0, 2], "count": [1]}
    assert members_by(outcomes, "scene") == {"sign": [0, 1], "chart": [2]}
    assert members_by(outcomes, "grid") == {"2x1": [0], "1x1": [1, 2]}


def test_no_answers_have_no_score() -> None:
    with pytest.raises(ValueError, match="must be an integer not less than 1"):
        score([])
