"""Tokens that a checkpoint names beside ``tokenizer.json``: transformers adds them as it reads, a bundle cannot."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field
from tokenizers import Tokenizer

from pocketvlm.bundle.chat import ChatLayout
from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.export.read.jinja.source import read_names
from pocketvlm.export.read.tokenizer import literals_of
from pocketvlm.export.read.vocabulary import OLDER, SETTINGS, TOKENIZER
from pocketvlm.files import found, label
from pocketvlm.models.directory import read_file, read_json
from pocketvlm.models.values import READ

#: transformers 5 makes this class' pipeline anew, of the vocabulary and of what the settings say.
REMADE = ("Qwen2Tokenizer", "Qwen2TokenizerFast")
FLAGS = ("lstrip", "rstrip", "single_word", "normalized")
REMEDY = "save the tokenizer anew (transformers: tokenizer.save_pretrained)"


class AddedTokenSettings(BaseModel):
    """What is read of ``tokenizer_config.json``, of which the tokens it adds are looked at one by one."""

    model_config = READ
    tokenizer_class: str | None = None
    add_prefix_space: bool | None = None
    added_tokens_decoder: dict[str, dict[str, Any]] | None = Field(default=None, max_length=1 << 20)


def check_added_tokens(directory: Path, model_type: str, tokenizer: Tokenizer, chat: ChatLayout | None) -> None:
    """Whether ``tokenizer.json`` alone makes the token ids that transformers makes.

    :raises CheckpointError: naming the file and the token
    """
    settings = read_file(AddedTokenSettings, directory / SETTINGS)
    added = settings.added_tokens_decoder
    _check_literals(directory, _named(directory, added or {}), tokenizer, chat)
    if not found((directory / TOKENIZER).exists):  # then it was made of these settings
        return
    # (transformers takes it for these, whatever the settings say)
    remade = model_type == "qwen2" or settings.tokenizer_class in (
        *REMADE,
        *([None] if model_type.startswith("qwen") else []),
    )
    where = label(directory / SETTINGS)
    if remade and settings.add_prefix_space:
        raise CheckpointError(f"{where}: add_prefix_space is true, which tokenizer.json does not do")
    if added is None:
        return
    by_content = {token["content"]: (number, token) for number, token in added.items() if _has_content(token)}
    for number, token in tokenizer.get_added_tokens_decoder().items():
        said_number, said = by_content.get(token.content, (None, None))
        differs = said is not None and any(said.get(flag, False) != getattr(token, flag) for flag in FLAGS)
        if differs or (remade and said_number != str(number)):
            shown = one_line(repr(token.content), 60)
            raise CheckpointError(
                f"{where}: added_tokens_decoder says otherwise of {shown} than tokenizer.json: {REMEDY}"
            )


def _named(directory: Path, added: dict[str, dict[str, Any]]) -> Iterable[str]:
    """All texts that transformers knows as one token."""
    yield from read_names(directory).tokens.values()
    yield from (token["content"] for token in added.values() if _has_content(token))
    if found((directory / OLDER).is_file):
        yield from read_json(directory / OLDER)


def _has_content(token: dict[str, Any]) -> bool:
    return isinstance(token.get("content"), str)


def _check_literals(directory: Path, named: Iterable[str], tokenizer: Tokenizer, chat: ChatLayout | None) -> None:
    literals = literals_of(chat)
    for token in named:
        if token and tokenizer.token_to_id(token) is None and any(token in literal for literal in literals):
            raise CheckpointError(
                f"{label(directory)}: the chat template writes the token {one_line(repr(token), 60)}, which "
                f"tokenizer.json lacks: {REMEDY}"
            )
