"""What an export's scores mean, in a word.

The divergence KL(original || bundle), in nats, is what the bundle loses where the original is right: text that the
original would write has its perplexity times exp(KL). The bounds are where models began to answer otherwise: of
SmolLM2-135M INT8 had 0.01 nats and 1 % more perplexity, GPTQ in groups of 32 0.08 and 8 %, round to nearest 0.3 and
more, and it repeated itself; the built-in model answers as many questions right at 0.01, half a point fewer at 0.09.
"""

from __future__ import annotations

import math
from typing import Literal

from pocketvlm.bundle.record import RecipeRecord, TextFidelity

Verdict = Literal["good", "usable", "poor"]
#: The largest mean KL divergence of the logits, nats, of each verdict but the last.
GOOD, USABLE = 0.03, 0.15
#: Beyond it more digits say nothing.
MOST_NATS = 5.0


def verdict(scores: TextFidelity) -> Verdict:
    """good: answers are the original's, as far as was measured; usable: some differ in words; poor: some are wrong."""
    return "good" if scores.kl_mean <= GOOD else "usable" if scores.kl_mean <= USABLE else "poor"


def in_words(scores: TextFidelity, recipe: RecipeRecord) -> str:
    """The verdict, what it means, and a recipe that comes nearer to the original."""
    word = verdict(scores)
    if word == "good":
        return "good: answers should be the original's"
    cost = f"the original's own text gets {math.expm1(min(scores.kl_mean, MOST_NATS)):.0%} more perplexity"
    nearer = "gptq-g32" if recipe.calibration is None else "int8"
    advice = f"--recipe {nearer} comes nearer" if recipe.name not in ("int8", "fp32") else "pocketvlm eval says more"
    return f"{word}: {cost}{', answers may be wrong' if word == 'poor' else ''}; {advice}"
