"""A ``tokenizer.json`` of InternLM2's ``tokenizer.model``: SentencePiece's BPE with bytes for what has no piece.

The file is protobuf's (SentencePiece's ``sentencepiece_model.proto``), of which three messages are read here. Merges
and steps are those of tokenization_internlm2_fast.py, which such checkpoints come with and nothing here runs: added
tokens stand in place of the pieces with their ids, and each text between them is encoded as one of its own.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pocketvlm.errors import CheckpointError, one_line

#: Of a piece (SentencePiece.Type), and of a model (TrainerSpec.ModelType).
NORMAL, UNKNOWN, USER_DEFINED, BPE = 1, 2, 4, 2
#: SentencePieces that hold ids free for later, which no text has.
NO_TEXT = re.compile(r"\[UNUSED_TOKEN_\d+\]")
#: InternLM2's has 1.5 MB; all cuts of all pieces are tried.
MAX_MODEL_BYTES, LONGEST_PIECE = 16 << 20, 256
SPACE = "▁"
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
Value = int | memoryview


@dataclass(frozen=True)
class SentencePieces:
    """Text, score and type of each piece by its id; ``prefixed``: a text gets a space in front."""

    pieces: list[tuple[str, float, int]]
    prefixed: bool


def read_pieces(content: bytes, name: str) -> SentencePieces:
    """What is in a ``tokenizer.model``.

    :raises CheckpointError: it is damaged, or another kind than the steps here are for
    """
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, Value] = {}
    normalizer: dict[int, Value] = {}
    try:
        for number, value in _fields(memoryview(content)):
            if number == 1:
                pieces.append(_piece(_message(value)))
            elif number == 2:
                trainer = dict(_fields(_message(value)))
            elif number == 3:
                normalizer = dict(_fields(_message(value)))
    except (ValueError, IndexError, struct.error) as error:
        raise CheckpointError(f"{name} is damaged: {one_line(error, 120)}") from error
    wanted = {
        "trainer_spec.model_type is not BPE": trainer.get(3, 1) == BPE,
        "trainer_spec.byte_fallback is false": trainer.get(35, 0) == 1,
        "normalizer_spec.precompiled_charsmap is not empty": not normalizer.get(2, b""),
        "normalizer_spec.remove_extra_whitespaces is true": normalizer.get(4, 1) == 0,
        "normalizer_spec.escape_whitespaces is false": normalizer.get(5, 1) == 1,
        "it has no piece, or one twice": 0 < len({text for text, _, _ in pieces}) == len(pieces),
        "its first piece is not the unknown one": bool(pieces) and pieces[0][2] == UNKNOWN,
        "it has symbols of a user's": all(kind != USER_DEFINED or NO_TEXT.fullmatch(text) for text, _, kind in pieces),
    }
    if not all(wanted.values()):
        lack = next(words for words, holds in wanted.items() if not holds)
        raise CheckpointError(f"{name}: {lack}, of which no tokenizer.json is made here")
    return SentencePieces(pieces, normalizer.get(3, 1) == 1)


def tokenizer_of(
    read: SentencePieces, added: Mapping[int, Mapping[str, Any]], begin: str | None, name: str
) -> dict[str, Any]:
    """The file; ``added``: tokens by their id, ``begin``: the token that texts begin with.

    :raises CheckpointError: the ids of added tokens leave some out
    """
    texts = [text for text, _, _ in read.pieces]
    for number in sorted(added):
        if number > len(texts):
            raise CheckpointError(f"{name}: added_tokens_decoder has {number}, and nothing has {len(texts)}")
        texts[number : number + 1] = [str(added[number]["content"])]
    vocabulary = {text: number for number, text in enumerate(texts)}
    if len(vocabulary) < len(texts) or (begin is not None and begin not in vocabulary):
        raise CheckpointError(f"{name}: added_tokens_decoder has a token that is there already, or lacks bos_token")
    steps = [{"type": "Prepend", "prepend": SPACE}] if read.prefixed else []
    back = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if read.prefixed else []
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": number,
                "content": texts[number],
                **{flag: bool(added[number].get(flag)) for flag in FLAGS},
                "special": bool(added[number].get("special")),
            }
            for number in sorted(added)
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [*steps, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}],
        },
        "pre_tokenizer": None,
        "post_processor": None if begin is None else _template(begin, vocabulary[begin]),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *back,
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": texts[0],
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocabulary,
            "merges": _merges(read, added),
        },
    }


def _template(begin: str, number: int) -> dict[str, Any]:
    first, text = {"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {begin: {"id": begin, "ids": [number], "tokens": [begin]}},
    }


def _merges(read: SentencePieces, added: Mapping[int, object]) -> list[list[str]]:
    """Every way to make a piece of two, the likeliest pieces first."""
    normal = {
        text: (number, score)
        for number, (text, score, kind) in enumerate(read.pieces)
        if kind == NORMAL and number not in added
    }
    found = []
    for text, (_, score) in normal.items():
        cuts = ((text[:at], text[at:]) for at in range(1, len(text)))
        made = [cut for cut in cuts if cut[0] in normal and cut[1] in normal]
        made.sort(key=lambda cut: (normal[cut[0]][0], normal[cut[1]][0]))
        found += [(-score, -len(left), -len(right), left, right) for left, right in made]
    found.sort(key=lambda merge: merge[:3])
    return [[left, right] for *_, left, right in found]


# --- Protobuf ---------------------------------------------------------------------------------------------------------


def _piece(data: memoryview) -> tuple[str, float, int]:
    fields = dict(_fields(data))
    text, score, kind = fields.get(1, memoryview(b"")), fields.get(2, memoryview(bytes(4))), fields.get(3, NORMAL)
    if not isinstance(kind, int) or not 0 < len(_message(text)) <= LONGEST_PIECE:
        raise ValueError("a piece is empty, too long or of no type")
    (number,) = struct.unpack("<f", _message(score))
    if math.isnan(number):
        raise ValueError("a score is not a number")
    return str(_message(text), "utf-8"), number, kind


def _message(value: Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where something longer belongs")
    return value


def _fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """Each field's number with its value: what a varint says, or the bytes of anything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            number, at = _varint(data, at)
            yield key >> 3, number
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if size > len(data) - at:
            raise ValueError("it is cut short")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    number = 0
    for index in range(10):
        byte = data[at + index]
        number |= (byte & 127) << (7 * index)
        if byte < 128:
            return number, at + index + 1
    raise ValueError("a number of more than ten bytes")
