"""A tokenizer of vocab.json and merges.txt: the token ids that transformers' own classes make."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GPT2Tokenizer, Qwen2Tokenizer

from pocketvlm.bundle.tokenizer import read_tokenizer
from pocketvlm.errors import CheckpointError
from pocketvlm.export import export_bundle
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.read.vocabulary import tokenizer_content
from pocketvlm.models.checkpoint import open_checkpoint
from tests.support.checkpoints import SPECIAL_TOKENS
from tests.support.tokenizers_zoo import LINES

CLASSES: dict[str, Any] = {"GPT2Tokenizer": GPT2Tokenizer, "Qwen2Tokenizer": Qwen2Tokenizer}
FLAGS = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
START, END, BOX, TEXT_END = "<|im_start|>", "<|im_end|>", "<box>", "<|endoftext|>"
TEXTS = (
    "hello world, how are you? I'll say 12345 things: it's 7K9X\r\n\n  and\ttabs   \n",
    f"{START}user\nWhat is this? {END}\n{START}assistant\n a{BOX} <box>b <|endoftext|> {TEXT_END}{END}",
    "Cafe\u0301 \u212b \u4f60\u597d\uff0c\u4e16\u754c \U0001f600 \u0645\u0631\u062d\u0628\u0627 e\u0301e\u0301",
    " leading, trailing ",
    "",
)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on a few lines, with the end of a text among its tokens, as GPT-2's has it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[TEXT_END],
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    directory = tmp_path_factory.mktemp("vocabulary")
    tokenizer.model.save(str(directory))
    return directory


def size(directory: Path) -> int:
    return len(json.loads((directory / "vocab.json").read_text()))


def decoder(first: int, *tokens: tuple[str, dict[str, bool]]) -> dict[str, Any]:
    return {str(first + at): {"content": content, **FLAGS, **flags} for at, (content, flags) in enumerate(tokens)}


SETTINGS: dict[str, dict[str, Any]] = {
    "nothing said": {},
    "tokens with their ids": {
        "eos_token": END, "bos_token": None, "unk_token": None, "pad_token": TEXT_END,
        "additional_special_tokens": [START, END],
        "beside": [(START, {}), (END, {}), (BOX, {"special": False, "normalized": True})],
    },
    "tokens that strip": {
        "eos_token": {"content": END, "lstrip": True, "__type": "AddedToken", "rstrip": False, "normalized": False},
        "beside": [(START, {"rstrip": True}), (END, {"lstrip": True}), (BOX, {"special": False, "lstrip": True})],
    },
    "out of order": {"eos_token": START, "beside": [(BOX, {}), (END, {}), (START, {})]},
    "names alone": {"eos_token": END, "pad_token": "<|pad|>", "additional_special_tokens": [START, BOX]},
    "a space before a text": {"add_prefix_space": True, "eos_token": END},
    "older files": {
        "added_tokens.json": {END: 1, START: 0, BOX: 2},
        "special_tokens_map.json": {"eos_token": END, "additional_special_tokens": [START, END]},
    },
}  # fmt: skip


def write(directory: Path, vocabulary: Path, kind: str, said: dict[str, Any]) -> Path:
    shutil.copytree(vocabulary, directory)
    first, settings = size(vocabulary), {"tokenizer_class": kind, **said}
    if "beside" in settings:
        settings["added_tokens_decoder"] = decoder(first, *settings.pop("beside"))
    for name in [name for name in settings if name.endswith(".json")]:
        content = settings.pop(name)
        if name == "added_tokens.json":
            content = {token: first + at for token, at in content.items()}
        (directory / name).write_text(json.dumps(content))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kind", CLASSES)
def test_ids_are_those_of_transformers_class(tmp_path: Path, vocabulary: Path, kind: str, name: str) -> None:
    directory = write(tmp_path / "tokenizer", vocabulary, kind, SETTINGS[name])
    expected = CLASSES[kind].from_pretrained(directory)
    found = read_tokenizer(tokenizer_content(directory), "made", CheckpointError)
    theirs = {number: str(token) for number, token in expected.added_tokens_decoder.items()}
    assert {number: token.content for number, token in found.get_added_tokens_decoder().items()} == theirs
    for text in TEXTS:
        ids = found.encode(text, add_special_tokens=False).ids
        assert ids == expected(text, add_special_tokens=False).input_ids, text
        assert found.decode(ids, skip_special_tokens=False) == expected.decode(ids)


def test_each_class_is_told_apart(tmp_path: Path, vocabulary: Path) -> None:
    """What GPT-2's pattern makes of digits and NFD, Qwen2's does not."""
    made = [write(tmp_path / kind, vocabulary, kind, {}) for kind in CLASSES]
    first, second = (read_tokenizer(tokenizer_content(one), "made") for one in made)
    assert first.encode(TEXTS[2]).ids != second.encode(TEXTS[2]).ids


def test_an_export_without_tokenizer_json_has_one(tmp_path: Path, tiny_checkpoint: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, checkpoint)
    whole = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    vocabulary = json.loads(whole.to_str())["model"]["vocab"]
    (checkpoint / "tokenizer.json").unlink()
    (checkpoint / "vocab.json").write_text(json.dumps(vocabulary))
    (checkpoint / "merges.txt").write_text("#version: 0.2\n")
    settings: dict[str, Any] = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|end|>", "bos_token": None}
    settings |= {"unk_token": None, "added_tokens_decoder": decoder(256, *((token, {}) for token in SPECIAL_TOKENS))}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings))
    export_bundle(checkpoint, tmp_path / "bundle", recipe="int8")
    written = Tokenizer.from_file(str(tmp_path / "bundle" / "tokenizer.json"))
    for text in ("<|user|>What is this?<|end|>", *TEXTS):
        assert written.encode(text, add_special_tokens=False).ids == whole.encode(text, add_special_tokens=False).ids
    opened = open_checkpoint(checkpoint)
    before = opened.revision
    (checkpoint / "merges.txt").write_text("#version: 0.2\n\u0120 \u0120\n")
    assert open_checkpoint(checkpoint).revision != before
    with pytest.raises(CheckpointError, match=r"vocab.json: the merge .* gives no token of the vocabulary"):
        read_frontend(open_checkpoint(checkpoint))


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "nothing": ({}, r"has no tokenizer.json \(nor vocab.json with merges.txt\)"),
    "merges alone": ({"merges.txt": ""}, "has no tokenizer.json"),
    "a vocabulary alone": ({"vocab.json": "{}"}, "has no tokenizer.json; of vocab.json this makes one: python -c"),
    "another class": (
        {"vocab.json": "{}", "merges.txt": "", "tokenizer_config.json": '{"tokenizer_class": "BertTokenizer"}'},
        "its tokenizer_class 'BertTokenizer' is none of GPT2Tokenizer, Qwen2Tokenizer; this makes one: python -c",
    ),
    "no class": ({"vocab.json": "{}", "merges.txt": ""}, "its tokenizer_class None is none of"),
    "a vocabulary that is a list": (
        {"vocab.json": "[]", "merges.txt": "", "tokenizer_config.json": '{"tokenizer_class": "GPT2Tokenizer"}'},
        "vocab.json does not hold a JSON object",
    ),
    "a token that is none": (
        {
            "vocab.json": "{}",
            "merges.txt": "",
            "tokenizer_config.json": '{"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": {"x": {}}}',
        },
        "added_tokens_decoder has an entry that is no token",
    ),
    "a merge of one": (
        {
            "vocab.json": '{"a": 0}',
            "merges.txt": "a\n",
            "tokenizer_config.json": '{"tokenizer_class": "GPT2Tokenizer"}',
        },
        "is no pair of tokens",
    ),
    "a number that is none": (
        {"vocab.json": '{"a": "0"}', "merges.txt": "", "tokenizer_config.json": '{"tokenizer_class": "GPT2Tokenizer"}'},
        "is no token of at most",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_tokenizer_is_made_of_is_one_line(tmp_path: Path, name: str) -> None:
    files, words = REFUSED[name]
    for file, content in files.items():
        (tmp_path / file).write_text(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_tokenizer(tokenizer_content(tmp_path), "vocab.json", CheckpointError)
    assert str(caught.value).isprintable()


def test_the_command_for_sentencepiece_makes_a_tokenizer_json(tmp_path: Path) -> None:
    import sentencepiece

    place = tmp_path / "a model's"
    place.mkdir()
    with (place / "tokenizer.model").open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LINES), model_writer=stream, vocab_size=320, model_type="bpe", byte_fallback=True,
            minloglevel=2,
        )  # fmt: skip
    (place / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    (place / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match=r"has no tokenizer.json; of tokenizer.model this makes one: ") as caught:
        tokenizer_content(place)
    command = str(caught.value).partition("makes one: ")[2].partition(" (with ")[0]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-c", command], env={**os.environ, "PATH": path}, check=True)
    found = read_tokenizer(tokenizer_content(place), "made")
    expected = AutoTokenizer.from_pretrained(place)
    for text in TEXTS:
        assert found.encode(text, add_special_tokens=False).ids == expected(text, add_special_tokens=False).input_ids
