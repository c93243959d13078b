"""Batches: the layout of sequences, where the loss applies, and dense labels on the right patches."""

from __future__ import annotations

import random

import numpy as np
import pytest

from examples.reader import questions
from examples.reader.data import IGNORED, dense_labels, image_text, make_batch, prompt_tokens, sequence, tokenizer
from examples.reader.learner import image_token_id
from examples.reader.pictures import CHARACTERS, GRIDS, PREPROCESSING, draw
from pocketvlm.images import cut_tiles, sequence_length


@pytest.mark.parametrize("grid", GRIDS)
def test_layout_has_25_placeholders_for_each_tile(grid: tuple[int, int]) -> None:
    tokens = tokenizer().encode(image_text(grid)).tokens
    assert tokens[0] == "<|image_start|>"
    assert tokens[-1] == "<|image_end|>"
    assert tokens.count("<|image_pad|>") == 25 * sequence_length(grid, PREPROCESSING)
    heads = [token for token in tokens[1:-1] if token != "<|image_pad|>"]
    across, down = grid
    tiles = [f"<|{x}|>" for r in range(down) for c in range(across) for x in (f"row_{r + 1}", f"column_{c + 1}")]
    assert heads == (["<|thumbnail|>"] if grid != (1, 1) else []) + tiles


def test_loss_applies_to_answers_and_their_end_only() -> None:
    picture = draw(3)
    turns = questions.every_question(picture, random.Random(0))
    tokens, targets = sequence((1, 1), turns)
    assert tokens[: len(prompt_tokens((1, 1), turns[0].question))] == prompt_tokens((1, 1), turns[0].question)
    wanted = [target for target in targets if target != IGNORED]
    assert tokenizer().decode(wanted, skip_special_tokens=False) == "".join(f"{x.answer}<|im_end|>" for x in turns)
    for position, target in enumerate(targets):
        assert target in (IGNORED, (*tokens, None)[position + 1])


def test_sequence_is_what_the_chat_template_says() -> None:
    turns = [questions.Turn("line", "Read line 1.", "AB"), questions.Turn("count", "Count the lines.", "1")]
    text = tokenizer().decode(sequence((1, 1), turns)[0], skip_special_tokens=False)
    image = "<|image_start|><|row_1|><|column_1|>" + "<|image_pad|>" * 25 + "<|image_end|>"
    assert text == (
        f"<|im_start|>user\n{image}Read line 1.<|im_end|>\n<|im_start|>assistant\nAB<|im_end|>\n"
        "<|im_start|>user\nCount the lines.<|im_end|>\n<|im_start|>assistant\n1<|im_end|>\n"
    )


@pytest.mark.parametrize("grid", [(1, 1), (2, 1), (2, 2)])
def test_dense_labels_land_on_the_right_patches(grid: tuple[int, int]) -> None:
    """Paint each character's box alone and see which patches of which tiles change."""
    found = 0
    for seed in range(6):
        picture = draw(seed, grids=[grid])
        labels = dense_labels(picture, grid)
        for character in {x.text: x for x in picture.characters}.values():
            changed = np.zeros(labels.shape, dtype=bool)
            for twin in picture.characters:
                if twin.text == character.text:
                    changed |= _patches_that_change(picture.image, twin.box)
            labelled = labels == CHARACTERS.index(character.text) + 1
            found += int(labelled.sum())
            assert not (labelled & ~changed).any()
    assert found > 20


def _patches_that_change(image, box):  # type: ignore[no-untyped-def]
    left, top, right, bottom = (round(x) for x in box)
    painted = image.copy()
    painted.paste((255, 0, 255), (left, top, right, bottom))
    painted_pixels = cut_tiles(painted, PREPROCESSING).pixels.astype(int)
    difference = np.abs(painted_pixels - cut_tiles(image, PREPROCESSING).pixels.astype(int)).sum(axis=-1)
    # [tiles, 72, 72] -> [tiles, 9, 8, 9, 8] -> [tiles, 9, 9] -> [tiles, 81]
    blocks = difference.reshape(len(difference), 9, 8, 9, 8).sum(axis=(2, 4))
    return blocks.reshape(len(difference), 81) > 0


def test_batch_follows_from_its_seed() -> None:
    first, second, other = (make_batch(seed, (2, 1), 4) for seed in ("a", "a", "b"))
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.sequences[1].tokens, second.sequences[1].tokens)
    assert not np.array_equal(first.pixels, other.pixels)
    assert first.pixels.shape == (12, 72, 72, 3)
    assert first.dense.shape == (12, 81)
    for block in first.sequences:
        assert (block.tokens == image_token_id()).sum(axis=1).tolist() == [75, 75]
