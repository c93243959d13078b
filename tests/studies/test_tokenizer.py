"""The tokenizer: every text round-trips, answers are single characters, the template says what training saw."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pocketvlm.scenes.questions import PHRASINGS
from pocketvlm.scenes.words import CHARACTERS
from studies.reader.data import tokenizer
from studies.reader.tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS, VOCABULARY_SIZE, build_tokenizer


@hypothesis.given(strategies.text())
def test_any_text_round_trips(text: str) -> None:
    ids = tokenizer().encode(text, add_special_tokens=False).ids
    assert tokenizer().decode(ids, skip_special_tokens=False) == text


@hypothesis.given(strategies.text(alphabet="".join(x for x in CHARACTERS if not x.islower()) + "\n"))
def test_numbers_and_codes_are_single_characters(text: str) -> None:
    assert len(tokenizer().encode(text).ids) == len(text)


def test_questions_are_whole_words_and_what_pictures_say_is_not() -> None:
    for _, phrasings in PHRASINGS.values():
        for phrasing in phrasings:
            text = phrasing.format(n=2, label="Milk", other="Tea", color="red", shape="circle")
            words = [token for token in tokenizer().encode(text).tokens if len(token) > 2]
            assert len("".join(words)) >= len(text.replace("Milk", "").replace("Tea", "")) - 8, words
    assert tokenizer().encode("Milk 4.50").tokens == [*"Milk", "Ġ", *"4.50"]


def test_vocabulary() -> None:
    assert tokenizer().get_vocab_size() <= VOCABULARY_SIZE
    assert VOCABULARY_SIZE % 128 == 0
    for token in SPECIAL_TOKENS:
        assert tokenizer().encode(token).tokens == [token]


def test_building_is_deterministic() -> None:
    assert build_tokenizer().to_str() == build_tokenizer().to_str()


@pytest.mark.parametrize("image_first", [True, False])
def test_template_takes_text_and_parts(image_first: bool) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "Hi"}]
    messages = [
        {"role": "user", "content": parts if image_first else parts[::-1]},
        {"role": "assistant", "content": " Yes "},
    ]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(CHAT_TEMPLATE).render(messages=messages, add_generation_prompt=True)
    image = "<|image_start|><|image_pad|><|image_end|>"
    content = f"{image}Hi" if image_first else f"Hi{image}"
    assert text == (
        f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n Yes <|im_end|>\n<|im_start|>assistant\n"
    )
