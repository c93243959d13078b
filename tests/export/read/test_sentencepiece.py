"""InternLM2's tokenizer.model as a tokenizer.json: the ids that the sentencepiece library makes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer

from pocketvlm.bundle.tokenizer import read_tokenizer
from pocketvlm.errors import CheckpointError
from pocketvlm.export.read.vocabulary import tokenizer_content
from tests.support.published import sentencepiece_model
from tests.support.tokenizers_zoo import LINES

PARTS = [
    "the",
    "qu",
    "ick",
    " ",
    "  ",
    "fox",
    "ä",
    "你",
    "z",
    "\n",
    "'",
    "é",
    "😀",
    "user",
    "12",
    "3",
    "▁",
    "<|",
    "[UNU",
]
FLAGS = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
LIKE_INTERNLM2: dict[str, Any] = {
    "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False, "user_defined_symbols": ["[UNUSED_TOKEN_0]", "[UNUSED_TOKEN_1]"],
}  # fmt: skip


def train(directory: Path, **changes: Any) -> sentencepiece.SentencePieceProcessor:
    """A trained model with settings beside it: two tokens in place of pieces, two behind them."""
    path = directory / "tokenizer.model"
    texts = [*LINES, "the quick brown fox, user and assistant äöü 你好"] * 3
    with path.open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=stream, vocab_size=400, hard_vocab_limit=False, minloglevel=2,
            **{**LIKE_INTERNLM2, **changes},
        )  # fmt: skip
    library = sentencepiece.SentencePieceProcessor(model_file=str(path))
    size = library.get_piece_size()
    contents = {0: "<unk>", 1: "<s>", 2: "</s>", 3: "<|im_end|>", 4: "<|im_start|>", size: "<img>", size + 1: "</img>"}
    write_settings(directory, {str(number): {"content": content, **FLAGS} for number, content in contents.items()})
    return library


def write_settings(directory: Path, added: dict[str, Any], **changes: Any) -> None:
    settings = {"tokenizer_class": "InternLM2Tokenizer", "bos_token": "<s>", "added_tokens_decoder": added, **changes}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def made(directory: Path) -> Tokenizer:
    return read_tokenizer(tokenizer_content(directory), "made", CheckpointError)


@pytest.mark.parametrize("prefix", [True, False])
def test_ids_are_the_librarys(tmp_path: Path, prefix: bool) -> None:
    library = train(tmp_path, add_dummy_prefix=prefix)
    tokenizer, draw = made(tmp_path), random.Random(5)
    for _ in range(2000):
        text = "".join(draw.choices(PARTS, k=draw.randint(0, 9)))
        assert tokenizer.encode(text, add_special_tokens=False).ids == library.encode(text), text
    assert tokenizer.decode(library.encode("the fox\n  ä😀")) == "the fox\n  ä😀"


@pytest.mark.parametrize("prefix", [True, False])
def test_each_text_between_added_tokens_is_one_of_its_own(tmp_path: Path, prefix: bool) -> None:
    library = train(tmp_path, add_dummy_prefix=prefix)
    size = library.get_piece_size()
    found = made(tmp_path).encode("the<|im_start|>user\n<img></img>fox<|im_end|>").ids
    assert found == [1, *library.encode("the"), 4, *library.encode("user\n"), size, size + 1, *library.encode("fox"), 3]


def test_special_tokens_need_not_be_listed(tmp_path: Path) -> None:
    train(tmp_path)
    write_settings(tmp_path, {}, eos_token="</s>")
    assert made(tmp_path).encode("<s>the</s>").ids[:2] == [1, 1]
    assert made(tmp_path).encode("the</s>").ids[-1] == 2


def test_without_a_first_token_where_the_settings_say_so(tmp_path: Path) -> None:
    train(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "add_bos_token": False}))
    assert made(tmp_path).encode("").ids == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "unigram"}, "trainer_spec.model_type is not BPE"),
        ({"byte_fallback": False}, "trainer_spec.byte_fallback is false"),
        ({"normalization_rule_name": "nmt_nfkc"}, "normalizer_spec.precompiled_charsmap is not empty"),
        ({"remove_extra_whitespaces": True}, "normalizer_spec.remove_extra_whitespaces is true"),
        ({"user_defined_symbols": ["fox"]}, "it has symbols of a user's"),
    ],
)
def test_another_kind_of_model_is_refused_by_key(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    train(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=words) as caught:
        made(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("added", "words"),
    [
        ({"900": {"content": "<img>"}}, "added_tokens_decoder has 900, and nothing has"),
        ({"3": {"content": "<s>"}}, "added_tokens_decoder has a token that is there already"),
        ({"x": {"content": "<img>"}}, "added_tokens_decoder has an entry that is no token"),
    ],
)
def test_added_tokens_that_do_not_fit_are_refused(tmp_path: Path, added: dict[str, Any], words: str) -> None:
    train(tmp_path)
    write_settings(tmp_path, added)
    with pytest.raises(CheckpointError, match=words):
        made(tmp_path)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    whole = sentencepiece_model(
        ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "[UNUSED_TOKEN_0]"]
    )
    write_settings(tmp_path, {})
    draw = random.Random(1)
    damaged = [whole[:cut] for cut in range(0, len(whole), 97)]
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        damaged.append(bytes(content))
    said = []
    for broken in damaged:
        (tmp_path / "tokenizer.model").write_bytes(broken)
        try:
            made(tmp_path)
        except CheckpointError as error:
            said.append(str(error))
    assert all(line.isprintable() for line in said)
    assert len(damaged) // 4 < len(said) < len(damaged)
