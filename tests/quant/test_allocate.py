"""Bytes go where they take off the most error: beside all possible allocations, and what holds for any."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.errors import RecipeError
from pocketvlm.quant.allocate import Choice, allocate, lower_hull
from pocketvlm.recipe import Rule

KEEP = Rule(("*",), "keep")
options = st.lists(st.tuples(st.integers(1, 60), st.floats(0, 10)), min_size=1, max_size=5)
tables = st.dictionaries(st.sampled_from("abcd"), options, min_size=1, max_size=4)


def choices_of(table: dict[str, list[tuple[int, float]]]) -> dict[str, list[Choice]]:
    return {name: [Choice(KEEP, size, error) for size, error in rows] for name, rows in table.items()}


@given(tables, st.integers(0, 240))
@settings(max_examples=200)
def test_it_takes_no_more_bytes_than_there_are(table: dict[str, list[tuple[int, float]]], most: int) -> None:
    choices = choices_of(table)
    smallest = sum(min(choice.bytes for choice in rows) for rows in choices.values())
    if smallest > most:
        with pytest.raises(RecipeError, match="more than the"):
            allocate(choices, most)
        return
    chosen = allocate(choices, most)
    assert set(chosen) == set(choices)
    assert all(chosen[name] in rows for name, rows in choices.items())
    assert sum(choice.bytes for choice in chosen.values()) <= most


@given(tables)
@settings(max_examples=100)
def test_with_room_for_all_every_error_is_the_least(table: dict[str, list[tuple[int, float]]]) -> None:
    choices = choices_of(table)
    chosen = allocate(choices, 10_000)
    assert all(chosen[name].error == min(choice.error for choice in rows) for name, rows in choices.items())


@given(tables, st.data())
@settings(max_examples=200)
def test_where_the_last_step_fits_exactly_nothing_is_better(
    table: dict[str, list[tuple[int, float]]], data: st.DataObject
) -> None:
    """At the sizes that the exchanges in their order reach, the relaxed optimum is the true one."""
    choices = choices_of(table)
    hulls = [lower_hull(rows) for rows in choices.values()]
    steps = sorted(
        ((one.error - two.error) / (two.bytes - one.bytes), two.bytes - one.bytes)
        for hull in hulls
        for one, two in pairwise(hull)
    )[::-1]
    count = data.draw(st.integers(0, len(steps)))
    most = sum(hull[0].bytes for hull in hulls) + sum(more for _, more in steps[:count])
    found = sum(choice.error for choice in allocate(choices, most).values())
    every = product(*choices.values())
    best = min(sum(c.error for c in row) for row in every if sum(c.bytes for c in row) <= most)
    assert found == pytest.approx(best, abs=1e-9)


def test_a_hull_leaves_out_what_is_never_worth_its_bytes() -> None:
    rows = [
        Choice(KEEP, 4, 1.0),
        Choice(KEEP, 5, 0.95),
        Choice(KEEP, 6, 0.2),
        Choice(KEEP, 7, 0.3),
        Choice(KEEP, 9, 0.1),
    ]
    assert [choice.bytes for choice in lower_hull(rows)] == [4, 6, 9]
