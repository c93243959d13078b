"""Batches: pictures as tiles, dense labels for the vision tower, and token sequences with their targets.

A batch follows from its number alone, so that a resumed run goes on with the very pictures it would have drawn.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from examples.reader import questions
from examples.reader.model import CONFIG
from examples.reader.pictures import CHARACTERS, PREPROCESSING, Picture, draw
from examples.reader.questions import Turn
from examples.reader.tokenizer import END_OF_TEXT, IM_END, IM_START, build_tokenizer
from pocketvlm.images import cut_tiles, thumbnail_index
from pocketvlm.tiling import Grid, fitted_size

#: label of a patch that is neither clearly background nor clearly one character; also of tokens without a loss
IGNORED = -100
#: square pixels of a patch (64) that a character must cover to be its label, and that background may be covered by
COVERED, UNCOVERED = 12.0, 4.0


@dataclass(frozen=True)
class Sequences:
    """Token sequences, right-padded, whose image placeholders stand in the same place."""

    tokens: npt.NDArray[np.int64]
    """int64 [pictures, tokens]"""
    targets: npt.NDArray[np.int64]
    """int64 [pictures, tokens]: the token that follows, where it belongs to an answer, else IGNORED"""


@dataclass(frozen=True)
class Batch:
    """Pictures of one grid: first those that are transcribed, then those that are asked about."""

    grid: Grid
    pixels: npt.NDArray[np.uint8]
    """uint8 [pictures * tiles, 72, 72, 3]"""
    dense: npt.NDArray[np.int64]
    """int64 [pictures * tiles, 81]: class of the character over each patch, 0 for background"""
    sequences: tuple[Sequences, ...]
    """one block for each half: transcriptions are much shorter than dialogues, and padding costs time"""


@cache
def tokenizer() -> Tokenizer:
    return build_tokenizer()


def token_id(token: str) -> int:
    """The id of a token of the vocabulary."""
    found = tokenizer().token_to_id(token)
    if found is None:
        raise KeyError(token)
    return found


def image_text(grid: Grid) -> str:
    """The image's part of a sequence, as text: position tokens and one placeholder for each image token."""
    across, down = grid
    layout, tokens = CONFIG.image_layout, CONFIG.image_token * CONFIG.tokens_per_tile
    tiles = [
        layout.tile.format(row=row, column=column) + tokens
        for row in range(1, down + 1)
        for column in range(1, across + 1)
    ]
    if (index := thumbnail_index(grid, PREPROCESSING)) is not None:
        tiles.insert(index, layout.thumbnail + tokens)
    return layout.image_start + "".join(tiles) + layout.image_end


@cache
def _encode(text: str) -> tuple[int, ...]:
    return tuple(tokenizer().encode(text, add_special_tokens=False).ids)


def prompt_tokens(grid: Grid, question: str) -> list[int]:
    """A first turn up to where the answer begins."""
    opening = _encode(f"{IM_START}user\n{image_text(grid)}")
    return [*opening, *_encode(f"{question}{IM_END}\n{IM_START}assistant\n")]


def sequence(grid: Grid, turns: Sequence[Turn]) -> tuple[list[int], list[int]]:
    """Tokens of a dialogue about one picture, and for each the token to predict (IGNORED outside of answers)."""
    tokens: list[int] = []
    answers: list[bool] = []
    for number, turn in enumerate(turns):
        opening = prompt_tokens(grid, turn.question)
        if number:
            opening = [*_encode(f"{IM_START}user\n"), *_encode(f"{turn.question}{IM_END}\n{IM_START}assistant\n")]
        answer, closing = _encode_answer(turn.answer), _encode("\n")
        tokens += [*opening, *answer, *closing]
        answers += [False] * len(opening) + [True] * len(answer) + [False] * len(closing)
    following = zip(tokens[1:], answers[1:], strict=True)
    targets = [token if is_answer else IGNORED for token, is_answer in following]
    return tokens, [*targets, IGNORED]


