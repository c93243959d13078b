"""A ``tokenizer.json`` where a checkpoint has none: of ``vocab.json`` and ``merges.txt``, as transformers' classes do.

GPT-2's and Qwen2's classes (transformers 5, ``tokenization_gpt2.py`` and ``tokenization_qwen2.py``) put byte-level BPE
together in code; tokens that stand beside the vocabulary follow in the order of their ids, then those that only have a
name (``TokenizersBackend.__init__``, ``PreTrainedTokenizerBase._from_pretrained``).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from pocketvlm.bundle.tokenizer import MAX_TOKENIZER_BYTES
from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.export.read.jinja.source import STANDARD, read_names
from pocketvlm.export.read.sentencepiece import MAX_MODEL_BYTES, read_pieces, tokenizer_of
from pocketvlm.files import found, label, read_bounded, read_text
from pocketvlm.models.directory import read_file, read_json
from pocketvlm.models.values import READ
from pocketvlm.strict import parse_json

TOKENIZER, VOCABULARY, MERGES, SENTENCEPIECE = "tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model"
SETTINGS, OLDER = "tokenizer_config.json", "added_tokens.json"
CONVERT = (
    "import sys; from transformers import AutoTokenizer; "
    "AutoTokenizer.from_pretrained(sys.argv[1]).backend_tokenizer.save(sys.argv[1] + '/tokenizer.json')"
)
#: Qwen2's pattern: contractions, letters with a sign before them, single digits, signs, line breaks, white space.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END = "<|endoftext|>"
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


class _OfVocabulary(BaseModel):
    """What is read of ``tokenizer_config.json``."""

    model_config = READ
    tokenizer_class: str | None = None
    add_prefix_space: bool | None = None
    add_bos_token: bool | None = None
    added_tokens_decoder: Annotated[dict[str, dict[str, Any]], Field(max_length=1 << 16)] | None = None
    additional_special_tokens: Annotated[list[str | dict[str, Any]], Field(max_length=1 << 16)] | None = None
    extra_special_tokens: Any = None


@dataclass(frozen=True)
class _Kind:
    """``named``: special tokens that the class has where nothing is said; ``again``: it adds all of them once more,
    with flags of its own."""

    named: Mapping[str, str]
    normalizer: Mapping[str, Any] | None = None
    pattern: str | None = None
    again: bool = False


@dataclass
class _Added:
    """Added tokens by content, as the library numbers them."""

    vocabulary: Mapping[str, int]
    added: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, content: str, **flags: bool) -> None:
        if not content:
            return
        last = max((token["id"] for token in self.added.values()), default=-1)
        number = self.vocabulary.get(content, max(last + 1, len(self.vocabulary)))
        number = self.added[content]["id"] if content in self.added else number
        plain = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        special = flags.get("special", False)
        self.added[content] = {"id": number, "content": content, **plain, "normalized": not special, **flags}


GPT2 = _Kind({"bos_token": END, "eos_token": END, "unk_token": END})
QWEN2 = _Kind({"eos_token": END, "unk_token": END, "pad_token": END}, {"type": "NFC"}, QWEN2_PATTERN, again=True)
#: Whose class comes with its checkpoints.
INTERNLM2 = "InternLM2Tokenizer"
KINDS = {"GPT2Tokenizer": GPT2, "Qwen2Tokenizer": QWEN2}


def tokenizer_content(directory: Path) -> bytes:
    """``tokenizer.json``, or what it would be.

    :raises CheckpointError: there is none, and nothing that one is made of
    """
    if found((directory / TOKENIZER).exists):
        return read_bounded(directory / TOKENIZER, MAX_TOKENIZER_BYTES, CheckpointError)
    if not (found((directory / VOCABULARY).exists) and found((directory / MERGES).exists)):
        name = next((name for name in (SENTENCEPIECE, VOCABULARY) if found((directory / name).exists)), None)
        if name is None:
            raise CheckpointError(f"{label(directory)} has no {TOKENIZER} (nor {VOCABULARY} with {MERGES})")
        settings = read_file(_OfVocabulary, directory / SETTINGS)
        if name == SENTENCEPIECE and settings.tokenizer_class == INTERNLM2:
            return json.dumps(_of_internlm2(directory, settings)).encode()
        raise CheckpointError(f"{label(directory)} has no {TOKENIZER}; of {name} this makes one: {_command(directory)}")
    settings = read_file(_OfVocabulary, directory / SETTINGS)
    named = (settings.tokenizer_class or "").removesuffix("Fast")
    if named not in KINDS:
        kind = one_line(repr(settings.tokenizer_class), 60)
        raise CheckpointError(
            f"{label(directory)} has no {TOKENIZER}, and its tokenizer_class {kind} is none of {', '.join(KINDS)}; "
            f"this makes one: {_command(directory)}"
        )
    return json.dumps(_built(directory, KINDS[named], settings)).encode()


def _of_internlm2(directory: Path, settings: _OfVocabulary) -> dict[str, Any]:
    content = read_bounded(directory / SENTENCEPIECE, MAX_MODEL_BYTES, CheckpointError)
    _beside(directory, settings, set())  # looks at each
    names = read_names(directory)
    begin = None if settings.add_bos_token is False else names.get("bos_token") or "<s>"
    read = read_pieces(content, label(directory / SENTENCEPIECE))
    special = {*names.tokens.values(), begin}
    # (those that a text may not spell, also where the settings do not list them)
    named = {number: piece[0] for number, piece in enumerate(read.pieces) if piece[0] in special}
    added: dict[int, dict[str, Any]] = {number: {"content": text, "special": True} for number, text in named.items()}
    added |= {int(number): token for number, token in (settings.added_tokens_decoder or {}).items()}
    return tokenizer_of(read, added, begin, label(directory / SETTINGS))


def _command(directory: Path) -> str:
    place = shlex.quote(str(directory)) if str(directory).isprintable() else "DIR"
    return f'python -c "{CONVERT}" {place} (with transformers, sentencepiece and protobuf installed)'


def _built(directory: Path, kind: _Kind, settings: _OfVocabulary) -> dict[str, Any]:
    """The file as the library writes it; it is read by the same schema as any other."""
    content = read_bounded(directory / VOCABULARY, MAX_TOKENIZER_BYTES, CheckpointError)
    vocabulary = parse_json(content, label(directory / VOCABULARY), CheckpointError)
    if not isinstance(vocabulary, dict):
        raise CheckpointError(f"{label(directory / VOCABULARY)} does not hold a JSON object")
    lines = read_text(directory / MERGES, MAX_TOKENIZER_BYTES, CheckpointError).split("\n")
    merges = [line.rstrip("\r").split(" ") for line in lines if line and not line.startswith("#version")]
    prefix = bool(settings.add_prefix_space)
    byte_level = {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": not kind.pattern}
    split = {"type": "Split", "pattern": {"Regex": kind.pattern}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "added_tokens": list(_added(directory, kind, settings, vocabulary).values()),
        "normalizer": kind.normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]} if kind.pattern else byte_level,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "fuse_unk": False,
            "byte_fallback": False,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _added(
    directory: Path, kind: _Kind, settings: _OfVocabulary, vocabulary: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    names = read_names(directory)
    defaults = {name: token for name, token in kind.named.items() if name not in names.absent}
    special = {**defaults, **names.tokens}
    ordered = [special[name] for name in (*STANDARD, *special) if name in special]
    extra = settings.extra_special_tokens or settings.additional_special_tokens or []
    ordered += [_content(token) for token in extra if not isinstance(extra, dict)]
    tokens = _Added(vocabulary)
    for token in _beside(directory, settings, set(ordered)):
        is_special, flags = bool(token.get("special")), {key: bool(token[key]) for key in FLAGS if key in token}
        named = is_special or token["content"] in ordered
        tokens.add(token["content"], **{"special": named, "normalized": not is_special, **flags})
    for content in ordered:
        if kind.again or content not in tokens.added:
            tokens.add(content, special=True)
    return tokens.added


def _beside(directory: Path, settings: _OfVocabulary, special: set[str]) -> list[dict[str, Any]]:
    """Tokens that stand with their ids in the settings, or in the older file, by their ids."""
    said = settings.added_tokens_decoder
    if said is not None:
        if not all(number.isdecimal() and isinstance(token.get("content"), str) for number, token in said.items()):
            raise CheckpointError(f"{label(directory / SETTINGS)}: added_tokens_decoder has an entry that is no token")
        return [said[number] for number in sorted(said, key=int)]
    older = read_json(directory / OLDER) if found((directory / OLDER).exists) else {}
    if not all(type(number) is int for number in older.values()):
        raise CheckpointError(f"{label(directory / OLDER)} has a token without a number")
    return [{"content": token, "special": token in special} for token in sorted(older, key=older.__getitem__)]


def _content(token: str | dict[str, Any]) -> str:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""
