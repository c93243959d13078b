"""KV caches kept between questions: what is computed again, and that no answer depends on what was asked before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pocketvlm.runtime import GenerationConfig, PocketVlm, generation, load
from pocketvlm.runtime.prefixes import Prefixes
from tests.support.bundles import picture

CONFIG = GenerationConfig(max_new_tokens=24, temperature=3.0, seed=5)
#: That begin alike, each some letters longer.
QUESTIONS = 16
LONG = "The picture shows a table of numbers with a sum below it, in two columns and many rows. " * 3


@pytest.fixture(scope="module")
def vlm(tiny_bundles: dict[str, Path]) -> Iterator[PocketVlm]:
    """INT8 KV cache: where a rounding differs, so does the answer."""
    with load(tiny_bundles["bluelm-v-3b"], threads=1) as vlm:
        yield vlm


def turns(*texts: str) -> list[dict[str, Any]]:
    """A conversation's messages, the user's first."""
    roles = ("user", "assistant")
    return [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]


@pytest.fixture
def logits(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Of each answer's first token, bit for bit, in the order in which they are computed."""
    seen: list[bytes] = []
    real = generation.prefill

    def prefill(*arguments: Any) -> Any:
        found = real(*arguments)
        if found is not None:
            seen.append(found.tobytes())
        return found

    monkeypatch.setattr(generation, "prefill", prefill)
    return seen


def fresh(vlm: PocketVlm, messages: Any) -> list[int]:
    return [piece.token_id for piece in vlm.stream(messages, config=CONFIG)]


def kept(prefixes: Prefixes, messages: Any) -> tuple[list[int], int]:
    """An answer's tokens, and how many of its question's were not computed again."""
    answer = prefixes.stream(messages, config=CONFIG)
    return [piece.token_id for piece in answer], answer.stats.reused_tokens


def test_every_answer_is_that_of_a_fresh_cache(vlm: PocketVlm, logits: list[bytes]) -> None:
    image = picture(140, 70)
    seen = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": LONG}]}]
    questions = [
        turns(LONG), turns(LONG, "Yes.", "And?"), turns(LONG), seen, seen, [*seen, *turns("", "Yes.", "And?")[1:]],
        turns(LONG, "Yes.", "And?", "No.", "Or?"), turns(LONG + "x"), turns("hi"), seen,
    ]  # fmt: skip
    wanted = [fresh(vlm, question) for question in questions]
    wanted_logits = logits.copy()
    for most in (1, 2, 3):
        logits.clear()
        with Prefixes(vlm, most) as prefixes:
            found = [kept(prefixes, question) for question in questions]
        assert [tokens for tokens, _ in found] == wanted
        assert logits == wanted_logits
        reused = [count for _, count in found]
        assert all(count % vlm.prefill_chunk == 0 for count in reused)
        assert reused[0] == 0 and reused[1] > 0 and reused[2] > 0
        # with room for both, the first conversation went on behind the picture's
        assert (reused[6] > 0) == (most > 1)


def test_these_tests_would_notice(vlm: PocketVlm, monkeypatch: pytest.MonkeyPatch, logits: list[bytes]) -> None:
    """Where all that a cache holds is used again, some logits are others: why chunks have to be whole."""
    monkeypatch.setattr(Prefixes, "_whole_chunks", lambda self, prompt, tokens: tokens)
    questions = [turns(LONG[: 130 + 7 * index]) for index in range(QUESTIONS)]
    with Prefixes(vlm, 1) as prefixes:
        reused = [kept(prefixes, question)[1] for question in questions]
    assert any(count % vlm.prefill_chunk for count in reused)
    for question in questions:
        fresh(vlm, question)
    assert logits[:QUESTIONS] != logits[QUESTIONS:]


def test_an_answer_that_is_ended_early_leaves_a_good_cache(vlm: PocketVlm) -> None:
    with Prefixes(vlm, 1) as prefixes:
        for pieces in (0, 1, 5):
            answer = prefixes.stream(turns(LONG), config=CONFIG)
            for _ in range(pieces):
                next(answer)
            answer.close()
            assert kept(prefixes, turns(LONG, "Yes.", "And?"))[0] == fresh(vlm, turns(LONG, "Yes.", "And?"))
        answer = prefixes.stream(turns(LONG), config=CONFIG)
        answer.cancel()
        assert answer.read() == "" and answer.stats.finish_reason == "cancelled"
        assert kept(prefixes, turns(LONG))[0] == fresh(vlm, turns(LONG))


def test_times_count_from_when_the_question_came(vlm: PocketVlm) -> None:
    with Prefixes(vlm, 1) as prefixes:
        answer = prefixes.stream("hi", config=CONFIG, since=time.perf_counter() - 1000)
        answer.read()
    assert answer.stats.preprocess_s > 1000 and answer.stats.time_to_first_token_s > answer.stats.preprocess_s


def test_one_cache_at_least_is_kept(vlm: PocketVlm) -> None:
    with pytest.raises(ValueError, match="at least one KV cache must be kept, not 0"):
        Prefixes(vlm, 0)