def _encode_answer(answer: str) -> list[int]:
    return [*tokenizer().encode(answer, add_special_tokens=False).ids, *_encode(IM_END)]


def dense_labels(picture: Picture, grid: Grid) -> npt.NDArray[np.int64]:
    """The class of each patch of each tile of the sequence: int64 [tiles, 81].

    0 is background, 1 and up the index of the character that covers most of the patch; IGNORED in between.
    """
    boxes = np.asarray([character.box for character in picture.characters], dtype=np.float64)
    classes = np.asarray([CHARACTERS.index(character.text) + 1 for character in picture.characters])
    tile = PREPROCESSING.tile_size
    across, down = grid
    width, height = fitted_size(*picture.image.size, grid, tile)
    left, top = (tile * across - width) // 2, (tile * down - height) // 2
    scale = np.asarray([width / picture.image.width, height / picture.image.height] * 2)
    on_canvas = boxes * scale + [left, top, left, top]
    labels = [
        _tile_labels(on_canvas - [column * tile, row * tile] * 2, classes)
        for row in range(down)
        for column in range(across)
    ]
    if (index := thumbnail_index(grid, PREPROCESSING)) is not None:
        stretch = np.asarray([tile / picture.image.width, tile / picture.image.height] * 2)
        labels.insert(index, _tile_labels(boxes * stretch, classes))
    return np.stack(labels)


def _tile_labels(boxes: npt.NDArray[np.float64], classes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Labels of one tile's patches, row by row: [81] from boxes [characters, 4] in its pixels."""
    assert CONFIG.vision is not None
    patch, side = CONFIG.vision.patch_size, CONFIG.vision.grid_size
    starts = np.arange(side) * patch
    horizontal, vertical = (
        # [characters, side]: pixels of each column (row) of patches that the box covers
        np.clip(np.minimum(boxes[:, high, None], starts + patch) - np.maximum(boxes[:, low, None], starts), 0, None)
        for low, high in ((0, 2), (1, 3))
    )
    # [characters, rows, columns] -> [characters, patches]
    covered = (vertical[:, :, None] * horizontal[:, None, :]).reshape(len(boxes), side * side)
    most = covered.max(axis=0)
    labels = np.where(most >= COVERED, classes[covered.argmax(axis=0)], IGNORED)
    return np.where(most <= UNCOVERED, 0, labels)


def make_batch(seed: str, grid: Grid, pictures: int, *, max_lines: int = 4, max_length: int = 5) -> Batch:
    """Draw a batch: half of the sequences are transcriptions, half ask everything about their picture."""
    pixels, dense = [], []
    transcriptions: list[tuple[list[int], list[int]]] = []
    dialogues: list[tuple[list[int], list[int]]] = []
    for number in range(pictures):
        picture_seed = f"{seed}:{number}"
        picture = draw(picture_seed, grids=[grid], max_lines=max_lines, max_length=max_length)
        source = random.Random(f"{picture_seed}:questions")
        tiled = cut_tiles(picture.image, PREPROCESSING)
        pixels.append(tiled.pixels)
        dense.append(dense_labels(picture, tiled.grid))
        if number < pictures // 2:
            transcriptions.append(sequence(grid, [questions.transcription(picture, source)]))
        else:
            dialogues.append(sequence(grid, questions.every_question(picture, source)))
    blocks = tuple(_pad(rows) for rows in (transcriptions, dialogues) if rows)
    return Batch(grid, np.concatenate(pixels), np.concatenate(dense), blocks)


def _pad(rows: Sequence[tuple[list[int], list[int]]]) -> Sequences:
    longest = max(len(tokens) for tokens, _ in rows)
    padding = token_id(END_OF_TEXT)
    return Sequences(
        np.asarray([tokens + [padding] * (longest - len(tokens)) for tokens, _ in rows]),
        np.asarray([targets + [IGNORED] * (longest - len(targets)) for _, targets in rows]),
    )
