"""Stop tokens, the sampling that a checkpoint asks for, and tokens that the model has no row for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer

from pocketvlm.errors import CheckpointError
from pocketvlm.export.read.frontend import Frontend, read_frontend
from pocketvlm.models.checkpoint import open_checkpoint
from tests.support.checkpoints import CHAT_TEMPLATE, tiny_config, write_checkpoint

END, USER, ROW, TABLE = 256, 257, 263, 320


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("text") / "checkpoint"
    write_checkpoint(directory, tiny_config("qwen2", vision=False))
    return directory


@pytest.fixture
def checkpoint(tmp_path: Path, made: Path) -> Path:
    shutil.copytree(made, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def said(directory: Path, **files: Any) -> Frontend:
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return read_frontend(open_checkpoint(directory))


STOPS: list[tuple[dict[str, Any], str, tuple[int, ...]]] = [
    # the layout's end of turn and the tokenizer's eos_token beside what the configs say
    ({"generation_config": {"eos_token_id": 259}}, CHAT_TEMPLATE, (259, END)),
    ({"generation_config": {"eos_token_id": [7, END]}}, CHAT_TEMPLATE, (7, END)),
    ({"tokenizer_config": {"eos_token": "<row>"}}, CHAT_TEMPLATE, (ROW, END)),
    ({"tokenizer_config": {"eos_token": None}}, CHAT_TEMPLATE, (END,)),
    ({"tokenizer_config": {}, "special_tokens_map": {"eos_token": "<row>"}}, CHAT_TEMPLATE, (ROW, END)),
    ({"tokenizer_config": {"eos_token": "<row>"}}, CHAT_TEMPLATE.replace("'<|end|>'", "' <|end|>\\n'"), (ROW, END)),
    # an answer that plain text, or the next question, follows
    ({"tokenizer_config": {"eos_token": "<row>"}}, CHAT_TEMPLATE.replace("<|end|>", "\\n"), (ROW,)),
    ({"tokenizer_config": {"eos_token": "<row>"}}, CHAT_TEMPLATE.replace("<|end|>", ""), (ROW,)),
    ({"tokenizer_config": {"eos_token": "<nowhere>"}}, CHAT_TEMPLATE, (END,)),
]


@pytest.mark.parametrize(("files", "template", "stop"), STOPS)
def test_answers_end_as_the_chat_layout_and_the_tokenizer_end_them(
    checkpoint: Path, files: dict[str, Any], template: str, stop: tuple[int, ...]
) -> None:
    (checkpoint / "chat_template.jinja").write_text(template)
    assert said(checkpoint, **files).tokens.stop == stop


def test_without_any_end_an_answer_would_never_stop(checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="names no eos_token_id: generation would never stop"):
        said(checkpoint, tokenizer_config={}, generation_config={"eos_token_id": []})


SAMPLING: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"temperature": 0.6, "top_p": 0.9}, ""),
    ({"do_sample": False, "temperature": 0.6, "repetition_penalty": 1.0}, ""),
    ({"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20}, "--temperature 0.6 --top-k 20 --top-p 0.9"),
    ({"do_sample": True}, "--temperature 1 --top-k 50"),
    ({"do_sample": True, "top_k": None, "temperature": "hot"}, "--temperature 1 --top-k 50"),
    ({"repetition_penalty": 1.05}, "asks for --repetition-penalty 1.05"),
    ({"no_repeat_ngram_size": 3, "num_beams": 1, "min_length": 0}, "sets no_repeat_ngram_size, which no runtime"),
    ({"do_sample": True, "temperature": 10**400, "top_p": float("nan"), "top_k": True}, "--temperature 1 --top-k 50"),
]


@pytest.mark.parametrize(("settings", "words"), SAMPLING)
def test_sampling_that_a_bundle_does_not_hold_is_mentioned(
    checkpoint: Path, settings: dict[str, Any], words: str
) -> None:
    notes = " ".join(said(checkpoint, generation_config=settings).notes)
    assert words in notes
    assert bool(notes) == bool(words)


def test_a_tokenizer_that_only_python_reads_is_mentioned(checkpoint: Path) -> None:
    path = checkpoint / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "normalizer": {"type": "NFKC"}}))
    (note,) = said(checkpoint).notes
    assert (
        note == "Python runs this bundle, the Kotlin library for Android cannot: its normalizer is NFKC (the tokenizer)"
    )


def with_tokens(directory: Path, *tokens: AddedToken) -> None:
    """So many more that the first of them is the first without a row."""
    path = str(directory / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    fill = [AddedToken(f"<fill {index}>", special=True) for index in range(TABLE - tokenizer.get_vocab_size())]
    tokenizer.add_tokens([*fill, *tokens])
    tokenizer.save(path)


def test_a_tokenizer_may_be_larger_than_the_table_where_nothing_produces_what_has_no_row(checkpoint: Path) -> None:
    with_tokens(checkpoint)
    assert not said(checkpoint).notes
    with_tokens(checkpoint, AddedToken("<never>", special=True), AddedToken("<never again>", special=True))
    assert said(checkpoint).notes == (
        "2 special tokens of tokenizer.json have no row in the model, and stand in no prompt",
    )


@pytest.mark.parametrize(
    ("token", "template", "words"),
    [
        # one that is not special is found in what people write, and transformers then fails on its row
        (AddedToken("<tool>", special=False), CHAT_TEMPLATE, "a text can hold '<tool>', token 320"),
        (AddedToken("<new>", special=True), CHAT_TEMPLATE.replace("<|end|>", "<new>"), "its prompts hold '<new>'"),
    ],
)
def test_a_token_without_a_row_that_a_prompt_can_hold_is_refused_with_a_way_out(
    checkpoint: Path, token: AddedToken, template: str, words: str
) -> None:
    with_tokens(checkpoint, token)
    (checkpoint / "chat_template.jinja").write_text(template)
    with pytest.raises(CheckpointError, match="resize_token_embeddings") as caught:
        said(checkpoint)
    assert words in str(caught.value)


def test_a_damaged_or_hidden_tokenizer_is_one_line(checkpoint: Path) -> None:
    for content in (b"", b"\xff\xfe{\0}\0", b"{}", b"[" * 100):
        (checkpoint / "tokenizer.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"tokenizer\.json: [^\n]+$"):
            said(checkpoint)
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        said(checkpoint)
    (checkpoint / "tokenizer.json").mkdir()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: is not a regular file"):
        said(checkpoint)
