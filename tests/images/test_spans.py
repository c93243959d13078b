"""Spans of tokens that see each other, beside what transformers' masks say of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pocketvlm.images.spans import Spans, begin_of_span, end_of_chunk, last_seen_of, whole_chunks
from tests.support.portable_spans import GOLDEN, text

#: 1 is of a picture.
PROMPTS = ("0001111000", "1110", "0111", "1101110010", "0000", "1", "0", "1111")


def of(prompt: str, spans: Spans) -> np.ndarray:
    return last_seen_of(np.array([letter == "1" for letter in prompt]), spans)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_images_see_themselves_as_gemma3s_masks_have_it(prompt: str) -> None:
    from transformers.masking_utils import blockwise_overlay
    from transformers.models.gemma3.modeling_gemma3 import get_block_sequence_ids_for_mask

    kinds = torch.tensor([[int(letter) for letter in prompt]])
    sees = blockwise_overlay(get_block_sequence_ids_for_mask(kinds))
    places, bounds = range(len(prompt)), of(prompt, "image")
    wanted = [[key <= query or bool(sees(0, 0, query, key)) for key in places] for query in places]
    assert [[key <= bounds[query] for key in places] for query in places] == wanted


def test_a_prompt_is_one_span_and_text_is_none() -> None:
    assert of("0110", "prompt").tolist() == [3, 3, 3, 3]
    assert of("0110", "none").tolist() == [0, 1, 2, 3]
    behind = [last_seen_of(np.zeros(5, bool), "prompt", asked).tolist() for asked in (3, 1, 9)]
    assert behind == [[2, 2, 2, 3, 4], [0, 1, 2, 3, 4], [4, 4, 4, 4, 4]]


@pytest.mark.parametrize("spans", ["none", "image", "prompt"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_chunks_are_all_of_a_prompt_and_cut_no_span(prompt: str, spans: Spans) -> None:
    bounds = of(prompt, spans)
    for most in (1, 2, 3, 4, 20):
        first = 0
        while first < len(bounds):
            end = end_of_chunk(bounds, first, most)
            assert first < end <= len(bounds)
            assert bounds[first:end].max() < end
            assert begin_of_span(bounds, first) == first
            longest = max(np.bincount(bounds))
            assert end - first <= max(most, longest)
            first = end


def test_what_is_kept_of_a_prompt_ends_where_any_prompt_with_that_beginning_would_be_cut() -> None:
    plain, pictured = of("0" * 20, "image"), of("0011110000", "image")
    assert [whole_chunks(plain, tokens, 8) for tokens in (7, 8, 15, 16, 20)] == [0, 8, 8, 16, 16]
    # chunks of 4 are 0..2, 2..6, 6..10; the first would be longer where its next were no picture
    assert [whole_chunks(pictured, tokens, 4) for tokens in (2, 3, 4, 5, 6, 9, 10)] == [0, 0, 2, 2, 6, 6, 10]
    # one that is longer than a chunk
    assert [whole_chunks(pictured, tokens, 2) for tokens in (2, 4, 5, 6)] == [2, 2, 2, 6]


def test_the_golden_file_is_what_python_says() -> None:
    assert GOLDEN.read_text(encoding="utf-8") == text()
