from __future__ import annotations

import json
import math
import tracemalloc
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from pocketvlm.errors import PocketVlmError
from pocketvlm.runtime.sampling import Adjustment, GenerationConfig, Sampler, SplitMix64, candidates, scores
from tests.support import portable_sampling

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
BIASES = st.floats(-100, 100)
PENALTIES = st.sampled_from([1e-300, 0.5, 0.9, 1.0, 1.1, 1.3, 7.0, 1e300])
#: also ids that are outside the vocabulary
SEEN = st.lists(st.integers(0, 40), max_size=12)


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
        repetition_penalty=sequence.get("repetition_penalty", 1.0),
        logit_bias=sequence.get("logit_bias", ()),
    )
    rows = np.array(GOLDEN["logits"][sequence["logits"]], np.float32)
    sampler = Sampler(config, sequence.get("seen", ()))
    assert [sampler(rows[t % len(rows)]) for t in range(len(sequence["tokens"]))] == sequence["tokens"]


@pytest.mark.parametrize("case", GOLDEN["adjustments"], ids=lambda case: case["name"])
def test_golden_adjustments(case: dict) -> None:
    logits = np.array(GOLDEN["logits"][case["logits"]][0], np.float32)
    config = GenerationConfig(repetition_penalty=case["repetition_penalty"], logit_bias=case["logit_bias"])
    found = Adjustment(config, case["seen"], len(logits)).apply(logits)
    assert found.dtype == np.float32
    assert found.tolist() == case["adjusted"]


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


@given(LOGITS, CONFIGS, PENALTIES, SEEN, st.data())
def test_equal_to_the_rule_in_plain_python_with_penalty_and_bias(
    logits: list[float], config: GenerationConfig, penalty: float, seen: list[int], data: st.DataObject
) -> None:
    bias = data.draw(st.dictionaries(st.integers(0, len(logits) - 1), BIASES, max_size=5))
    sampler = Sampler(replace(config, repetition_penalty=penalty, logit_bias=bias), seen)
    wanted = portable_sampling.sequence(
        [logits], config.temperature, config.top_k, config.top_p, config.seed, penalty, bias, seen, 8
    )
    assert [sampler(np.array(logits, np.float32)) for _ in range(8)] == wanted


@given(LOGITS, CONFIGS, SEEN)
def test_a_penalty_of_1_and_no_bias_change_nothing(
    logits: list[float], config: GenerationConfig, seen: list[int]
) -> None:
    plain, same = Sampler(config), Sampler(replace(config, repetition_penalty=1.0, logit_bias={}), seen)
    values = np.array(logits, np.float32)
    zero = Sampler(replace(config, logit_bias=dict.fromkeys(range(len(logits)), 0.0)), seen)
    for _ in range(4):
        assert plain(values) == same(values) == zero(values)


def test_logits_are_copied_only_where_they_change() -> None:
    logits = np.arange(500_000, dtype=np.float32)

    def peak_bytes(sampler: Sampler) -> int:
        tracemalloc.start()
        try:
            sampler(logits)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak_bytes(Sampler(GenerationConfig(), range(100))) < logits.nbytes / 100
    assert logits.nbytes <= peak_bytes(Sampler(GenerationConfig(logit_bias={1: 1.0}))) < 1.1 * logits.nbytes


@given(st.lists(st.floats(-49, 49, width=32), min_size=1, max_size=30), st.data())
def test_a_bias_of_100_forces_a_token_and_one_of_minus_100_forbids_it(logits: list[float], data: st.DataObject) -> None:
    token_id = data.draw(st.integers(0, len(logits) - 1))
    values = np.array(logits, np.float32)
    assert Sampler(GenerationConfig(logit_bias={token_id: 100}))(values) == token_id
    assert len(logits) == 1 or Sampler(GenerationConfig(logit_bias={token_id: -100}))(values) != token_id


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=30),
    st.floats(1, 1e308, exclude_min=True),
    st.data(),
)
def test_a_penalized_token_never_gets_likelier(logits: list[float], penalty: float, data: st.DataObject) -> None:
    """Of several seen tokens one may, where another loses more: only its logit never rises."""
    values = np.array(logits, np.float32)
    seen = data.draw(st.sets(st.integers(0, len(logits) - 1), min_size=1))
    config = GenerationConfig(temperature=1.0, repetition_penalty=penalty)
    after = Adjustment(config, seen, len(logits)).apply(values)
    assert np.isfinite(after).all()
    assert (after <= values).all()
    assert all(after[token_id] == values[token_id] for token_id in range(len(logits)) if token_id not in seen)
    one = min(seen)
    assert _probability(Adjustment(config, [one], len(logits)).apply(values), one) <= _probability(values, one) + 1e-12


def _probability(logits: npt.NDArray[np.float32], token_id: int) -> float:
    ids, cumulative = candidates(logits, GenerationConfig(temperature=1.0))
    return float((np.diff(cumulative, prepend=0) / cumulative[-1])[ids.tolist().index(token_id)])


