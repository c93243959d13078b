"""What scores mean in words: bounds, and what an export says of them."""

from __future__ import annotations

import math

import pytest

from pocketvlm.bundle.record import Calibration, RecipeRecord, TextFidelity
from pocketvlm.bundle.verdict import GOOD, USABLE, in_words, verdict

SEEN = Calibration(source="text", sequences=1, tokens=2, sha256="0" * 64)


def scores(kl_mean: float) -> TextFidelity:
    return TextFidelity(
        tokens=10, kl_mean=kl_mean, kl_median=0, kl_p999=0, kl_max=0, top1_agreement=1, perplexity_ratio=1,
        relative_error_by_layer=(),
    )  # fmt: skip


def said(kl_mean: float, recipe: str = "int4-g128", calibration: Calibration | None = None) -> str:
    return in_words(scores(kl_mean), RecipeRecord(name=recipe, tensors={}, calibration=calibration))


@pytest.mark.parametrize(
    ("kl_mean", "wanted"),
    [(0, "good"), (GOOD, "good"), (GOOD + 1e-9, "usable"), (USABLE, "usable"), (USABLE + 1e-9, "poor"), (1e30, "poor")],
)
def test_the_bounds(kl_mean: float, wanted: str) -> None:
    assert verdict(scores(kl_mean)) == wanted
    assert said(kl_mean).startswith(f"{wanted}: ")


def test_what_was_measured_of_real_models_has_its_verdict() -> None:
    """SmolLM2-135M by int8, gptq-g32, gptq-g128, int4-g32 (docs/numerics.md): as their answers are."""
    assert [verdict(scores(kl)) for kl in (0.0117, 0.083, 0.117, 0.576)] == ["good", "usable", "usable", "poor"]


def test_it_names_what_it_costs_and_what_comes_nearer() -> None:
    assert said(0.01) == "good: answers should be the original's"
    assert said(math.log(1.08)) == (
        "usable: the original's own text gets 8% more perplexity; --recipe gptq-g32 comes nearer"
    )
    assert said(math.log(1.5), calibration=SEEN).endswith(
        "gets 50% more perplexity, answers may be wrong; --recipe int8 comes nearer"
    )
    assert said(0.4, "int8").endswith("; pocketvlm eval says more")
    assert len(said(1e30)) < 200
