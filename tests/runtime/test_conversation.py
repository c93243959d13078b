"""Conversations that are interrupted, edited, grow too long, or show images that were seen before."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from pocketvlm.errors import CapacityError, ChatError, PocketVlmError
from pocketvlm.runtime import GenerationConfig, PocketVlm, interrupt
from pocketvlm.runtime.engines import Cache, Floats
from pocketvlm.runtime.image_encoder import ImageEncoder
from tests.runtime.test_generation import TOKENIZER, ids_of, kv, model, saying
from tests.support.bundles import picture
from tests.support.doubles import ScriptedEngine
from tests.support.waiting import SECONDS, until

PATIENCE_S = SECONDS


@dataclass
class GatedEngine(ScriptedEngine):
    """Encodes an image only when ``gate`` is open, and calls ``at_step`` before each step with its number."""

    gate: threading.Event = field(default_factory=threading.Event)
    waiting: bool = False
    at_step: Callable[[int], None] = lambda number: None

    def encode(self, patches: Floats) -> Floats:
        self.waiting = True
        assert self.gate.wait(PATIENCE_S)
        return super().encode(patches)

    def step(self, embeddings: Floats, cache: Cache, keep: int) -> Floats:
        self.at_step(len(self.steps))
        return super().step(embeddings, cache, keep)


def when_waiting(monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> None:
    """Let this happen as soon as an answer waits for an image that is not there yet."""

    def wait(*futures: Any, timeout: float) -> None:
        time.sleep(timeout)
        then()

    monkeypatch.setattr(interrupt, "wait", wait)


def gated(text: str, **sections: Any) -> tuple[PocketVlm, GatedEngine]:
    plain, _ = model(saying(ids_of(text)), **sections)
    engine = GatedEngine(saying(ids_of(text)))
    return PocketVlm(plain._bundle, engine, TOKENIZER, plain._preprocessing, plain._stats), engine


# --- Images in the background ------------------------------------------------------------------------------------


def test_an_image_is_encoded_while_the_question_is_still_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm, engine = gated("hello", kv_cache=kv(256))
    with vlm.chat() as chat:
        chat.add_image(picture(48, 32))  # returns although nothing is encoded
        assert engine.batches == []
        when_waiting(monkeypatch, engine.gate.set)
        answer = chat.stream("what?")
        assert answer.read() == "hello"
        assert answer.stats.encode_wait_s >= interrupt.LOOK_EVERY
        chat.add_image(picture(48, 32, seed=1))
        vlm.start_encoding(vlm.prepare(picture(48, 32, seed=1))).result(PATIENCE_S)
        answer = chat.stream("and this?")
        answer.read()
        assert engine.batches == [4, 3, 4, 3]
        assert answer.stats.encode_wait_s < 0.1


def test_the_same_image_in_another_conversation_is_not_encoded_again() -> None:
    vlm, engine = model(saying(ids_of("hello")))
    for _ in range(3):
        with vlm.chat() as chat:
            chat.add_image(picture(16, 16))
            answer = chat.stream("what?")
            answer.read()
    assert engine.batches == [2]
    assert (answer.stats.image_tokens, answer.stats.encode_s) == (4, 0.0)


@pytest.mark.parametrize(("kept", "encoded"), [(0, [2, 2, 2]), (1, [2, 2, 2]), (2, [2, 2])])
def test_kept_images_are_bounded_in_bytes(kept: int, encoded: list[int]) -> None:
    vlm, engine = model(saying(ids_of("hello")))
    first, second = (vlm.prepare(picture(16, 16, seed=seed)) for seed in (0, 1))
    size = vlm.encode_images([first]).nbytes
    engine.batches.clear()
    assert vlm._preprocessing is not None
    encoder = ImageEncoder(engine, vlm._preprocessing, 4, keep_vision=True, cache_bytes=kept * size)
    for image in (first, second, first):
        encoder.start(image).result(PATIENCE_S)
    assert engine.batches == encoded
    encoder.close()
    with pytest.raises(PocketVlmError, match="closed"):
        encoder.start(first)


def test_the_vision_part_is_freed_after_use() -> None:
    plain, engine = model(saying(ids_of("hello")))
    vlm = PocketVlm(plain._bundle, engine, TOKENIZER, plain._preprocessing, plain._stats, keep_vision=False)
    with vlm.chat() as chat:
        chat.add_image(picture(16, 16))
        chat.ask("what?")
        chat.ask("what else?")
    vlm.close()
    assert engine.batches == [2, 0]


def test_an_image_that_cannot_be_encoded_leaves_the_conversation_whole() -> None:
    vlm, engine = model(saying(ids_of("hello")))
    encode, failures = engine.encode, [MemoryError("no memory")]

    def failing(patches: Floats) -> Floats:
        if failures:
            raise failures.pop()
        return encode(patches)

    engine.encode = failing  # type: ignore[method-assign]
    with vlm.chat() as chat:
        chat.ask("a")
        chat.add_image(picture(16, 16))
        answer = chat.stream("what?")
        with pytest.raises(PocketVlmError, match="not enough memory"):
            answer.read()
        assert len(chat.messages) == 2
        answer = chat.stream("what?")  # the image still stands before the next question
        assert answer.read() == "hello"
        assert answer.stats.image_tokens == 4


# --- Ending an answer early --------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 1, 3, 9])
def test_an_answer_cancelled_from_another_thread_ends_within_a_token(step: int) -> None:
    vlm, engine = gated("hello world, again and again", prefill_chunk=8)
    with vlm.chat() as chat:

        def cancel(number: int) -> None:
            if number == step:
                thread = threading.Thread(target=chat.cancel)
                thread.start()
                thread.join()

        engine.at_step = cancel
        answer = chat.stream("a question of some length")
        text = answer.read()
        assert len(engine.steps) == step + 1
        assert answer.stats.finish_reason == "cancelled"
        assert "hello world, again and again".startswith(text)
        assert chat.messages[-1] == {"role": "assistant", "content": text}
        engine.at_step = lambda number: None
        assert chat.ask("still there?") == "hello world, again and again"


def test_an_answer_can_be_cancelled_while_it_waits_for_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm, engine = gated("hello")
    with vlm.chat() as chat:
        chat.add_image(picture(16, 16))
        when_waiting(monkeypatch, chat.cancel)
        answer = chat.stream("what?")
        assert answer.read() == ""
        assert answer.stats.finish_reason == "cancelled"
        when_waiting(monkeypatch, engine.gate.set)
        assert chat.ask("and now?") == "hello"


def test_an_answer_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which each step takes an hour."""
    vlm, engine = gated("hello " * 40)
    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + 3600 * len(engine.steps))
    monkeypatch.setattr(interrupt, "time", clock)
    answer = vlm.stream("a", config=GenerationConfig(max_seconds=4.5 * 3600))
    answer.read()
    assert answer.stats.finish_reason == "deadline"
    assert len(engine.steps) == 5
    assert 1 <= answer.stats.generated_tokens <= 5


