"""Batches: the layout of sequences, where the loss applies, and dense labels on the right patches."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pocketvlm.images.prepare import cut_tiles, sequence_length
from pocketvlm.scenes import GRIDS, PREPROCESSING, Turn, ask, draw, held_out
from studies.reader.data import (
    CLASSES,
    IGNORED,
    dense_labels,
    examples_batch,
    image_text,
    make_batch,
    prompt_tokens,
    sequence,
    tokenizer,
)
from studies.reader.learner import image_token_id


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
    source = random.Random(0)
    turns = [ask(fact, source) for fact in draw(3).facts]
    tokens, targets = sequence([([(1, 1)] if index == 0 else [], turn) for index, turn in enumerate(turns)])
    assert tokens[: len(prompt_tokens((1, 1), turns[0].question))] == prompt_tokens((1, 1), turns[0].question)
    wanted = [target for target in targets if target != IGNORED]
    assert tokenizer().decode(wanted, skip_special_tokens=False) == "".join(f"{x.answer}<|im_end|>" for x in turns)
    for position, target in enumerate(targets):
        assert target in (IGNORED, (*tokens, None)[position + 1])


def test_sequence_is_what_the_chat_template_says() -> None:
    turns = [Turn("line", "Read line 1.", "AB"), Turn("count", "Count the lines.", "1")]
    image = "<|image_start|><|row_1|><|column_1|>" + "<|image_pad|>" * 25 + "<|image_end|>"
    one, two = (
        "Read line 1.<|im_end|>\n<|im_start|>assistant\nAB",
        "Count the lines.<|im_end|>\n<|im_start|>assistant\n1",
    )
    for images, shown in (((1, 0), (image, "")), ((1, 1), (image, image)), ((2, 0), (image * 2, ""))):
        rows = [([(1, 1)] * count, turn) for count, turn in zip(images, turns, strict=True)]
        text = tokenizer().decode(sequence(rows)[0], skip_special_tokens=False)
        assert text == f"<|im_start|>user\n{shown[0]}{one}<|im_end|>\n<|im_start|>user\n{shown[1]}{two}<|im_end|>\n"


@pytest.mark.parametrize("grid", [(1, 1), (2, 1), (2, 2), (2, 4)])
def test_dense_labels_land_on_the_right_patches(grid: tuple[int, int]) -> None:
    """Paint each mark's box alone and see which columns of which patches of which tiles change."""
    found = 0
    for seed in range(4):
        picture = draw(seed, grids=[grid])
        labels = dense_labels(picture, grid)
        for what in {mark.what for mark in picture.marks}:
            changed = np.zeros(labels.shape, dtype=bool)
            for twin in picture.marks:
                if twin.what == what:
                    changed |= _columns_that_change(picture.image, twin.box)
            labelled = labels == CLASSES[what]
            found += int(labelled.sum())
            assert not (labelled & ~changed).any()
    assert found > 100


def _columns_that_change(image, box):  # type: ignore[no-untyped-def]
    left, top, right, bottom = (round(x) for x in box)
    painted = image.copy()
    # a thin mark is labelled as if it were wider
    painted.paste((255, 0, 255), (left - 1, top - 1, right + 2, bottom + 2))
    painted_pixels = cut_tiles(painted, PREPROCESSING).pixels.astype(int)
    difference = np.abs(painted_pixels - cut_tiles(image, PREPROCESSING).pixels.astype(int)).sum(axis=-1)
    # [tiles, 72, 72] -> [tiles, 9, 8, 18, 4] -> [tiles, 9, 18] -> [tiles, 81, 2]
    blocks = difference.reshape(len(difference), 9, 8, 18, 4).sum(axis=(2, 4))
    return blocks.reshape(len(difference), 81, 2) > 0


def test_batch_follows_from_its_seed() -> None:
    first, second, other = (make_batch(seed, (2, 1), 4) for seed in ("a", "a", "b"))
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.sequences[1].tokens, second.sequences[1].tokens)
    assert not np.array_equal(first.pixels, other.pixels)
    assert first.pixels.shape == (12, 72, 72, 3)
    assert first.dense.shape == (12, 81, 2)
    for block in first.sequences:
        assert (block.tokens == image_token_id()).sum(axis=1).tolist() == [75, 75]


@pytest.mark.parametrize("pictures", [2, 3, 5, 8])
def test_every_picture_of_a_batch_has_its_place_in_a_sequence(pictures: int) -> None:
    batch = make_batch("several", (1, 2), pictures, several=True)
    assert sum(block.pictures for block in batch.sequences) == pictures
    for block in batch.sequences:
        assert (block.tokens == image_token_id()).sum() == block.pictures * 75
    dialogues = batch.sequences[1]
    assert len(dialogues.tokens) == -(-dialogues.pictures // 2)


def test_examples_become_one_question_a_picture() -> None:
    examples = list(held_out("batch", 4, grids=[(2, 2)]))
    (block,) = examples_batch(examples).sequences
    for example, tokens, targets in zip(examples, block.tokens.tolist(), block.targets.tolist(), strict=True):
        prompt = prompt_tokens(example.grid, example.question)
        assert tokens[: len(prompt)] == prompt
        answer = tokenizer().decode([x for x in targets if x != IGNORED], skip_special_tokens=False)
        assert answer == f"{example.answer}<|im_end|>"
