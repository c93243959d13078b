from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.errors import PocketVlmError
from pocketvlm.runtime.sampling import GenerationConfig, Sampler, SplitMix64, candidates
from tests.runtime import portable_sampling

GOLDEN = json.loads(portable_sampling.GOLDEN.read_text(encoding="utf-8"))

# few distinct values, so that ties are common; powers of two keep differences exact
LOGITS = st.lists(st.sampled_from([-4.0, -1.0, -0.5, 0.0, 0.25, 1.0, 2.0, 8.0]), min_size=1, max_size=30)
CONFIGS = st.builds(
    GenerationConfig,
    temperature=st.sampled_from([0.0, 1e-300, 0.25, 1.0, 3.0, 1e300]),
    top_k=st.integers(0, 35),
    top_p=st.sampled_from([1e-9, 0.3, 0.5, 0.9, 0.999, 1.0]),
    seed=st.integers(0, 2**64 - 1),
)


def test_splitmix64_gives_the_published_numbers() -> None:
    source = SplitMix64(1234567)
    published = (
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    )
    assert tuple(source.next_uint64() for _ in published) == published


def test_doubles_are_the_upper_53_bits() -> None:
    assert SplitMix64(1234567).next_double() == (6457827717110365317 >> 11) / 2**53
    for row in GOLDEN["splitmix64"]:
        source = SplitMix64(int(row["seed"]))
        assert [source.next_double() for _ in row["doubles"]] == row["doubles"]
        source = SplitMix64(int(row["seed"]))
        assert [str(source.next_uint64()) for _ in row["outputs"]] == row["outputs"]


@pytest.mark.parametrize("sequence", GOLDEN["sequences"], ids=lambda sequence: sequence["name"])
def test_golden_sequences(sequence: dict) -> None:
    config = GenerationConfig(
        temperature=sequence["temperature"],
        top_k=sequence["top_k"],
        top_p=sequence["top_p"],
        seed=int(sequence["seed"]),
    )
    rows = np.array(GOLDEN["logits"][sequence["logits"]], np.float32)
    sampler = Sampler(config)
    assert [sampler(rows[t % len(rows)]) for t in range(len(sequence["tokens"]))] == sequence["tokens"]


def test_the_golden_file_is_what_its_generator_writes_and_has_variety() -> None:
    assert portable_sampling.GOLDEN.read_text(encoding="utf-8") == portable_sampling.text()
    hot = next(row for row in GOLDEN["sequences"] if row["name"] == "hot, spread")
    assert len(set(hot["tokens"])) > 10


@given(LOGITS, CONFIGS)
def test_equal_to_the_rule_in_plain_python(logits: list[float], config: GenerationConfig) -> None:
    sampler = Sampler(config)
    random = map(portable_sampling.uniform, portable_sampling.splitmix64(config.seed, 8))
    wanted = [
        portable_sampling.choose(logits, config.temperature, config.top_k, config.top_p, next(random)) for _ in range(8)
    ]
    assert [sampler(np.array(logits, np.float32)) for _ in range(8)] == wanted


@given(LOGITS)
def test_greedy_takes_the_lowest_of_equal_ids(logits: list[float]) -> None:
    assert Sampler(GenerationConfig())(np.array(logits, np.float32)) == logits.index(max(logits))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (7, 1.0), (0, 0.6), (20, 0.9), (1, 0.5), (300, 0.95)])
def test_the_same_candidates_and_probabilities_as_transformers(seed: int, top_k: int, top_p: float) -> None:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = np.random.default_rng(seed).normal(0, 3, 300).astype(np.float32)  # no ties: torch breaks them its own way
    scores = torch.from_numpy(logits).double()[None]
    unused = torch.zeros(1, 1, dtype=torch.long)
    for warper in (
        TemperatureLogitsWarper(0.7),
        TopKLogitsWarper(top_k or len(logits)),
        TopPLogitsWarper(top_p),
    ):
        scores = warper(unused, scores)
    wanted = scores[0].softmax(-1).numpy()
    ids, cumulative = candidates(logits, GenerationConfig(temperature=0.7, top_k=top_k, top_p=top_p))
    found = np.zeros(len(logits))
    found[ids] = np.diff(cumulative, prepend=0) / cumulative[-1]
    assert set(ids.tolist()) == set(np.flatnonzero(wanted).tolist())
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("u", "token"), [(0.0, 0), (0.25, 1), (0.5, 2), (0.4999, 1), (1 - 2**-53, 3)])
def test_a_number_on_the_edge_of_two_tokens_takes_the_later_one(u: float, token: int) -> None:
    sampler = Sampler(GenerationConfig(temperature=1.0))
    sampler._random.next_double = lambda: u  # type: ignore[method-assign]
    assert sampler(np.zeros(4, np.float32)) == token


def test_frequencies_are_the_probabilities() -> None:
    logits = np.array([0.0, 1.0, 2.0, -1.0], np.float32)
    sampler = Sampler(GenerationConfig(temperature=1.0, seed=7))
    draws = 20_000
    found = np.bincount([sampler(logits) for _ in range(draws)], minlength=4) / draws
    wanted = np.exp(logits) / np.exp(logits).sum()
    assert (abs(found - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / draws)).all()


def test_minus_infinity_is_never_chosen_and_nan_is_an_error() -> None:
    sampler = Sampler(GenerationConfig(temperature=5.0))
    logits = np.array([-np.inf, 0.0, -np.inf], np.float32)
    assert {sampler(logits) for _ in range(20)} == {1}
    for bad in ([0.0, math.nan], [math.inf, 0.0], [-math.inf, -math.inf]):
        with pytest.raises(PocketVlmError, match="not numbers"):
            sampler(np.array(bad, np.float32))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 1.5),
        ("max_new_tokens", True),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("seed", -1),
        ("seed", 2**64),
        ("stop", "text"),
        ("stop", ("",)),
        ("stop", ("a",) * 65),
    ],
)
def test_a_config_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        GenerationConfig(**{field: value})  # type: ignore[arg-type]


def test_a_config_is_frozen_and_takes_a_list_of_stop_strings() -> None:
    config = GenerationConfig(stop=["a", "b"])  # type: ignore[arg-type]
    assert config.stop == ("a", "b")
    with pytest.raises(AttributeError):
        config.seed = 1  # type: ignore[misc]