@pytest.mark.parametrize("what", ["chat", "answer"])
def test_closing_while_another_thread_streams_is_safe(what: str) -> None:
    vlm, engine = gated("hello " * 50)
    reached, go_on = threading.Event(), threading.Event()

    def hold(number: int) -> None:
        if number == 3:
            reached.set()
            assert go_on.wait(PATIENCE_S)

    engine.at_step = hold
    chat = vlm.chat()
    answer = chat.stream("a")
    reader = threading.Thread(target=answer.read)
    reader.start()
    assert reached.wait(PATIENCE_S)
    closer = threading.Thread(target=chat.close if what == "chat" else answer.close)
    closer.start()
    closer.join(0.1)
    assert closer.is_alive()  # it waits for the step that runs: its cache must not be given back before
    go_on.set()
    closer.join(PATIENCE_S)
    reader.join(PATIENCE_S)
    assert not reader.is_alive()
    engine.at_step = lambda number: None
    assert vlm.stream("b", config=GenerationConfig(max_new_tokens=3)).read() == "hello hello"
    chat.close()


def test_closing_the_model_while_another_thread_waits_for_an_image_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vlm, engine = gated("hello")
    errors: list[str] = []

    def ask() -> None:
        try:
            vlm.stream("what?", [picture(16, 16), picture(16, 16, seed=1)]).read()
        except PocketVlmError as error:
            errors.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    encoder = until(lambda: vlm._encoder)
    assert encoder is not None
    until(lambda: engine.waiting)
    shutdown = encoder._thread.shutdown

    def shut_down(**how: Any) -> None:
        shutdown(wait=False, **how)  # the image behind the one that is being encoded is not encoded any more
        engine.gate.set()
        shutdown()

    monkeypatch.setattr(encoder._thread, "shutdown", shut_down)
    vlm.close()
    thread.join(PATIENCE_S)
    assert len(errors) == 1
    assert "closed" in errors[0]


