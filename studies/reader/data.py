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

from pocketvlm.images.prepare import cut_tiles
from pocketvlm.images.tiling import Grid, fitted_size, thumbnail_index
from pocketvlm.scenes import MARKS, PREPROCESSING, DrawnPicture, Example, Turn, ask, choose, draw
from studies.reader.model import CONFIG
from studies.reader.tokenizer import END_OF_TEXT, IM_END, IM_START, build_tokenizer

#: label of what is neither clearly background nor clearly one mark; also of tokens without a loss
IGNORED = -100
#: a patch is labelled in columns, as small characters are narrower than it
COLUMNS_PER_PATCH = 2
#: square pixels of a column (32) that a mark must cover to be its label, and that background may be covered by
COVERED, UNCOVERED = 5.0, 2.0
#: marks thinner than this (a point, a bar of an l) are labelled as if they were so wide, pixels
THINNEST = 3.0
#: a thumbnail's characters are IGNORED where half of them are narrower or lower than this: they cannot be told apart
READABLE = (3.0, 5.0)
#: class of each mark; 0 is background
CLASSES = {mark: number for number, mark in enumerate(MARKS, 1)}
#: most questions that a dialogue asks about one picture
MAX_QUESTIONS = 5


@dataclass(frozen=True)
class Sequences:
    """Token sequences, right-padded; their images follow one another in the batch."""

    tokens: npt.NDArray[np.int64]
    """int64 [sequences, tokens]"""
    targets: npt.NDArray[np.int64]
    """int64 [sequences, tokens]: the token that follows, where it belongs to an answer, else IGNORED"""
    pictures: int
    """number of pictures in all sequences"""


@dataclass(frozen=True)
class Batch:
    """Pictures of one grid: first those that are transcribed, then those that are asked about."""

    grid: Grid
    pixels: npt.NDArray[np.uint8]
    """uint8 [pictures * tiles, 72, 72, 3]"""
    dense: npt.NDArray[np.int64]
    """int64 [pictures * tiles, 81, 2]: class of the mark over each column of each patch, 0 for background"""
    sequences: tuple[Sequences, ...]
    """one block for transcriptions, one for dialogues: the latter are longer, and padding costs time"""


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
    return tuple(_tokens(text))


def prompt_tokens(grid: Grid, question: str) -> list[int]:
    """A first turn about one picture, up to where the answer begins."""
    return _opening([grid], question)


def _opening(images: Sequence[Grid], question: str) -> list[int]:
    """A user's turn with its images first, up to where the answer begins."""
    shown = "".join(image_text(grid) for grid in images)
    return [*_encode(f"{IM_START}user\n{shown}"), *_tokens(f"{question}{IM_END}\n{IM_START}assistant\n")]


def sequence(turns: Sequence[tuple[Sequence[Grid], Turn]]) -> tuple[list[int], list[int]]:
    """Tokens of a conversation, and for each the token to predict (IGNORED outside of answers).

    ``turns`` are the new images of each turn, as grids, and its question.
    """
    tokens: list[int] = []
    answers: list[bool] = []
    for images, turn in turns:
        opening = _opening(images, turn.question)
        answer, closing = [*_tokens(turn.answer), *_encode(IM_END)], _encode("\n")
        tokens += [*opening, *answer, *closing]
        answers += [False] * len(opening) + [True] * len(answer) + [False] * len(closing)
    following = zip(tokens[1:], answers[1:], strict=True)
    targets = [token if is_answer else IGNORED for token, is_answer in following]
    return tokens, [*targets, IGNORED]


def _tokens(text: str) -> list[int]:
    return list(tokenizer().encode(text, add_special_tokens=False).ids)


def dense_labels(picture: DrawnPicture, grid: Grid) -> npt.NDArray[np.int64]:
    """The class of each column of each patch of each tile of the sequence: int64 [tiles, 81, 2].

    0 is background, else the class of the mark that covers most of the column; IGNORED in between.
    """
    boxes = np.asarray([mark.box for mark in picture.marks], dtype=np.float64).reshape(-1, 4)
    classes = np.asarray([CLASSES[mark.what] for mark in picture.marks], dtype=np.int64)
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
        written = np.asarray([len(mark.what) == 1 for mark in picture.marks])
        shrunk = ((boxes[:, 2:] - boxes[:, :2]) * stretch[:2])[written]  # [characters, 2]
        if len(shrunk) and (np.median(shrunk, axis=0) < READABLE).any():
            classes = np.where(written, IGNORED, classes)
        labels.insert(index, _tile_labels(boxes * stretch, classes))
    return np.stack(labels)


