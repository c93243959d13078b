"""Prompt lookup: drafts, how long they may be, and that an answer is the same with them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.runtime import GenerationConfig, load
from pocketvlm.runtime.lookup import LENGTHS, NGRAM, Lookup, Pace
from tests.runtime.test_generation import ids_of, kv, model, saying
from tests.runtime.test_npu_emulation import npu_bundle
from tests.support.bundles import picture
from tests.support.doubles import ScriptedCache

TEXT = "the total is 38.40 and the total is 38.40"


# --- Drafts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "most", "drafted"),
    [
        ([1, 2, 3, 4, 5, 1, 2, 3], 3, [4, 5, 1]),
        ([1, 2, 3, 4, 5, 1, 2, 3], 9, [4, 5, 1, 2, 3, 4, 5, 1, 2]),  # what is drafted goes on as it began
        ([9, 2, 3, 4, 5, 1, 2, 3], 2, []),  # two tokens are too few
        ([5, 1, 2, 3, 5, 1, 2, 4, 5, 1, 2], 1, [4]),  # the last of equals
        ([7, 7, 7, 7], 4, [7, 7, 7, 7]),
        ([1, 2, 3, 4], 4, []),
        ([1, 2, 3, -1, 4, 1, 2, 3], 4, []),  # a picture is no text
        ([-1, -1, -1, -1, -1], 4, []),
        ([1], 4, []),
        ([], 4, []),
    ],
)
def test_a_draft_is_what_followed_before(tokens: list[int], most: int, drafted: list[int]) -> None:
    assert Lookup(tokens).draft(most) == drafted


@given(st.lists(st.integers(-1, 3), max_size=40), st.integers(1, 20))
def test_a_draft_is_what_a_search_finds(tokens: list[int], most: int) -> None:
    def search() -> list[int]:
        last = tokens[-NGRAM:]
        if len(tokens) <= NGRAM or min(last) < 0:
            return []
        for start in range(len(tokens) - 1, NGRAM - 1, -1):
            if tokens[start - NGRAM : start] == last:
                endless = itertools.chain(tokens[start:], itertools.cycle(tokens[start:]))
                return list(itertools.islice(itertools.takewhile(lambda one: one >= 0, endless), most))
        return []

    assert Lookup(tokens).draft(most) == search()


# --- How long ---------------------------------------------------------------------------------------------------------


def seconds_of(pace: Pace, holds: Callable[[int], int], tokens: int, row_s: float) -> float:
    """An answer of so many tokens whose plain steps take a second, and each drafted row ``row_s`` more; ``holds`` gives
    how many tokens of a draft do."""
    spent, given_out = 0.0, 0
    while given_out < tokens:
        drafted = min(pace.most(), tokens - given_out - 1)
        held = holds(drafted) if drafted else 0
        took = 1 + row_s * drafted
        pace.took(took, drafted, held)
        spent, given_out = spent + took, given_out + 1 + held
    return spent


@given(st.integers(64, 600), st.sampled_from([0.02, 0.17, 0.5, 1.0]))
def test_drafts_that_never_hold_cost_little(tokens: int, row_s: float) -> None:
    # And what the last draft of all costs more than there was left.
    assert seconds_of(Pace(), lambda drafted: 0, tokens, row_s) <= 1.03 * tokens + row_s


@given(st.lists(st.integers(0, 15), min_size=40, max_size=200), st.sampled_from([0.17, 0.5]))
def test_whatever_holds_an_answer_is_hardly_slower(held: list[int], row_s: float) -> None:
    holds = iter(itertools.cycle(held))
    tokens = 200
    spent = seconds_of(Pace(), lambda drafted: min(next(holds), drafted), tokens, row_s)
    assert spent <= 1.03 * tokens + row_s * LENGTHS[-1]


def test_drafts_that_hold_grow_and_pay() -> None:
    assert seconds_of(Pace(), lambda drafted: drafted, 200, 0.17) < 200 / 3


def test_a_first_step_is_plain_and_a_failed_draft_makes_the_next_short() -> None:
    pace = Pace()
    assert pace.most() == 0
    pace.took(1.0)
    for length in (1, 3, 7, 15, 15):
        assert pace.most() == length
        pace.took(1.1, length, length)
    pace.took(1.1, 15, 4)
    assert pace.most() == 7
    pace.took(1.1, 7, 0)
    assert pace.most() == 1


def test_where_a_row_costs_a_step_drafts_end() -> None:
    pace = Pace()
    pace.took(1.0)
    for _ in range(200):
        drafted = pace.most()
        pace.took(1.0 + drafted, drafted, drafted // 2)
    assert pace.most() == 0


# --- Answers ----------------------------------------------------------------------------------------------------------


@contextmanager
def drafting() -> Iterator[None]:
    """Seven tokens at a time from the second step on, whatever steps of the double take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pace, "most", lambda self: 0 if self.plain_s is None else 7)
        yield


def pieces_of(text: str, config: GenerationConfig, prompt: str = f"repeat: {TEXT}") -> tuple[list[Any], int]:
    """Text, token and end of each piece, and how many steps they took."""
    vlm, engine = model(saying(ids_of(text)), kv_cache=kv(256))
    answer = vlm.stream(prompt, config=config)
    with drafting():
        pieces = [(piece.text, piece.token_id, piece.stats.finish_reason) for piece in answer]
    assert answer.stats.decode_tokens == len(pieces) - 1
    return pieces, len(engine.steps)