# --- Other questions, other answers ------------------------------------------------------------------------------


def test_an_answer_can_be_given_again() -> None:
    reply = ids_of("hello")
    vlm, engine = model(saying(reply))
    with vlm.chat() as chat:
        with pytest.raises(ChatError, match="nothing was answered"):
            chat.regenerate()
        chat.add_image(picture(16, 16))
        chat.ask("a")
        reply[:] = ids_of("good morning")
        engine.steps.clear()
        answer = chat.regenerate()
        assert [message["content"] for message in chat.messages][-1] == "hello"  # until it is read
        assert answer.read() == "good morning"
        assert engine.steps[0] == (1, 1)  # the prompt was in the cache but for its last token
        assert engine.batches == [2]
        assert [message["role"] for message in chat.messages] == ["user", "assistant"]


def test_an_image_that_was_added_waits_for_the_next_question() -> None:
    """Neither an answer given again nor an edited question uses it, nor one that was asked before it was added."""
    vlm, _ = model(saying(ids_of("hello")), kv_cache=kv(256))
    with vlm.chat() as chat:
        chat.ask("a")
        chat.add_image(picture(16, 16))
        for again in (chat.regenerate(), chat.edit(0, "b")):
            again.read()
            assert again.stats.image_tokens == 0
        asked = chat.stream("what?")
        chat.add_image(picture(16, 16, seed=1))
        asked.read()
        assert asked.stats.image_tokens == 4
        last = chat.stream("and this?")
        last.read()
        assert last.stats.image_tokens == 8  # both stand in the conversation now


def uncached(text: str) -> tuple[PocketVlm, ScriptedEngine]:
    """A model that keeps no image."""
    plain, engine = model(saying(ids_of(text)), kv_cache=kv(256))
    parts = plain._bundle, engine, TOKENIZER, plain._preprocessing, plain._stats
    return PocketVlm(*parts, image_cache_bytes=0), engine


def test_an_image_added_before_the_first_piece_is_encoded_once() -> None:
    """Between the question and its first piece, with no cache of images: it waits, encoded, for the next question."""
    vlm, engine = uncached("hello")
    with vlm.chat() as chat:
        chat.add_image(picture(16, 16))
        asked = chat.stream("what?")
        chat.add_image(picture(16, 16, seed=1))
        asked.read()
        chat.ask("and this?")
    assert engine.batches == [2, 2]


def test_images_of_an_answer_that_fails_are_encoded_once() -> None:
    """Those it was about, and one that was added while it was under way: both stand before the question again."""
    vlm, engine = uncached("hello")
    step, failures = engine.step, [RuntimeError("broken")]

    def failing(embeddings: Floats, cache: Cache, keep: int) -> Floats:
        if failures:
            raise failures.pop()
        return step(embeddings, cache, keep)

    engine.step = failing  # type: ignore[method-assign]
    with vlm.chat() as chat:
        chat.add_image(picture(16, 16))
        asked = chat.stream("what?")
        chat.add_image(picture(16, 16, seed=1))
        with pytest.raises(RuntimeError, match="broken"):
            asked.read()
        again = chat.stream("what?")
        assert again.read() == "hello"
        assert again.stats.image_tokens == 8
    assert engine.batches == [2, 2]


@pytest.mark.parametrize("question", [None, 7, b"hello", {"role": "user", "content": "hello"}])
def test_what_is_no_question_at_all_is_refused_in_one_line(question: Any) -> None:
    vlm, _ = model(saying(ids_of("hello")))
    wanted = f"must be text or a list of messages, not {type(question).__name__}"
    with pytest.raises(ChatError, match=wanted):
        vlm.stream(question)
    with vlm.chat() as chat:
        with pytest.raises(ChatError, match=wanted):
            chat.send(question)
        assert chat.messages == []
        assert chat.ask("a") == "hello"