def _tile_labels(boxes: npt.NDArray[np.float64], classes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Labels of one tile's patches, row by row: [81, 2] from boxes [marks, 4] in its pixels."""
    assert CONFIG.vision is not None
    patch, side = CONFIG.vision.patch_size, CONFIG.vision.grid_size
    inside = (boxes[:, 2] > 0) & (boxes[:, 3] > 0) & (boxes[:, 0] < side * patch) & (boxes[:, 1] < side * patch)
    if not inside.any():
        return np.zeros((side * side, COLUMNS_PER_PATCH), np.int64)
    boxes, classes = boxes[inside], classes[inside]
    thin = np.clip(THINNEST - (boxes[:, 2:] - boxes[:, :2]), 0, None) / 2  # [marks, 2]
    low, high = boxes[:, :2] - thin, boxes[:, 2:] + thin
    covered = [
        # [marks, columns of the tile or rows of patches]: pixels of each that the box covers
        np.clip(np.minimum(high[:, axis, None], starts + width) - np.maximum(low[:, axis, None], starts), 0, None)
        for axis, width in ((0, patch / COLUMNS_PER_PATCH), (1, float(patch)))
        for starts in (np.arange(0, side * patch, width),)
    ]
    # [marks, rows, columns] -> [marks, patches * columns of a patch]
    area = (covered[1][:, :, None] * covered[0][:, None, :]).reshape(len(boxes), -1)
    most = area.max(axis=0)
    labels = np.where(most >= COVERED, classes[area.argmax(axis=0)], IGNORED)
    # [patches * columns of a patch] -> [patches, columns of a patch]: columns of a patch stand next to each other
    return np.where(most <= UNCOVERED, 0, labels).reshape(side * side, COLUMNS_PER_PATCH)


def make_batch(seed: str, grid: Grid, pictures: int, *, several: bool = False) -> Batch:
    """Draw a batch: half of the sequences are transcriptions, half ask questions about their picture.

    With ``several``, each sequence of the second half has two pictures.
    """
    pixels, dense, drawn = [], [], []
    for number in range(pictures):
        picture = draw(f"{seed}:{number}", grids=[grid])
        pixels.append(cut_tiles(picture.image, PREPROCESSING).pixels)
        dense.append(dense_labels(picture, grid))
        drawn.append(picture)
    source = random.Random(f"{seed}:questions")
    half = pictures // 2
    transcribed, asked = drawn[:half], drawn[half:]
    blocks = [_pad([sequence([([grid], _transcription(picture, source))]) for picture in transcribed], half)]
    group = 2 if several and len(asked) > 1 else 1
    asked_together = [asked[start : start + group] for start in range(0, len(asked), group)]
    blocks.append(_pad([sequence(_dialogue(together, grid, source)) for together in asked_together], len(asked)))
    return Batch(grid, np.concatenate(pixels), np.concatenate(dense), tuple(blocks))


def examples_batch(examples: Sequence[Example]) -> Batch:
    """Examples of one grid as a batch of one question a picture, without dense labels."""
    grid = examples[0].grid
    pixels = np.concatenate([cut_tiles(example.image, PREPROCESSING).pixels for example in examples])
    turns = [Turn(example.kind, example.question, example.answer) for example in examples]
    block = _pad([sequence([([grid], turn)]) for turn in turns], len(examples))
    return Batch(grid, pixels, np.zeros((len(pixels), 0, COLUMNS_PER_PATCH), np.int64), (block,))


def _transcription(picture: DrawnPicture, source: random.Random) -> Turn:
    return ask(next(fact for fact in picture.facts if fact.topic == "all"), source)


def _dialogue(pictures: Sequence[DrawnPicture], grid: Grid, source: random.Random) -> list[tuple[Sequence[Grid], Turn]]:
    """Questions about one picture; or about two, shown together or one after the other."""
    turns: list[tuple[Sequence[Grid], Turn]] = []
    together = source.random() < 0.5
    for index, picture in enumerate(pictures):
        asked = [ask(fact, source) for fact in choose(picture.facts, MAX_QUESTIONS, source)]
        if len(pictures) > 1:
            asked = [Turn(turn.kind, f"DrawnPicture {index + 1}: {turn.question}", turn.answer) for turn in asked[:3]]
        images = [[grid] * len(pictures) if index == 0 else []] if together else [[grid]]
        turns += zip(images + [[]] * (len(asked) - 1), asked, strict=True)
    return turns


def _pad(rows: Sequence[tuple[list[int], list[int]]], pictures: int) -> Sequences:
    longest = max(len(tokens) for tokens, _ in rows)
    padding = token_id(END_OF_TEXT)
    return Sequences(
        np.asarray([tokens + [padding] * (longest - len(tokens)) for tokens, _ in rows]),
        np.asarray([targets + [IGNORED] * (longest - len(targets)) for _, targets in rows]),
        pictures,
    )
