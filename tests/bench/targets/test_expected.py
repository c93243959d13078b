"""How far a phone's answer may be from the host's: logits within the tolerance, tokens where two are apart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.bench.report.schema import Agreement, Counts
from pocketvlm.bench.targets.adb.expected import TOLERANCE, Expected, compare_answers
from pocketvlm.errors import DeviceError

VOCABULARY, STEPS = 50, 6
COUNTS = Counts(
    tiles=0, image_tokens=0, prompt_tokens=3, token_ids=(), bytes={}, nodes={}, operators={}, multiplications={}
)


def expected_of(logits: npt.NDArray[np.float32]) -> Expected:
    return Expected((1, 2, 3), None, tuple(logits.argmax(axis=1).tolist()), logits, COUNTS)


def random_logits(seed: int = 0) -> npt.NDArray[np.float32]:
    """[steps, vocabulary]"""
    return np.random.default_rng(seed).normal(size=(STEPS, VOCABULARY)).astype(np.float32)


def compare(expected: Expected, logits: npt.NDArray[np.float32]) -> Agreement:
    return compare_answers(expected, logits.argmax(axis=1).tolist(), logits)


def test_the_same_answer() -> None:
    logits = random_logits()
    found = compare(expected_of(logits), logits)
    assert (found.same, found.tokens, found.largest_difference, found.gap_where_parted) == (STEPS, STEPS, 0.0, None)
    assert found.holds
    assert "the answer is the host's (6 of 6 tokens)" in found.summary


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0.1, 1e4))
def test_within_the_tolerance_tokens_part_only_where_two_are_close(seed: int, share: float, scale: float) -> None:
    """Rounding, whatever the logits' scale is: no more than the tolerance makes two answers the same."""
    host = random_logits(seed) * np.float32(scale)
    noise = np.random.default_rng(seed + 1).uniform(-1, 1, host.shape) * share * TOLERANCE * host.std(axis=1)[:, None]
    found = compare(expected_of(host), (host + noise).astype(np.float32))
    assert found.holds or share > 0.999
    if found.gap_where_parted is not None:
        assert found.gap_where_parted <= 2 * TOLERANCE * 1.001
        assert "parts from the host's" in found.summary


def test_beyond_the_tolerance() -> None:
    host = random_logits()
    there = host.copy()
    there[2, host[2].argmin()] += 2 * TOLERANCE * host[2].std()
    found = compare(expected_of(host), there)
    assert not found.holds
    assert found.largest_difference == pytest.approx(2 * TOLERANCE, rel=1e-3)


def test_what_follows_another_token_is_not_compared() -> None:
    host = random_logits()
    second = int(host[1].argsort()[-2])
    there = host.copy()
    there[1, second] = host[1].max() + np.float32(0.01)
    there[2:] = random_logits(7)[2:]
    found = compare(expected_of(host), there)
    assert found.same == 1
    assert found.gap_where_parted == pytest.approx((host[1].max() - host[1, second]) / host[1].std(), rel=1e-5)
    longer = compare_answers(expected_of(host), [*there.argmax(axis=1).tolist(), 5], there)
    assert longer == found, "it may also go on longer"


def test_what_no_rounding_does() -> None:
    host = random_logits()
    expected, ids = expected_of(host), host.argmax(axis=1).tolist()
    with pytest.raises(DeviceError, match="token 3 of the phone's answer is not the likeliest of its own logits"):
        compare_answers(expected, [*ids[:2], (ids[2] + 1) % VOCABULARY, *ids[3:]], host)
    with pytest.raises(DeviceError, match="values that are no numbers"):
        compare_answers(expected, ids, np.where(host == host[4, 4], np.nan, host).astype(np.float32))
    with pytest.raises(DeviceError, match="the phone's answer has 4 tokens, the host's 6"):
        compare_answers(expected, ids[:4], host[:4])


def test_no_answer_at_all() -> None:
    empty = np.empty((0, VOCABULARY), np.float32)
    assert compare_answers(expected_of(empty), [], empty).holds
