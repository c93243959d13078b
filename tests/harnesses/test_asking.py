"""A benchmark's settings and parts of messages as the runtime takes them, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from pocketvlm.errors import DataError
from pocketvlm.harnesses.asking import MAX_NEW_TOKENS, ask, generation_config, part
from pocketvlm.runtime import GenerationConfig, load
from tests.support.bundles import KV_LENGTH, exported, picture


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, GenerationConfig(max_new_tokens=MAX_NEW_TOKENS)),
        # lmms-eval's OCRBench, and one of its tasks without until, whose delimiter of examples it takes then
        (
            {"max_new_tokens": 128, "temperature": 0.0, "top_p": 1.0, "num_beams": 1, "do_sample": False},
            GenerationConfig(max_new_tokens=128),
        ),
        ({"until": ["\n\n"], "max_new_tokens": 16}, GenerationConfig(max_new_tokens=16, stop=("\n\n",))),
        ({"until": "\n", "max_new_tokens": 16}, GenerationConfig(max_new_tokens=16, stop=("\n",))),
        ({"until": ["", "a", "b"], "max_new_tokens": 1}, GenerationConfig(max_new_tokens=1, stop=("a", "b"))),
        ({"until": [], "max_new_tokens": 16, "image_aspect_ratio": "pad"}, GenerationConfig(max_new_tokens=16)),
        ({"until": None, "top_p": None, "num_beams": None, "max_new_tokens": 9}, GenerationConfig(max_new_tokens=9)),
        # its classes draw where the temperature is above 0, whatever do_sample is
        (
            {"temperature": 0.7, "top_p": 0.95, "do_sample": False, "max_new_tokens": 9},
            GenerationConfig(max_new_tokens=9, temperature=0.7, top_p=0.95),
        ),
        (
            {"temperature": 0.2, "top_p": 0, "max_new_tokens": 9},
            GenerationConfig(max_new_tokens=9, temperature=0.2, top_k=1),
        ),
        (
            {"repetition_penalty": 1.2, "top_k": 5, "temperature": 1, "max_new_tokens": 9},
            GenerationConfig(max_new_tokens=9, temperature=1, top_k=5, repetition_penalty=1.2),
        ),
    ],
)
def test_settings(settings: dict[str, Any], expected: GenerationConfig) -> None:
    assert generation_config(settings) == expected


def test_a_question_that_is_asked_again_is_answered_anew() -> None:
    seeds = [generation_config({"temperature": 1.0, "seed": 5}, number).seed for number in range(3)]
    assert seeds == [5, 6, 7]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_beams": 3}, "num_beams is 3, and a bundle has nothing but 1"),
        ({"length_penalty": 0.5, "no_repeat_ngram_size": 3}, "length_penalty, no_repeat_ngram_size"),
        ({"temperature": -1}, "temperature"),
        ({"max_new_tokens": "16"}, "max_new_tokens"),
        ({"until": [3]}, "stop"),
    ],
)
def test_settings_that_are_not_there_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(DataError, match=named):
        generation_config(settings)


def test_parts() -> None:
    assert part("text", "What?") == {"type": "text", "text": "What?"}
    assert part("image", "a.png") == {"type": "image", "image": "a.png"}
    with pytest.raises(DataError, match="has a video, and a bundle takes text and images"):
        part("video", "a.mp4")
    with pytest.raises(DataError, match="has an audio"):
        part("audio", b"")


def test_an_answer_that_the_cache_cuts_off_is_warned_of() -> None:
    image = picture(60, 60)
    messages = [{"role": "user", "content": [part("image", image), part("text", "What is it? " * 8)]}]
    with load(exported("fp32").path, threads=1) as vlm:
        short = ask(vlm, messages, GenerationConfig(max_new_tokens=3))
        assert short.stats.generated_tokens <= 3
        with pytest.warns(UserWarning, match=f"the KV cache of {KV_LENGTH} tokens was full"):
            cut = ask(vlm, messages, GenerationConfig(max_new_tokens=KV_LENGTH, logit_bias={2: -100}))
    assert cut.stats.finish_reason == "kv_length"
    assert isinstance(image, Image.Image)
