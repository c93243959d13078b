"""The checkpoint in the repository: small, readable by the product, and right more often than not."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from pocketvlm.images.prepare import cut_tiles, normalize
from pocketvlm.models.bluelm_v import BluelmV
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.scenes import PREPROCESSING, Example, held_out
from studies.reader.data import prompt_tokens, token_id, tokenizer
from studies.reader.evaluate import load_reader, right_answers, score
from studies.reader.learner import Learner, embed, load_published
from studies.reader.model import CONFIG
from studies.reader.publish import publish
from studies.reader.train import HEADS

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


def test_training_goes_on_from_the_shipped_checkpoint_and_the_heads_beside_it() -> None:
    learner = Learner(seed=1)
    untrained = {name: weight.clone() for name, weight in learner.named_parameters()}
    load_published(learner, CHECKPOINT, CHECKPOINT.with_name(HEADS))
    assert not [name for name, weight in learner.named_parameters() if torch.equal(weight, untrained[name])]


def test_shipped_checkpoint_answers_right() -> None:
    """At least three quarters of 60 questions about pictures that training never drew; the model card says more."""
    report = score(load_reader(CHECKPOINT), list(held_out("tests", 60)))
    assert report["exact"] >= 0.75


def test_scoring_in_one_pass_is_greedy_decoding() -> None:
    """Right and wrong answers are told apart as decoding token by token does."""
    reader = load_reader(CHECKPOINT)
    examples = list(held_out("decoding", 24, grids=[(1, 1), (2, 1), (2, 2)]))
    assert right_answers(reader, examples) == [_decode(reader, example) == example.answer for example in examples]


def _decode(reader: BluelmV, example: Example) -> str:
    """Greedy decoding without a cache, at most as long as the right answer and its end."""
    images = reader.encode_tiles(
        torch.from_numpy(normalize(cut_tiles(example.image, PREPROCESSING).pixels, PREPROCESSING))
    )
    prompt = prompt_tokens(example.grid, example.question)
    found: list[int] = []
    with torch.inference_mode():
        while len(found) <= len(example.answer):
            hidden = reader.decoder(embed(reader, images, torch.tensor([[*prompt, *found]])))
            found.append(int(reader.lm_head(hidden[0, -1]).argmax()))
            if found[-1] == token_id("<|im_end|>"):
                return tokenizer().decode(found[:-1], skip_special_tokens=False)
    return tokenizer().decode(found, skip_special_tokens=False)
