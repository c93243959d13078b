"""Tokens that stand beside tokenizer.json, which transformers adds: refused where a prompt would have other ids."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pocketvlm.errors import CheckpointError
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.models.checkpoint import open_checkpoint
from tests.support.checkpoints import CHAT_TEMPLATE, SPECIAL_TOKENS

FLAGS = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
WHOLE = {str(256 + at): {"content": token, **FLAGS} for at, token in enumerate(SPECIAL_TOKENS)}
REMADE = {"tokenizer_class": "Qwen2Tokenizer"}


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def read(directory: Path, **settings: Any) -> None:
    raw = {"eos_token": "<|end|>", **settings}
    (directory / "tokenizer_config.json").write_text(json.dumps(raw))
    read_frontend(open_checkpoint(directory))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({**REMADE, "add_prefix_space": True}, "add_prefix_space is true, which tokenizer.json does not do"),
        ({**REMADE, "added_tokens_decoder": {"263": WHOLE["263"]}}, "added_tokens_decoder says otherwise of '<|end|>'"),
    ],
    ids=str,
)
def test_what_transformers_makes_anew_is_what_tokenizer_json_says(
    checkpoint: Path, settings: dict[str, Any], line: str
) -> None:
    """Qwen2's class takes the vocabulary alone from it; others take it whole."""
    with pytest.raises(CheckpointError, match=line):
        read(checkpoint, **settings)
    read(checkpoint, **{**settings, "tokenizer_class": "PreTrainedTokenizerFast"})
    read(checkpoint, **REMADE, added_tokens_decoder=WHOLE)


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag != "special"])
@pytest.mark.parametrize("kind", ["Qwen2Tokenizer", "PreTrainedTokenizerFast", "LlamaTokenizer", None])
def test_a_token_strips_and_splits_as_tokenizer_json_says(checkpoint: Path, kind: str | None, flag: str) -> None:
    """transformers adds it anew, with the flags that stand beside it, whatever the class."""
    said = {**WHOLE, "263": {**WHOLE["263"], flag: True}}
    with pytest.raises(CheckpointError, match="added_tokens_decoder says otherwise of '<row>'"):
        read(checkpoint, added_tokens_decoder=said, tokenizer_class=kind)
    read(checkpoint, added_tokens_decoder=WHOLE, tokenizer_class=kind)


def test_a_template_writes_no_token_that_tokenizer_json_lacks(checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").write_text("<|new|>" + CHAT_TEMPLATE)
    read(checkpoint)  # text as any other
    for settings in ({"bos_token": "<|new|>"}, {"added_tokens_decoder": {"264": {"content": "<|new|>", **FLAGS}}}):
        with pytest.raises(
            CheckpointError, match=r"the chat template writes the token '<.new.>', which tokenizer.json"
        ):
            read(checkpoint, **settings)
    (checkpoint / "added_tokens.json").write_text('{"<|new|>": 264}')
    with pytest.raises(CheckpointError, match="lacks: save the tokenizer anew"):
        read(checkpoint)
