"""Wilson's interval and McNemar's test against published values, their closed forms and what defines them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.bench.statistics.intervals import mcnemar, wilson

#: 97.5 % of a standard normal distribution lies below it
Z_95 = 1.959963984540054
counts = st.integers(1, 5000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count)))


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


@given(counts)
def test_the_interval_is_the_closed_form(pair: tuple[int, int]) -> None:
    right, count = pair
    share, square = right / count, Z_95**2
    half = Z_95 * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    ends = ((share + square / (2 * count) + sign * half) / (1 + square / count) for sign in (-1, 1))
    assert wilson(right, count) == pytest.approx(tuple(ends), abs=1e-12)
    assert (right > 0 or wilson(right, count)[0] == 0) and (right < count or wilson(right, count)[1] == 1)


@pytest.mark.parametrize(("right", "count"), [(0, 0), (3, 2), (-1, 2)])
def test_what_is_no_share_is_refused(right: int, count: int) -> None:
    with pytest.raises(ValueError, match=r"must be an integer not less than|must not be greater than"):
        wilson(right, count)


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


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_twice_the_tail_in_whole_numbers(only_first: int, only_second: int) -> None:
    discordant = only_first + only_second
    tail = sum(math.comb(discordant, count) for count in range(min(only_first, only_second) + 1))
    found = mcnemar([True] * only_first + [False] * only_second, [False] * only_first + [True] * only_second)
    assert found.p_value == pytest.approx(min(1.0, 2 * tail / 2**discordant), rel=1e-10)


def test_systems_on_different_questions_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="longer"):
        mcnemar([True], [True, False])
