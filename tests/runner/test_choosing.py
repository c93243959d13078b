"""How the native library chooses tokens, and drafts of them, beside the golden file and beside Python."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.runtime.lookup import Lookup, Pace
from pocketvlm.runtime.sampling import GenerationConfig, Sampler
from tests.runner.native import Probe
from tests.support.portable_sampling import GOLDEN as SAMPLING

GOLDEN: dict[str, Any] = json.loads(SAMPLING.read_text(encoding="utf-8"))


def test_golden_random_numbers(probe: Probe) -> None:
    for row in GOLDEN["splitmix64"]:
        outputs = probe("numbers", seed=int(row["seed"]), count=len(row["outputs"]))
        assert outputs == [list(pair) for pair in zip(row["outputs"], row["doubles"], strict=True)]


@pytest.mark.parametrize("sequence", GOLDEN["sequences"], ids=lambda sequence: sequence["name"])
def test_golden_sequences(probe: Probe, sequence: dict[str, Any]) -> None:
    asked = {key: sequence[key] for key in ("temperature", "top_k", "top_p", "repetition_penalty", "logit_bias", "seen")
             if key in sequence}  # fmt: skip
    tables, count = GOLDEN["logits"][sequence["logits"]], len(sequence["tokens"])
    found = probe("sample", logits=tables, seed=int(sequence["seed"]), count=count, **asked)
    assert found == sequence["tokens"]


@given(tokens=st.lists(st.integers(-1, 4), max_size=40), most=st.integers(0, 20))
@settings(deadline=None)
def test_drafts_are_pythons(probe: Probe, tokens: list[int], most: int) -> None:
    assert probe("drafts", tokens=tokens, most=most) == Lookup(tokens).draft(most)


@given(steps=st.lists(st.tuples(st.floats(0.5, 3), st.integers(0, 16)), max_size=60))
@settings(deadline=None)
def test_drafts_are_as_long_as_pythons(probe: Probe, steps: list[tuple[float, int]]) -> None:
    pace, most = Pace(), [0]
    for seconds, held in steps:
        pace.took(seconds, most[-1], min(held, most[-1]))
        most.append(pace.most())
    assert probe("paces", steps=steps) == most


@pytest.mark.parametrize("case", GOLDEN["adjustments"], ids=lambda case: case["name"])
def test_golden_adjustments(probe: Probe, case: dict[str, Any]) -> None:
    asked = {key: case[key] for key in ("repetition_penalty", "logit_bias", "seen")}
    assert probe("adjust", logits=GOLDEN["logits"][case["logits"]][0], **asked) == case["adjusted"]


@given(
    logits=st.lists(st.floats(-50, 50, width=32).map(lambda value: round(value, 1)), min_size=1, max_size=70),
    temperature=st.sampled_from([0.0, 0.01, 0.7, 1.0, 3.0]),
    top_k=st.integers(0, 8),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 2**64 - 1),
)
def test_tokens_are_pythons(
    probe: Probe, logits: list[float], temperature: float, top_k: int, top_p: float, seed: int
) -> None:
    rule: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    sampler, row = Sampler(GenerationConfig(**rule)), np.array(logits, np.float32)
    assert probe("sample", logits=[row.tolist()], count=6, **rule) == [sampler(row) for _ in range(6)]


def test_logits_that_are_no_numbers_choose_nothing(probe: Probe) -> None:
    # A double beyond float32's range is infinity there; JSON has no other way to say it.
    answer = probe._said("sample", {"logits": [[0.0] * 20 + [1e39] + [0.0] * 20], "count": 1})
    assert answer == {"refused": 1, "line": "the model's logits are not numbers: export it again"}
