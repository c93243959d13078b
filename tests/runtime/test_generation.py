"""Generation over an engine that says what the test tells it to: where answers end, what stays in the cache."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.bundle.open import Bundle
from pocketvlm.errors import CapacityError, ChatError, ImageError, PocketVlmError
from pocketvlm.images.prepare import preprocessing_of
from pocketvlm.runtime import GenerationConfig, PocketVlm, Stats
from pocketvlm.runtime.interrupt import Interrupt
from pocketvlm.runtime.text import Literal, PeopleText, TextTokenizer
from tests.support.bundles import manifest, picture
from tests.support.doubles import ScriptedEngine
from tests.support.tokenizers_zoo import byte_level

ASSISTANT, END = 2, 3
TOKENIZER = TextTokenizer(byte_level(), [END, 4])


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode([PeopleText(text)])


def saying(tokens: Sequence[int]) -> Callable[[list[float]], int]:
    """After a prompt (its last token is <|assistant|>) these tokens, then the stop token."""

    def script(values: list[float]) -> int:
        after = values[::-1].index(ASSISTANT) if ASSISTANT in values else len(tokens)
        return tokens[after] if after < len(tokens) else END

    return script


def model(script: Callable[[list[float]], int], **sections: Any) -> tuple[PocketVlm, ScriptedEngine]:
    engine = ScriptedEngine(script)
    described = manifest(**sections)
    preprocessing = None if described.vision is None else preprocessing_of(described.vision)
    bundle = Bundle(Path("/nowhere"), described)
    return PocketVlm(bundle, engine, TOKENIZER, preprocessing, Stats(load_s=1.5)), engine


def kv(length: int) -> Any:
    return manifest().kv_cache.model_copy(update={"length": length})


def test_an_answer_ends_with_a_stop_token() -> None:
    vlm, _ = model(saying(ids_of("hello 👍")))
    answer = vlm.stream("hi")
    pieces = list(answer)
    assert answer.text == "".join(piece.text for piece in pieces) == "hello 👍"
    assert [piece.token_id for piece in pieces] == [*ids_of("hello 👍"), END]
    assert answer.stats.finish_reason == "stop"
    assert answer.stats.generated_tokens == len(pieces) == answer.stats.decode_tokens + 1
    assert [piece.stats.generated_tokens for piece in pieces] == list(range(1, len(pieces) + 1))
    assert all(piece.stats.finish_reason is None for piece in pieces[:-1])


def test_an_answer_ends_at_max_new_tokens_and_drops_half_a_character() -> None:
    vlm, _ = model(saying(ids_of("a👍")))
    answer = vlm.stream("hi", config=GenerationConfig(max_new_tokens=3))
    assert answer.read() == "a"
    assert (answer.stats.finish_reason, answer.stats.generated_tokens) == ("length", 3)


@pytest.mark.parametrize("stop", ["wor", "o w", "d", "h", "ello world"])
def test_an_answer_ends_before_a_stop_string(stop: str) -> None:
    text = "hello world, how"
    vlm, _ = model(saying(list(itertools.chain.from_iterable(map(ids_of, text)))))  # character by character
    answer = vlm.stream("hi", config=GenerationConfig(stop=("never", stop)))
    pieces = list(answer)
    assert answer.text == text[: text.index(stop)]
    assert answer.stats.finish_reason == "stop"
    assert len(pieces) == text.index(stop) + len(stop)


@pytest.mark.parametrize("stop", ["<|user|>", "lo<|user|>", "user", "<|user|> there", "o<|user|><|user|> t"])
def test_the_text_of_a_special_token_ends_an_answer_and_is_never_given_out(stop: str) -> None:
    user = TOKENIZER.encode([Literal("<|user|>")])
    twice = user * (2 if "><" in stop else 1)
    vlm, _ = model(saying([*ids_of("hello"), *twice, *ids_of(" there")]))
    assert vlm.stream("hi").read() == "hello there"
    whole = "hello" + "<|user|>" * len(twice) + " there"
    answer = vlm.stream("hi", config=GenerationConfig(stop=(stop,)))
    assert answer.read() == whole[: whole.index(stop)].replace("<|user|>", "").removesuffix("<|")
    assert answer.stats.finish_reason == "stop"


def test_what_a_stop_string_held_back_comes_at_the_end() -> None:
    vlm, _ = model(saying(ids_of("hello")))
    assert vlm.stream("hi", config=GenerationConfig(stop=("lo!",))).read() == "hello"
    assert (
        vlm.stream("hi", config=GenerationConfig(stop=("lo!",), max_new_tokens=len(ids_of("hello")))).read() == "hello"
    )


def test_a_full_kv_cache_ends_the_answer() -> None:
    vlm, engine = model(saying([70] * 100), kv_cache=kv(12))
    prompt = len(vlm.tokenize("hi"))
    answer = vlm.stream("hi")
    tokens = [piece.token_id for piece in answer]
    assert answer.stats.finish_reason == "kv_length"
    # The last token comes out of the last place in the cache and is not fed any more.
    assert len(tokens) == 12 - prompt + 1
    assert sum(count for count, _ in engine.steps) == 12


def test_a_prompt_that_does_not_fit_says_so_before_it_runs() -> None:
    vlm, engine = model(saying([70]), kv_cache=kv(8))
    exact = next(text for text in ("a" * n for n in range(8)) if len(vlm.tokenize(text)) == 8)
    answer = vlm.stream(exact)
    assert len(list(answer)) == 1
    engine.steps.clear()
    with pytest.raises(CapacityError, match=r"the prompt has 9 tokens .*, 8 fit"):
        vlm.stream(exact + "7")
    with pytest.raises(CapacityError, match="the image has 20 tokens, 8 fit"):
        vlm.stream("a", images=[picture(48, 48)])
    assert engine.steps == []


def test_the_prompt_is_computed_in_chunks_and_each_token_once() -> None:
    vlm, engine = model(saying(ids_of("ok")))
    prompt = vlm.tokenize("x" * 40)
    answer = vlm.stream("x" * 40)
    answer.read()
    chunks = [count for count, _ in engine.steps if count > 1]
    assert chunks == [16] * (len(prompt) // 16) + [len(prompt) % 16]
    assert {keep for _, keep in engine.steps} == {1}
    assert answer.stats.prefill_tokens == answer.stats.prompt_tokens == len(prompt)
    assert answer.stats.reused_tokens == 0


def test_stats_are_those_of_the_phases() -> None:
    vlm, engine = model(saying(ids_of("hello")))
    answer = vlm.stream("what?", images=[picture(48, 32)])
    assert answer.stats.load_s == 1.5
    assert answer.stats.preprocess_s > 0
    answer.read()
    stats = answer.stats
    assert engine.batches == [4, 3]  # six tiles and a thumbnail
    assert stats.image_tokens == 7 * 2
    assert min(stats.encode_s, stats.prefill_s, stats.decode_s, stats.prefill_tps, stats.decode_tps) > 0
    assert stats.time_to_first_token_s >= stats.preprocess_s + stats.encode_s + stats.prefill_s
    assert stats.peak_rss_bytes > 10 << 20
    assert stats.as_dict()["decode_tps"] == stats.decode_tps == stats.decode_tokens / stats.decode_s
    assert "peak memory" in str(stats)


def test_images_stand_in_the_cache_where_the_layout_puts_them() -> None:
    vlm, _ = model(saying([70]))
    answer = vlm.stream("a", images=[picture(16, 16), picture(32, 16, seed=1)])
    next(answer)
    with vlm.chat() as chat:
        chat.add_image(picture(16, 16))
        chat.add_image(picture(32, 16, seed=1))
        list(chat.stream("a"))
        assert chat._context.keys == [*vlm.build_prompt("a", [picture(16, 16), picture(32, 16, seed=1)]).keys(), 70]
        values = chat._context.cache.values  # type: ignore[attr-defined]
    images = [value for value in values if value >= 900]
    assert len(images) == (2 + 3) * 2
    assert len(set(images)) > 2


def test_a_closed_answer_leaves_the_model_usable() -> None:
    vlm, engine = model(saying(ids_of("hello world")))
    answer = vlm.stream("hi")
    assert next(answer).token_id == ids_of("hello world")[0]
    answer.close()
    steps = len(engine.steps)
    assert list(answer) == []
    assert len(engine.steps) == steps
    assert answer.stats.finish_reason is None
    assert vlm.stream("hi").read() == "hello world"
    with vlm.stream("hi") as again:
        next(again)
    assert list(again) == []


def test_two_answers_at_once_do_not_mix() -> None:
    vlm, _ = model(saying(ids_of("hello world, how are you")))
    first, second = vlm.stream("hi"), vlm.stream("what is it")
    pairs = list(zip(first, second, strict=True))
    assert first.text == second.text == "hello world, how are you"
    assert len(pairs) == len(ids_of("hello world, how are you")) + 1


def test_a_failing_engine_leaves_model_and_conversation_as_they_were() -> None:
    vlm, engine = model(saying(ids_of("hello")))
    with vlm.chat() as chat:
        chat.add_image(picture(16, 16))
        engine.fail_at = 20
        with pytest.raises(PocketVlmError, match="fails here"):
            chat.ask("what is this?" * 3)
        assert chat.messages == []
        engine.fail_at = None
        assert chat.ask("what is this?") == "hello"
        # the image that was added before the failure
        assert sum(part["type"] == "image" for part in chat.messages[0]["content"]) == 1
        assert vlm.stream("a").read() == "hello"


def test_a_closed_model_says_so() -> None:
    vlm, _ = model(saying([70]))
    with vlm:
        chat = vlm.chat()
    for call in (lambda: vlm.stream("a"), lambda: vlm.logits([70]), vlm.chat, lambda: chat.ask("a")):
        with pytest.raises(PocketVlmError, match="closed"):
            call()


def test_the_same_prompt_again_computes_its_last_token_only() -> None:
    vlm, _ = model(saying(ids_of("hello")))
    prompt = vlm.build_prompt("what?", [picture(16, 16)])
    with vlm.empty_context() as context:
        answers = [list(vlm.answer(context, prompt, GenerationConfig(), Stats(), Interrupt())) for _ in range(3)]
    assert [[piece.token_id for piece in pieces] for pieces in answers] == [[*ids_of("hello"), END]] * 3
    assert [pieces[0].stats.prefill_tokens for pieces in answers] == [len(prompt), 1, 1]


# --- Conversations -----------------------------------------------------------------------------------------------


def test_a_second_turn_computes_only_what_is_new() -> None:
    vlm, engine = model(saying(ids_of("hello")))
    with vlm.chat() as chat:
        assert chat.ask("first question") == "hello"
        engine.steps.clear()
        answer = chat.stream("second")
        answer.read()
        new = [*TOKENIZER.encode([PeopleText("second")])]
        # the end of the answer, <|user|>, the question, <|end|>, <|assistant|>
        assert answer.stats.prefill_tokens == len(new) + 4
        assert answer.stats.reused_tokens + answer.stats.prefill_tokens == answer.stats.prompt_tokens
        assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
        assert chat.messages[1]["content"] == "hello"


def test_images_of_earlier_turns_are_not_encoded_again() -> None:
    vlm, engine = model(saying(ids_of("hello")))
    with vlm.chat() as chat:
        chat.add_image(picture(48, 32))
        answer = chat.stream("what?")
        answer.read()
        assert engine.batches == [4, 3]
        assert answer.stats.image_tokens == 14
        assert answer.stats.encode_s > 0
        answer = chat.stream("and now?")
        answer.read()
        assert engine.batches == [4, 3]
        assert (answer.stats.image_tokens, answer.stats.reused_tokens > 14) == (14, True)


def test_an_answer_closed_in_the_middle_stays_in_the_conversation_as_far_as_it_came() -> None:
    vlm, _ = model(saying(ids_of("hello world")))
    with vlm.chat() as chat:
        answer = chat.stream("a")
        text = next(answer).text
        answer.close()
        assert chat.messages[-1] == {"role": "assistant", "content": text}
        assert chat.ask("b") == "hello world"
        unread = chat.stream("c")
        assert len(chat.messages) == 4  # a question whose answer nobody reads was not asked
        assert chat.ask("d") == "hello world"
        assert list(unread) == []
        assert len(chat.messages) == 6


def test_reset_forgets() -> None:
    vlm, _ = model(saying(ids_of("hello")))
    with vlm.chat() as chat:
        chat.ask("a")
        chat.add_image(picture(16, 16))
        chat.reset()
        assert chat.messages == []
        answer = chat.stream("a")
        answer.read()
        assert (answer.stats.reused_tokens, answer.stats.image_tokens) == (0, 0)


def test_a_conversation_takes_messages_with_parts() -> None:
    vlm, _ = model(saying(ids_of("hello")))
    image = {"type": "image", "image": picture(16, 16)}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, image, {"type": "text", "text": "b"}]},
    ]
    with vlm.chat() as chat:
        answer = chat.send(messages)
        assert answer.read() == "hello"
        assert answer.stats.prompt_tokens == len(vlm.tokenize(messages))
        assert vlm.stream(messages).read() == "hello"
        with pytest.raises(ChatError, match="must be a dictionary"):
            chat.send(["hi"])  # type: ignore[list-item]
        with pytest.raises(ChatError, match="message 4 is the assistant's"):
            chat.send([{"role": "assistant", "content": "x"}])
        assert chat.ask("still there?") == "hello"


def test_errors_before_an_answer_leave_the_conversation_whole(tmp_path: Path) -> None:
    vlm, _ = model(saying(ids_of("hello")), kv_cache=kv(40))
    with vlm.chat() as chat:
        chat.ask("a")
        with pytest.raises(ImageError, match="no such file"):
            chat.add_image(tmp_path / "none.png")
        with pytest.raises(CapacityError, match="40 fit"):
            chat.ask("7 " * 40)
        assert len(chat.messages) == 2
        assert chat.ask("b") == "hello"


@given(
    turns=st.lists(
        st.tuples(st.text("ab 👍\n", max_size=6), st.text("hello \n", max_size=6), st.booleans(), st.integers(0, 4)),
        min_size=1,
        max_size=4,
    )
)
def test_the_cache_is_that_of_a_fresh_conversation(turns: list[tuple[str, str, bool, int]]) -> None:
    """Whatever is asked, answered, shown, or closed early: each turn sees what a fresh model would be given."""
    reply: list[int] = []
    vlm, _ = model(saying(reply), kv_cache=kv(4096))
    with vlm.chat() as chat:
        for question, answer_text, with_image, read in turns:
            reply[:] = ids_of(answer_text)
            if with_image:
                chat.add_image(picture(16, 16, seed=len(question)))
            answer = chat.stream(question)
            for _ in itertools.islice(answer, read):
                pass
            answer.close()
            if read == 0:
                continue
            prompt = vlm.build_prompt(chat.messages[:-1])
            context = chat._context
            assert context.keys[: len(prompt)] == prompt.keys()
            assert context.cache.position == len(context.keys)
            values = context.cache.values  # type: ignore[attr-defined]
            ids = prompt.token_ids.tolist()
            is_text = prompt.picture_index < 0
            assert [v for v, text in zip(values, is_text, strict=False) if text] == [
                token_id for token_id, text in zip(ids, is_text, strict=True) if text
            ]


# --- Models without pictures, without a chat ---------------------------------------------------------------------


def test_a_base_model_continues_a_text() -> None:
    vlm, _ = model(lambda values: 70 if len(values) < 9 else END, chat=None)
    ids = ids_of("hello")
    assert vlm.tokenize("hello").tolist() == ids
    assert [piece.token_id for piece in vlm.stream("hello")] == [70] * (9 - len(ids)) + [END]
    with pytest.raises(ChatError, match="no chat layout"):
        vlm.chat()
    with pytest.raises(ChatError, match="no chat layout"):
        vlm.stream([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])


def test_a_text_model_refuses_images() -> None:
    tokens = manifest().tokens.model_copy(update={"image": None})
    vlm, _ = model(saying(ids_of("hello")), vision=None, image_layout=None, tokens=tokens)
    assert vlm.stream("a").read() == "hello"
    for call in (
        lambda: vlm.stream("a", images=[picture(8, 8)]),
        lambda: vlm.encode_images([picture(8, 8)]),
        lambda: vlm.chat().add_image(picture(8, 8)),
        lambda: vlm.logits([70], images=[picture(8, 8)]),
    ):
        with pytest.raises(ChatError, match="text only"):
            call()


# --- encode_images and logits ------------------------------------------------------------------------------------


def test_tiles_are_encoded_in_batches_with_a_rest() -> None:
    assert manifest().vision is not None
    eight = manifest().vision.model_copy(update={"candidates": ((4, 2),)})  # type: ignore[union-attr]
    vlm, engine = model(saying([70]), vision=eight)
    encoded = vlm.encode_images([picture(64, 32), picture(64, 32, seed=1)])
    assert engine.batches == [4, 4, 1] * 2
    assert encoded.shape == (2 * 9 * 2, 8)
    assert vlm.encode_images([]).shape == (0, 8)


def test_logits_are_those_of_each_token() -> None:
    vlm, engine = model(lambda values: int(values[-1]) % 7)
    ids = list(range(5, 45))
    logits = vlm.logits(ids)
    assert logits.shape == (40, 512)
    assert logits.argmax(-1).tolist() == [token_id % 7 for token_id in ids]
    assert engine.steps == [(16, 0), (16, 0), (8, 0)]


@pytest.mark.parametrize(
    ("ids", "images", "line"),
    [
        ([], [], "at least one"),
        ([[1, 2]], [], "shape"),
        ([600], [], "600 is no token id"),
        ([-1], [], "-1 is no token id"),
        ([4, 4, 4], [picture(16, 16)], "3 image placeholders, 1 images have 4"),
        ([4], [], "1 image placeholders, 0 images have 0"),
    ],
)
def test_logits_of_ids_that_do_not_fit_are_refused(ids: Any, images: Any, line: str) -> None:
    vlm, _ = model(saying([70]))
    with pytest.raises(ValueError, match=line):
        vlm.logits(ids, images)


def test_images_must_be_a_list() -> None:
    vlm, _ = model(saying([70]))
    with pytest.raises(TypeError, match="list of images, not one str"):
        vlm.stream("a", images="a.png")
    with pytest.raises(ChatError, match="not both"):
        vlm.stream([{"role": "user", "content": "a"}], images=[picture(8, 8)])
