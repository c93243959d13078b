"""Calibration data: what a calibrated recipe's quantizers see: drawn pictures, the text that ships, or a file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from pocketvlm.errors import DataError, located, one_line
from pocketvlm.export.read.sample import Sample, Turns, encode, make_sample
from pocketvlm.files import read_text
from pocketvlm.images.prepare import cut_tiles
from pocketvlm.models.config import VlmConfig
from pocketvlm.quant import quantizer_of
from pocketvlm.questions.data import GENERATED_FORM, TEXT_FORM, open_data
from pocketvlm.recipe import Recipe

if TYPE_CHECKING:
    from pocketvlm.export.read.frontend import Frontend

#: Pictures that are drawn when no data is given; evaluation draws none of them (its seeds begin with "held-out:").
DEFAULT_PICTURES = "generated:calibration"
#: What a model that takes text only sees then: dialogues, this project's documents, the Universal Declaration of Human
#: Rights in twelve languages, mixed (240 KB).
DEFAULT_TEXT, TEXT_FILE = "text", Path(__file__).with_suffix(".txt")
#: So many windows of it at most, 16,384 tokens: each goes through every layer twice.
TEXT_SEQUENCES = 32
#: No further picture is drawn once there are so many tokens: 128 pictures of the built-in model's 250, thirty where
#: a picture takes a thousand.
PICTURE_TOKENS = 1 << 15
#: Questions asked about one drawn picture.
QUESTIONS_OF_PICTURE = 5
#: Pictures in a row that do not fit a model, after which none is expected to.
MOST_SKIPPED = 50
#: Largest text file that is read, bytes. CalibrationSet takes its first windows only.
MAX_TEXT_BYTES = 64 << 20


@dataclass(frozen=True)
class CalibrationSet:
    """Conversations in the model's own layout. ``sha256`` is of their token ids and pixels, in order."""

    source: str
    samples: tuple[Sample, ...]
    sha256: str

    @property
    def tokens(self) -> int:
        return sum(len(sample.token_ids) for sample in self.samples)


def is_calibrated(recipe: Recipe) -> bool:
    """Whether a quantizer of the recipe has to see activations."""
    return any(quantizer_of(rule).CALIBRATED for rule in recipe.rules)


def default_source(config: VlmConfig) -> str:
    """What a model is calibrated on where nothing is said."""
    return DEFAULT_TEXT if config.vision is None else DEFAULT_PICTURES


def most_sequences(source: str, recipe: Recipe) -> int:
    """How many conversations or windows of ``source`` are looked at, if it has so many."""
    asked = recipe.calibration.sequences
    return min(asked, TEXT_SEQUENCES) if source == DEFAULT_TEXT else asked


def most_tokens(source: str, recipe: Recipe) -> int:
    """About how many tokens of ``source`` are looked at."""
    asked = most_sequences(source, recipe) * recipe.calibration.text_tokens
    return min(asked, PICTURE_TOKENS) if _drawn_by(source) else asked


def _drawn_by(source: str) -> re.Match[str] | None:
    return re.fullmatch(GENERATED_FORM, source, re.ASCII)


def read_calibration(source: str, frontend: Frontend, recipe: Recipe, positions: int) -> CalibrationSet:
    """At most ``recipe.calibration.sequences`` conversations of ``source``, fewer of what is drawn or ships.

    ``source`` is generated:SEED, FILE.jsonl or FILE.tsv (questions with their answers, as ``pocketvlm eval`` reads
    them), FILE.txt, which is cut into windows of ``recipe.calibration.text_tokens``, or ``text``, a text that ships.
    ``positions`` is what the model takes.

    :raises DataError: it is none of these, cannot be read, is empty, or does not fit the model
    """
    most = most_sequences(source, recipe)
    if generated := _drawn_by(source):
        found = _drawn(generated[1], frontend, positions)
    elif source == DEFAULT_TEXT or source.endswith(".txt"):
        file = TEXT_FILE if source == DEFAULT_TEXT else Path(source)
        found = _windows(file, frontend, min(recipe.calibration.text_tokens, positions))
    else:
        found = _asked(source, frontend, most)
    samples: list[Sample] = []
    tokens, digest = 0, hashlib.sha256()
    for sample in islice(found, most):
        if len(sample.token_ids) > positions:
            raise DataError(
                f"{one_line(source, 120)}: conversation {len(samples) + 1} has {len(sample.token_ids)} tokens, "
                f"the model has {positions} positions"
            )
        samples.append(sample)
        tokens += len(sample.token_ids)
        digest.update(sample.token_ids.numpy().tobytes())
        if sample.pixels is not None:
            digest.update(sample.pixels.numpy().tobytes())
        if generated and tokens >= PICTURE_TOKENS:
            break
    if not samples:
        raise DataError(f"{one_line(source, 120)}: has nothing to calibrate on")
    return CalibrationSet(source, tuple(samples), digest.hexdigest())


def _drawn(seed: str, frontend: Frontend, positions: int) -> Iterator[Sample]:
    """Pictures of ``pocketvlm.scenes``, each with as many questions and answers as fit into the model's positions."""
    import random

    from pocketvlm.scenes import ask, choose, draw

    if frontend.vision is None:
        raise DataError("a model that takes text only is not calibrated on pictures: give text, FILE.txt or FILE.jsonl")
    skipped = 0
    for number in count():
        picture = draw(f"calibration:{seed}:{number}")
        chance = random.Random(f"calibration:{seed}:{number}:questions")
        asked = [ask(fact, chance) for fact in choose(picture.facts, QUESTIONS_OF_PICTURE, chance)]
        turns = tuple((turn.question, turn.answer) for turn in asked)
        samples = (_sample(frontend, turns[:most], (picture.image,)) for most in range(len(turns), 0, -1))
        sample = next((sample for sample in samples if len(sample.token_ids) <= positions), None)
        skipped = skipped + 1 if sample is None else 0
        if skipped == MOST_SKIPPED:
            raise DataError(f"no picture with a question fits into the model's {positions} positions")
        if sample is not None:
            yield sample


def _asked(source: str, frontend: Frontend, most: int) -> Iterator[Sample]:
    """Questions of a file, each a conversation."""
    for question in open_data(source, most, also=TEXT_FORM).items:
        with located(question.where):
            if question.images and frontend.vision is None:
                raise DataError("the model takes text only, and the question is about images")
        yield _sample(frontend, ((question.text, question.answers[0]),), question.images)


def _sample(frontend: Frontend, turns: Turns, images: tuple[Image.Image, ...]) -> Sample:
    look = frontend.images
    tiled = [] if look is None else [cut_tiles(image, look.preprocessing) for image in images]
    return make_sample(frontend.tokenizer, frontend.chat, look, turns, tiled)


def _windows(path: Path, frontend: Frontend, tokens: int) -> Iterator[Sample]:
    """A text in windows of ``tokens``; what remains at its end is left out, unless it is all there is."""
    ids = torch.tensor(encode(frontend.tokenizer, read_text(path, MAX_TEXT_BYTES, DataError)), dtype=torch.int64)
    for window in ids.split(tokens):
        if len(window) == tokens or 1 < len(window) == len(ids):
            yield Sample(None, window, None, 0)