@pytest.mark.parametrize(
    "config",
    [
        GenerationConfig(),
        GenerationConfig(max_new_tokens=7),
        GenerationConfig(stop=("38",)),
        GenerationConfig(temperature=0.2, seed=3),
        GenerationConfig(repetition_penalty=1.5),
        GenerationConfig(temperature=5.0, top_k=3, max_new_tokens=30),
    ],
)
def test_an_answer_is_the_same_in_fewer_steps(config: GenerationConfig) -> None:
    plain, steps = pieces_of(TEXT, config)
    found, fewer = pieces_of(TEXT, replace(config, lookup=True))
    assert found == plain
    assert fewer <= steps
    if config == GenerationConfig():
        assert fewer < steps / 3


@given(st.text("ab ", max_size=30), st.text("ab ", min_size=1, max_size=30), st.integers(1, 40))
def test_whatever_is_said_it_is_the_same(prompt: str, said: str, most: int) -> None:
    config = GenerationConfig(max_new_tokens=most)
    assert pieces_of(said, replace(config, lookup=True), prompt)[0] == pieces_of(said, config, prompt)[0]


@pytest.mark.parametrize("length", range(60, 100, 3))
def test_a_full_cache_ends_an_answer_where_it_does_without(length: int) -> None:
    ends = []
    for lookup in (False, True):
        vlm, _ = model(saying(ids_of(TEXT * 3)), kv_cache=kv(length))
        answer = vlm.stream(f"repeat: {TEXT}", config=GenerationConfig(lookup=lookup))
        with drafting():
            ends.append((answer.read(), answer.stats.finish_reason, answer.stats.generated_tokens))
    assert ends[0] == ends[1]
    assert ends[0][1] == "kv_length"


def test_a_conversation_goes_on_from_what_was_computed() -> None:
    """A picture in front, an answer that is closed in the middle of a draft, and a second question."""
    said = []
    for lookup in (False, True):
        vlm, _ = model(saying(ids_of(TEXT)), kv_cache=kv(512))
        config = GenerationConfig(lookup=lookup)
        with vlm.chat() as chat, drafting():
            chat.add_image(picture(40, 30))
            with chat.stream(f"repeat: {TEXT}", config=config) as answer:
                given = [piece.token_id for piece in itertools.islice(answer, 12)]
            said.append((given, chat.stream("again", config=config).read()))
            context = chat._context
            assert isinstance(context.cache, ScriptedCache)
            assert context.cache.position == len(context.keys)
            for value, key in zip(context.cache.values, context.keys, strict=False):
                assert value == key or not isinstance(key, int)
    assert said[0] == said[1]


def test_what_was_drafted_is_counted() -> None:
    vlm, engine = model(saying(ids_of(TEXT)), kv_cache=kv(256))
    answer = vlm.stream(f"repeat: {TEXT}", config=GenerationConfig(lookup=True))
    engine.steps.clear()
    with drafting():
        pieces = list(answer)
    stats, (prompt, decode) = answer.stats, split(engine.steps, pieces[0].stats.prefill_tokens)
    assert len(prompt) == -(-stats.prefill_tokens // vlm.manifest.prefill_chunk)
    assert sum(rows - 1 for rows, _ in decode) == stats.drafted_tokens
    # A step gives the tokens that held and one more; the last one's may not all have been asked for.
    assert stats.decode_tokens <= len(decode) + stats.held_tokens <= stats.decode_tokens + 7
    assert 0 < stats.held_tokens <= stats.drafted_tokens


def split(steps: list[tuple[int, int]], prefilled: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Steps of a prompt of so many tokens, and those behind it."""
    rows = itertools.accumulate(count for count, _ in steps)
    count = sum(so_far <= prefilled for so_far in rows)
    return steps[:count], steps[count:]


@pytest.mark.parametrize("temperature", [0.0, 0.15])
def test_a_loaded_model_says_the_same(tiny_bundles: dict[str, Path], temperature: float) -> None:
    """With float32 weights and cache, where a step of several tokens rounds by some 1e-6 otherwise."""
    said, held = [], 0
    with load(tiny_bundles["fp32"], threads=1) as vlm, drafting():
        for lookup in (False, True):
            config = GenerationConfig(max_new_tokens=60, temperature=temperature, lookup=lookup)
            answer = vlm.stream("again and again and again", images=[picture(60, 40)], config=config)
            said.append([piece.token_id for piece in answer])
            held = answer.stats.held_tokens
    assert said[0] == said[1]
    assert held > 0 or temperature > 0


def test_a_cache_that_cannot_go_forward_has_what_held() -> None:
    """An NPU's program forgets what lies behind its position."""
    said, held = [], 0
    with load(npu_bundle(), engine="npu-emulation", threads=1) as vlm, drafting():
        for lookup in (False, True):
            config = GenerationConfig(max_new_tokens=40, lookup=lookup)
            answer = vlm.stream("again and again and again", images=[picture(60, 40)], config=config)
            said.append([piece.token_id for piece in answer])
            held = answer.stats.held_tokens
    assert said[0] == said[1]
    assert held > 0