def test_an_earlier_question_can_be_edited() -> None:
    vlm, _ = model(saying(ids_of("hello")))
    with vlm.chat() as chat:
        for question in ("a", "b", "c"):
            chat.ask(question)
        for index in (1, 6, -1):
            with pytest.raises(ChatError, match="no question"):
                chat.edit(index, "x")
        answer = chat.edit(2, [{"type": "image", "image": picture(16, 16)}, {"type": "text", "text": "other"}])
        assert answer.read() == "hello"
        assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
        assert answer.stats.reused_tokens > 3
        assert answer.stats.image_tokens == 4
        assert answer.stats.prompt_tokens == len(vlm.tokenize(chat.messages[:-1]))


# --- The end of the KV cache -------------------------------------------------------------------------------------


def test_a_conversation_says_how_many_tokens_are_left() -> None:
    vlm, _ = model(saying(ids_of("hello")), kv_cache=kv(40))
    with vlm.chat() as chat:
        assert chat.tokens_left == 40
        answer = chat.stream("a")
        answer.read()
        assert chat.tokens_left == 40 - answer.stats.prompt_tokens - answer.stats.generated_tokens
        assert answer.stats.kv_tokens_left == 40 - answer.stats.prompt_tokens
        with pytest.raises(CapacityError, match=f"40 fit .* and {chat.tokens_left} of them are left: reset"):
            chat.ask("7 " * 40)
        assert chat.ask("b") == "hello"


def test_the_oldest_turns_are_dropped_where_that_is_asked_for() -> None:
    vlm, _ = model(saying(ids_of("hello")), kv_cache=kv(64))
    config = GenerationConfig(max_new_tokens=8)
    with vlm.chat(drop_oldest=True) as chat:
        chat.send([{"role": "system", "content": "be brief"}, {"role": "user", "content": "first"}], config).read()
        chat.add_image(picture(16, 16))
        for number in range(9):
            assert chat.ask(f"question {number}", config) == "hello"
            prompt = vlm.tokenize(chat.messages[:-1])
            assert len(prompt) + 8 <= 64
            assert chat.messages[0]["role"] == "system"
            assert chat.messages[-2]["content"][-1]["text"] == f"question {number}"
        assert len(chat.messages) < 9
        with pytest.raises(CapacityError, match="64 fit"):
            chat.ask("7 " * 80, config)
        assert chat.ask("a", config) == "hello"


def test_an_image_that_does_not_fit_is_taken_out_again() -> None:
    """Else each further question would fail, until the whole conversation is forgotten."""
    vlm, _ = model(saying(ids_of("hello")), kv_cache=kv(40))
    with vlm.chat() as chat:
        assert chat.ask("a") == "hello"
        for _ in range(8):
            chat.add_image(picture(48, 48))
        with pytest.raises(CapacityError, match="the images that were added are taken out again"):
            chat.ask("b")
        assert chat.ask("b") == "hello"
        assert [message["content"] for message in chat.messages[-2:]] == [[{"type": "text", "text": "b"}], "hello"]


# --- Signals and forks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["answer", "chat"])
def test_a_signals_handler_may_close_what_it_interrupts(what: str) -> None:
    vlm, engine = gated("7 7 7 7 7 7 7 7")
    chat = vlm.chat()
    answer = chat.stream("a")
    next(answer)
    engine.at_step = lambda number: (answer if what == "answer" else chat).close()
    assert len(list(answer)) <= 1
    answer.close()
    assert answer.stats.finish_reason == "cancelled"


def test_a_fork_says_that_it_has_no_threads() -> None:
    """It would wait for ever for an image that no thread encodes."""
    vlm, _ = model(saying(ids_of("hello")))
    chat = vlm.chat()
    child = os.fork()
    if child == 0:
        try:
            for use in (
                lambda: chat.add_image(picture(16, 16)),
                lambda: vlm.stream("a"),
                lambda: chat.ask("a"),
                vlm.chat,
            ):
                with pytest.raises(PocketVlmError, match="loaded before this process was forked"):
                    use()
            vlm.close()
        except BaseException:  # noqa: BLE001 - pytest must not go on in two processes
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert chat.ask("a") == "hello"
