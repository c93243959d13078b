"""Fidelity's statistics: known answers, what PyTorch computes, and what must hold of any logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch.nn import functional as F

from pocketvlm.bench.statistics.bootstrap import bootstrap
from pocketvlm.errors import ResultsError
from pocketvlm.fidelity import divergence as fidelity
from pocketvlm.fidelity.divergence import (
    SquaredError,
    TokenScores,
    cosines,
    estimate_ratio,
    kl_divergence,
    log_softmax,
    report_images,
    report_logits,
    score_images,
    score_tokens,
    squared_error,
)

SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)
LOGIT = st.floats(-1e4, 1e4)
PAIRS = SHAPES.flatmap(lambda shape: st.tuples(*[arrays(np.float64, shape, elements=LOGIT)] * 2))


def scores(kl: list[float], agrees: list[bool], original: list[float], bundle: list[float]) -> TokenScores:
    return TokenScores(np.array(kl), np.array(agrees), np.array(original), np.array(bundle))


# --- KL divergence ----------------------------------------------------------------------------------------------------


def test_the_divergence_of_two_coins_is_known() -> None:
    fair, biased = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    assert kl_divergence(fair, biased) == pytest.approx([0.5 * math.log(2) + 0.5 * math.log(2 / 3)], abs=1e-15)
    assert kl_divergence(biased, fair) == pytest.approx([0.25 * math.log(0.5) + 0.75 * math.log(1.5)], abs=1e-15)
    certain = np.array([[1e4, 0.0]])
    assert kl_divergence(certain, fair) == pytest.approx([math.log(2)])
    assert kl_divergence(fair, certain) == pytest.approx([5e3 - math.log(2)])


@given(PAIRS)
def test_the_divergence_is_what_pytorch_computes(pair: tuple[np.ndarray, np.ndarray]) -> None:
    original, bundle = (torch.from_numpy(logits).log_softmax(-1) for logits in pair)
    wanted = F.kl_div(bundle, original, reduction="none", log_target=True).sum(-1)
    np.testing.assert_allclose(log_softmax(pair[0]), original.numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(kl_divergence(*pair), wanted.numpy(), rtol=1e-9, atol=1e-11)


@given(PAIRS, st.floats(-1e4, 1e4))
def test_the_divergence_is_not_negative_and_constants_do_not_matter(
    pair: tuple[np.ndarray, np.ndarray], constant: float
) -> None:
    original, bundle = pair
    divergence = kl_divergence(original, bundle)
    assert (divergence >= 0).all()
    assert (kl_divergence(original, original) == 0).all()
    np.testing.assert_allclose(kl_divergence(original + constant, bundle), divergence, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(kl_divergence(original, bundle + constant), divergence, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(kl_divergence(original, original + constant), 0, atol=1e-11)


# --- Scores and their report ------------------------------------------------------------------------------------------


def test_positions_are_scored_alike_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    original, bundle = (generator.normal(size=(7, 30)).astype(np.float32) for _ in range(2))
    targets = generator.integers(0, 30, 7)
    whole = score_tokens(original, bundle, targets)
    for side, losses in ((original, whole.original_loss), (bundle, whole.bundle_loss)):
        wanted = F.cross_entropy(torch.from_numpy(side).double(), torch.from_numpy(targets), reduction="none")
        np.testing.assert_allclose(losses, wanted.numpy(), rtol=1e-12)
    np.testing.assert_array_equal(whole.agrees, original.argmax(-1) == bundle.argmax(-1))
    monkeypatch.setattr(fidelity, "ROWS", 3)
    parts = score_tokens(original, bundle, targets)
    for name in ("kl", "agrees", "original_loss", "bundle_loss"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_of_equal_logits_the_lowest_id_is_the_most_likely() -> None:
    tied, second = np.array([[1.0, 1.0, 0.0]]), np.array([[0.0, 1.0, 0.0]])
    assert not score_tokens(tied, second, np.array([0])).agrees[0]
    assert score_tokens(tied, tied[:, [2, 0, 1]] + [[2, 0, 0]], np.array([0])).agrees[0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_an_error(value: float) -> None:
    with pytest.raises(ResultsError, match="not finite"):
        score_tokens(np.zeros((2, 3)), np.array([[0, 0, 0], [0, value, 0]]), np.array([0, 0]))


def test_the_report_of_few_tokens_is_known() -> None:
    log2 = math.log(2)
    first = scores([0.1, 0.3], [True, False], [log2, log2], [2 * log2, 2 * log2])
    second = scores([0.8], [True], [log2], [2 * log2])
    report = report_logits([first, second])
    assert report.tokens == 3
    assert report.kl_mean.value == pytest.approx(0.4)
    assert (report.kl_median, report.kl_max) == (0.3, 0.8)
    assert report.kl_p999 == pytest.approx(0.8 - 0.002 * 0.5)
    assert report.top1_agreement == pytest.approx(2 / 3)
    assert (report.perplexity_original, report.perplexity_bundle) == pytest.approx((2, 4))
    # The ratio is the same in every resample; the mean divergence is 0.2 to 0.8.
    ratio = report.perplexity_ratio
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2, 2, 2))
    assert (report.kl_mean.low, report.kl_mean.high) == pytest.approx((0.2, 0.8))


def test_a_perplexity_beyond_all_floats_stays_a_number() -> None:
    report = report_logits([scores([5.0], [False], [1.0], [5e3])])
    assert math.isfinite(report.perplexity_bundle)
    assert math.isfinite(report.perplexity_ratio.value)


def test_no_conversations_have_no_report() -> None:
    with pytest.raises(ValueError, match="no conversations"):
        estimate_ratio(np.array([]), np.array([]))
    assert report_images([]) is None


@given(st.lists(st.floats(0, 10), min_size=1, max_size=20, unique=True))
def test_with_one_token_each_the_interval_is_that_of_the_mean(values: list[float]) -> None:
    ordered = sorted(values)
    estimate = estimate_ratio(np.array(ordered), np.ones(len(ordered)))
    assert estimate.value == pytest.approx(math.fsum(values) / len(values))
    assert (estimate.low, estimate.high) == pytest.approx(bootstrap(ordered), abs=1e-12)


def test_the_interval_of_a_ratio_draws_whole_conversations() -> None:
    """Long conversations weigh more, also in the resamples: beside a resampling of its own."""
    generator = np.random.default_rng(1)
    counts = generator.integers(1, 50, 80).astype(np.float64)
    sums = counts * generator.normal(1.0, 0.3, 80)
    drawn = generator.integers(0, 80, (4000, 80))
    ratios = sums[drawn].sum(-1) / counts[drawn].sum(-1)
    estimate = estimate_ratio(sums, counts)
    assert estimate.value == pytest.approx(sums.sum() / counts.sum())
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(ratios, (0.025, 0.975))), abs=0.01)


# --- Image tokens and layers ------------------------------------------------------------------------------------------


def test_errors_and_cosines_of_known_vectors() -> None:
    wanted, found = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 1.0]])
    assert cosines(found, wanted) == pytest.approx([1.0, 0.0])
    assert squared_error(found, wanted) == SquaredError(2.0, 26.0)
    assert squared_error(found, wanted).relative == pytest.approx(math.sqrt(2 / 26))
    assert SquaredError().relative == 0
    report = report_images([score_images(found, wanted), score_images(wanted[:1], wanted[:1])])
    assert report is not None
    assert report.tokens == 3
    assert report.cosine_mean == pytest.approx(2 / 3)
    assert report.cosine_p1 == pytest.approx(0.02)
    assert report.relative_error == pytest.approx(math.sqrt(2 / 51))


@given(PAIRS)
def test_errors_of_parts_add_up(pair: tuple[np.ndarray, np.ndarray]) -> None:
    found, wanted = pair
    parts = [squared_error(found[rows], wanted[rows]) for rows in (slice(0, 1), slice(1, None))]
    total, whole = parts[0] + parts[1], squared_error(found, wanted)
    assert (total.difference, total.wanted) == pytest.approx((whole.difference, whole.wanted))
