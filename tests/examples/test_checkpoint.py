"""The checkpoint in the repository: small, readable by the product, and right more often than not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from examples.reader.data import tokenizer
from examples.reader.evaluate import answers, generate, held_out_cases, load_reader
from examples.reader.learner import Learner
from examples.reader.model import CONFIG
from examples.reader.publish import publish
from pocketvlm.models.checkpoint import open_checkpoint

CHECKPOINT = Path(__file__).resolve().parents[2] / "examples" / "reader" / "checkpoint"


def test_published_weights_read_back(tmp_path: Path) -> None:
    reader = Learner(seed=1).reader
    publish(reader, tmp_path / "checkpoint")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    checkpoint = open_checkpoint(tmp_path / "checkpoint")
    assert checkpoint.config == CONFIG
    for name, weight in reader.named_parameters():
        assert torch.equal(checkpoint.tensor(name), weight.to(torch.float16)), name


def test_shipped_checkpoint_is_what_the_code_describes() -> None:
    checkpoint = open_checkpoint(CHECKPOINT)
    assert checkpoint.config == CONFIG
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= 12e6
    shipped = json.loads((CHECKPOINT / "tokenizer.json").read_text(encoding="utf-8"))
    assert shipped == json.loads(tokenizer().to_str())


def test_shipped_checkpoint_reads_one_tile_pictures() -> None:
    """More than half of 50 questions for a line, on pictures that training never drew."""
    cases = held_out_cases("tests", 50, grids=[(1, 1)], kinds=("line",))
    found = answers(load_reader(CHECKPOINT), cases)
    right = sum(text == case.turn.answer for text, case in zip(found, cases, strict=True))
    assert right > 25


@pytest.mark.parametrize("seed", ["a", 7])
def test_generated_examples_are_deterministic(seed: str | int) -> None:
    first, second = list(generate(seed, 12)), list(generate(seed, 12))
    assert [x[1:] for x in first] == [x[1:] for x in second]
    assert all(a[0].tobytes() == b[0].tobytes() for a, b in zip(first, second, strict=True))
    assert len({question for _, question, _ in first}) > 3