def test_the_penalty_counts_a_token_once_and_from_the_next_token_on() -> None:
    logits = np.array([1.0, 4.0, 3.0, -1.0], np.float32)
    assert Adjustment(GenerationConfig(repetition_penalty=2.0), [1, 1, 3], 4).apply(logits).tolist() == [1, 2, 3, -2]
    sampler = Sampler(GenerationConfig(repetition_penalty=2.0))
    assert [sampler(logits) for _ in range(4)] == [1, 2, 1, 1]
    assert logits.tolist() == [1, 4, 3, -1]


def test_seen_tokens_outside_the_vocabulary_are_ignored_and_an_iterator_is_enough() -> None:
    sampler = Sampler(GenerationConfig(repetition_penalty=2.0), iter([-1, 2**70, 3, 2, 2]))
    assert sampler(np.array([0.0, 1.0, 1.5], np.float32)) == 1


def test_a_bias_outside_the_vocabulary_is_named_at_the_first_token() -> None:
    logits = np.zeros(5, np.float32)
    assert Sampler(GenerationConfig(logit_bias={4: 1.0}))(logits) == 4
    for token_id in (5, 2**70):
        sampler = Sampler(GenerationConfig(logit_bias={0: 1.0, token_id: 0.0}))
        with pytest.raises(PocketVlmError, match=f"logit_bias has token {token_id}, the model's vocabulary has 5"):
            sampler(logits)


def test_logits_that_are_not_finite_stay_so() -> None:
    config = GenerationConfig(temperature=1.0, repetition_penalty=0.5, logit_bias={0: 100.0})
    sampler = Sampler(config, [0, 1])
    assert {sampler(np.array([-np.inf, 0.0, -np.inf], np.float32)) for _ in range(20)} == {1}
    for bad in ([0.0, math.nan], [math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]):
        with pytest.raises(PocketVlmError, match="not numbers"):
            Sampler(config, [0, 1])(np.array(bad, np.float32))


@pytest.mark.parametrize("penalty", [0.3, 0.99, 1.0, 1.2, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_same_penalty_as_transformers(penalty: float, seed: int) -> None:
    """In float64, rounded once; transformers itself works in the logits' type."""
    from transformers import RepetitionPenaltyLogitsProcessor

    random = np.random.default_rng(seed)
    logits = random.normal(0, 5, 400).astype(np.float32)
    logits[:2] = 0
    seen = [0, *random.integers(0, 400, 150).tolist()]
    scores = torch.from_numpy(logits).double()[None]
    wanted = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([seen]), scores)[0].float().numpy()
    found = Adjustment(GenerationConfig(repetition_penalty=penalty), seen, len(logits)).apply(logits)
    np.testing.assert_array_equal(found, wanted)


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
        ("repetition_penalty", 0),
        ("repetition_penalty", -1.5),
        ("repetition_penalty", math.nan),
        ("repetition_penalty", math.inf),
        ("repetition_penalty", 10**400),
        ("repetition_penalty", True),
        ("logit_bias", "5=1"),
        ("logit_bias", None),
        ("logit_bias", (5, 1.0)),
        ("logit_bias", [(5, 1.0, 2.0)]),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {1.0: 1.0}),
        ("logit_bias", {True: 1.0}),
        ("logit_bias", {"5": 1.0}),
        ("logit_bias", {5: math.nan}),
        ("logit_bias", {5: math.inf}),
        ("logit_bias", {5: 100.5}),
        ("logit_bias", {5: -101}),
        ("logit_bias", {5: "1"}),
        ("logit_bias", {5: 10**400}),
        ("logit_bias", [(5, 1.0), (6, 0.0), (5, 1.0)]),
        ("logit_bias", dict.fromkeys(range(1025), 1.0)),
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


def test_a_bias_is_kept_as_pairs_in_order_so_that_equal_configs_are_equal() -> None:
    config = GenerationConfig(logit_bias={7: 1, 2: -0.5})
    assert config.logit_bias == ((2, -0.5), (7, 1.0))
    for same in ([[7, 1.0], [2, -0.5]], ((2, -0.5), (7, 1.0)), config.logit_bias):
        other = GenerationConfig(logit_bias=same)  # type: ignore[arg-type]
        assert (other, hash(other)) == (config, hash(config))
    assert GenerationConfig(logit_bias={}).logit_bias == ()
    assert len(GenerationConfig(logit_bias=dict.fromkeys(range(1024), 1.0)).logit_bias) == 1024
    assert replace(config, seed=3).logit_bias == config.logit_bias


# --- How likely tokens were -------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1024, 1024, width=32), min_size=2, max_size=30), st.integers(0, 20), st.data())
def test_scores_are_scipys(values: list[float], count: int, data: st.DataObject) -> None:
    logits, token_id = np.array(values, np.float32), data.draw(st.integers(0, len(values) - 1))
    wanted = log_softmax(logits.astype(np.float64))
    found = scores(logits, token_id, count)
    assert found.logprob == pytest.approx(wanted[token_id], rel=1e-9, abs=1e-12)
    assert len(found.top) == min(count, len(values))
    assert [score for _, score in found.top] == pytest.approx(sorted(wanted, reverse=True)[:count], rel=1e-9, abs=1e-12)
    assert all(score == pytest.approx(wanted[one], rel=1e-9, abs=1e-12) for one, score in found.top)
