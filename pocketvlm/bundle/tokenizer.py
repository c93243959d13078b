"""``tokenizer.json`` of a bundle or a checkpoint: checked before the tokenizers library sees it.

That library panics (a BaseException, with a trace on stderr), fills the memory or never ends on files that no trainer
writes. So the file is read here first, by a schema of what the library knows and bounds on all that it would trust, and
the library is given what was checked and nothing else. Where its own code can still panic (a character map whose
numbers lead nowhere, a text that a pattern gives up on), ``library_errors`` makes that one line as well.

Source of the schema: the library's deserializers, version 0.23.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    create_model,
    model_validator,
)
from pydantic_core import to_json

from pocketvlm.bundle.patterns import check_pattern
from pocketvlm.errors import PocketVlmError, one_line
from pocketvlm.strict import checked

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Gemma's has 33 MB and 1.3 million values, which are counted by their commas before any is looked at.
MAX_TOKENIZER_BYTES, MAX_VALUES = 128 << 20, 1 << 22
#: Tokens and merges (Gemma: 262,144 and 514,906), characters of one token (a pattern of Unigram's tries all lengths).
MAX_ENTRIES, MAX_TOKEN, MAX_UNIGRAM_TOKEN = 1 << 20, 1024, 128
#: Steps of a normalizer, pre-tokenizer or decoder, and how many times longer all of them may make a text.
MAX_STEPS, MAX_GROWTH = 32, 4096
#: Longest text that a character map puts in a character's place (SentencePiece's: 18 characters, 33 bytes).
MAX_MAPPED_BYTES = 64

Text = Annotated[str, StringConstraints(max_length=MAX_TOKEN)]
SomeText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TOKEN)]
Letter = Annotated[str, StringConstraints(min_length=1, max_length=1)]
#: So that the next number is one as well.
Id = Annotated[int, Field(ge=0, lt=1 << 31)]
Length = Annotated[int, Field(ge=1, le=1 << 16)]


class _Read(BaseModel):
    """What is read of an object; the library ignores other keys, and does not get them."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


def _object(name: str, **kinds: Any) -> type[_Read]:
    """An object of these fields: ``(kind, default)`` as it stands, a kind alone must be there unless it may be None."""
    named = {
        key: kind if isinstance(kind, tuple) else (kind, None if type(None) in get_args(kind) else ...)
        for key, kind in kinds.items()
    }
    fields: dict[str, Any] = {"type": (Literal[name], ...), **named}
    made: type[_Read] = create_model(name, __base__=_Read, **fields)
    return made


def _kinds(table: dict[str, dict[str, Any]], several: str | None = None) -> Any:
    """Any of the objects of a table, told apart by ``type``, or a Sequence of them, listed under ``several``."""
    models = [_object(name, **kinds) for name, kinds in table.items()]
    one: Any = Annotated[_union(models), Field(discriminator="type")]
    if several is None:
        return one
    steps = Annotated[tuple[one, ...], Field(max_length=MAX_STEPS)]
    return Annotated[_union([*models, _object("Sequence", **{several: steps})]), Field(discriminator="type")]


def _union(models: list[type[_Read]]) -> Any:
    union: Any = models[0]
    for model in models[1:]:
        union = union | model
    return union


def _character_map(text: str) -> str:
    """The base64 of a trie's size in bytes, the trie and the texts that its leaves name, each ended by a zero."""
    try:
        content = base64.b64decode(text, validate=True)
        (size,) = struct.unpack_from("<I", content)
        content[4 + size :].decode()
    except (binascii.Error, struct.error, UnicodeDecodeError) as error:
        raise ValueError("is no character map") from error
    if not 0 < size <= len(content) - 4 or size % 4:
        raise ValueError("is a character map of another size")
    if max(map(len, content[4 + size :].split(b"\0"))) > MAX_MAPPED_BYTES:
        raise ValueError(f"puts more than {MAX_MAPPED_BYTES} bytes in a character's place")
    return text


class _OneOf(_Read):
    """An object of one key, whose name says what kind its value is."""

    @model_validator(mode="after")
    def _has_one(self) -> _OneOf:
        if len(self.model_fields_set) != 1 or not any(value for _, value in self):
            raise ValueError(f"must have one of {', '.join(type(self).model_fields)}")
        return self


class Pattern(_OneOf):
    """What is looked for: a text, or what an expression matches."""

    String: SomeText | None = None
    Regex: Annotated[SomeText, AfterValidator(check_pattern)] | None = None


Behavior = Literal["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
BYTE_LEVEL = {"add_prefix_space": bool, "trim_offsets": bool, "use_regex": (bool, True)}
METASPACE = {
    "replacement": Letter, "add_prefix_space": bool | None, "split": bool | None,
    "prepend_scheme": (Literal["first", "never", "always"], "always"),
}  # fmt: skip
REPLACE = {"pattern": Pattern, "content": Text}

Normalizer = _kinds({
    "BertNormalizer": {
        "clean_text": bool, "handle_chinese_chars": bool, "strip_accents": bool | None, "lowercase": bool
    },
    "Strip": {"strip_left": bool, "strip_right": bool},
    **{name: {} for name in ("StripAccents", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Nmt", "ByteLevel")},
    "Precompiled": {"precompiled_charsmap": Annotated[str, AfterValidator(_character_map)]},
    "Replace": REPLACE,
    "Prepend": {"prepend": SomeText},
}, "normalizers")  # fmt: skip
PreTokenizer = _kinds({
    "ByteLevel": BYTE_LEVEL,
    "Metaspace": METASPACE,
    "CharDelimiterSplit": {"delimiter": Letter},
    **{name: {} for name in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "UnicodeScripts")},
    "Split": {"pattern": Pattern, "behavior": Behavior, "invert": bool},
    "Punctuation": {"behavior": (Behavior, "Isolated")},
    "Digits": {"individual_digits": bool},
    "FixedLength": {"length": (Length, 5)},
}, "pretokenizers")  # fmt: skip
Decoder = _kinds({
    "BPEDecoder": {"suffix": SomeText},
    "ByteLevel": BYTE_LEVEL,
    "Metaspace": METASPACE,
    "WordPiece": {"prefix": Text, "cleanup": bool},
    "CTC": {"pad_token": SomeText, "word_delimiter_token": SomeText, "cleanup": bool},
    "Replace": REPLACE,
    # A token that is shorter than what is cut from its end makes the library panic.
    "Strip": {"content": Letter, "start": Annotated[int, Field(ge=0, le=MAX_TOKEN)], "stop": Literal[0]},
    "Fuse": {},
    "ByteFallback": {},
}, "decoders")  # fmt: skip


class _Named(_Read):
    id: Text
    type_id: Id


class _Numbered(_Read):
    id: Literal["A", "B"]
    type_id: Id


class TemplatePiece(_OneOf):
    """One token, or one of the texts."""

    SpecialToken: _Named | None = None
    Sequence: _Numbered | None = None


class _TemplateToken(_Read):
    id: Text
    ids: Annotated[tuple[Id, ...], Field(max_length=MAX_STEPS)]
    tokens: Annotated[tuple[Text, ...], Field(max_length=MAX_STEPS)]


Pieces = Annotated[tuple[TemplatePiece, ...], Field(max_length=MAX_STEPS)]
Marker = tuple[Text, Id]
PostProcessor = _kinds({
    "ByteLevel": BYTE_LEVEL,
    "BertProcessing": {"sep": Marker, "cls": Marker},
    "RobertaProcessing": {"sep": Marker, "cls": Marker, "trim_offsets": bool, "add_prefix_space": bool},
    "TemplateProcessing": {"single": Pieces, "pair": Pieces, "special_tokens": dict[Text, _TemplateToken]},
}, "processors")  # fmt: skip


def _entries(read: Callable[[Any], Any]) -> Any:
    """A large list or object, whose first wrong entry is enough of an error."""

    def validate(value: Any) -> Any:
        if not isinstance(value, list | dict) or len(value) > MAX_ENTRIES:
            raise ValueError(f"must be a list or an object of at most {MAX_ENTRIES} entries")
        return read(value)

    return Annotated[Any, PlainValidator(validate)]


def _ids(vocabulary: Any) -> dict[str, int]:
    if not isinstance(vocabulary, dict):
        raise ValueError("must be an object")
    for token, number in vocabulary.items():
        if type(number) is not int or not 0 <= number < 1 << 31 or len(token) > MAX_TOKEN:
            raise ValueError(f"{one_line(token, 40)!r} is no token of at most {MAX_TOKEN} characters with a number")
    return vocabulary


def _scores(vocabulary: Any) -> list[Any]:
    if not isinstance(vocabulary, list) or not vocabulary:
        raise ValueError("must be a list")
    for entry in vocabulary:
        token, score = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
        if (
            not isinstance(score, int | float)
            or isinstance(score, bool)
            or not math.isfinite(score)
            or not isinstance(token, str)
            or len(token) > MAX_UNIGRAM_TOKEN
        ):
            raise ValueError(
                f"{one_line(entry, 60)} is no token of at most {MAX_UNIGRAM_TOKEN} characters with a score"
            )
    return vocabulary


def _pairs(merges: Any) -> list[list[str]]:
    """Merges as pairs; older files write them with a space between, and a first line that begins with #version."""
    if not isinstance(merges, list):
        raise ValueError("must be a list")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    if isinstance(next(iter(merges), None), str) and merges[0].startswith("#version"):
        del pairs[0]
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or type(pair[0]) is not str or type(pair[1]) is not str:
            raise ValueError(f"{one_line(pair, 60)} is no pair of tokens")
    return pairs


Vocabulary = _entries(_ids)
MODELS: dict[str, dict[str, Any]] = {
    "BPE": {
        "dropout": Annotated[float, Field(ge=0, le=1)] | None,
        **dict.fromkeys(("unk_token", "continuing_subword_prefix", "end_of_word_suffix"), Text | None),
        **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), bool | None),
        "vocab": Vocabulary,
        "merges": _entries(_pairs),
    },
    "WordPiece": {
        "unk_token": Text,
        "continuing_subword_prefix": Text,
        # The time of a word grows with the third power of its length.
        "max_input_chars_per_word": Annotated[int, Field(ge=0, le=200)],
        "vocab": Vocabulary,
    },
    "WordLevel": {"unk_token": Text, "vocab": Vocabulary},
    "Unigram": {
        "unk_id": Annotated[int, Field(ge=0, lt=1 << 31)] | None,
        "byte_fallback": (bool, False),
        "vocab": _entries(_scores),
    },
}

Model = _kinds(MODELS)


def _with_kind(model: Any) -> Any:
    """Files of 2020 do not say what kind of model theirs is; the library tries one after the other."""
    if not isinstance(model, dict) or "type" in model:
        return model
    of_lists = isinstance(model.get("vocab"), list)
    kind = "Unigram" if of_lists else "BPE" if "merges" in model else "WordLevel"
    return {**model, "type": "WordPiece" if "max_input_chars_per_word" in model else kind}


class _AddedToken(_Read):
    id: Id
    content: Text
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


#: Truncation and padding are left out: each text is wanted whole.
_PARTS: dict[str, Any] = {
    "version": (Literal["1.0"], "1.0"),
    "added_tokens": (Annotated[tuple[_AddedToken, ...], Field(max_length=1 << 16)], ()),
    "normalizer": (Normalizer | None, None),
    "pre_tokenizer": (PreTokenizer | None, None),
    "post_processor": (PostProcessor | None, None),
    "decoder": (Decoder | None, None),
    "model": (Annotated[Model, BeforeValidator(_with_kind)], ...),
}
_File: type[_Read] = create_model("_File", __base__=_Read, **_PARTS)


def read_tokenizer(content: bytes, name: str, kind: type[PocketVlmError] = PocketVlmError) -> Tokenizer:
    """The tokenizer of a ``tokenizer.json``; ``name`` is for errors.

    :raises PocketVlmError: of ``kind``: the file is none, or one that the library could not be trusted with
    """
    from tokenizers import Tokenizer

    if len(content) > MAX_TOKENIZER_BYTES or content.count(b",") > MAX_VALUES:
        raise kind(f"{name} has more than {MAX_TOKENIZER_BYTES} bytes or {MAX_VALUES} values; it is not a tokenizer")
    read: Any = checked(_File, content, name, kind)
    try:
        _check(read)
    except ValueError as error:
        raise kind(f"{name}: {error}") from error
    whole = read.model_dump(exclude_unset=True, exclude={"model": {"vocab", "merges"}})
    whole["model"] |= {key: getattr(read.model, key) for key in ("vocab", "merges") if hasattr(read.model, key)}
    text = to_json(whole).decode()
    with library_errors(f"{name} cannot be read", kind):
        tokenizer = Tokenizer.from_str(text)
        normal = [_normal(tokenizer, token.content) for token in read.added_tokens if token.normalized]
    if "" in normal or len(set(normal)) != len(normal):  # which one is found would be chance
        raise kind(f"{name}: its normalizer makes two of added_tokens the same, or one nothing")
    return tokenizer


def _normal(tokenizer: Tokenizer, text: str) -> str:
    normal: str = text if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(text)
    return normal


@contextmanager
def library_errors(what: str, kind: type[PocketVlmError]) -> Iterator[None]:
    """What the library raises inside the block, plain exceptions and panics, as one line that begins with ``what``."""
    try:
        yield
    except (PocketVlmError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # Ctrl-C, or the end of a generator
        raise kind(f"{what}: {one_line(error, 160)}") from error


def _check(read: Any) -> None:
    """What the schema cannot say."""
    for name, part in (
        ("normalizer", read.normalizer),
        ("pre_tokenizer", read.pre_tokenizer),
        ("decoder", read.decoder),
    ):
        growth = math.prod(map(_growth, _steps(part)))
        if growth > MAX_GROWTH:
            raise ValueError(f"{name} could make a text {growth} times longer, at most {MAX_GROWTH} times is taken")
    _check_post_processor(_steps(read.post_processor))
    model = read.model
    if model.type == "Unigram" and model.unk_id is not None and model.unk_id >= len(model.vocab):
        raise ValueError(f"model.unk_id {model.unk_id} is not in the vocabulary of {len(model.vocab)}")
    if model.type == "BPE":
        prefix, vocabulary = model.continuing_subword_prefix or "", model.vocab
        for first, second in model.merges:
            merged = first + second[len(prefix) :] if prefix else first + second
            if merged not in vocabulary or not second.startswith(prefix):
                raise ValueError(f"the merge {one_line((first, second), 80)} gives no token of the vocabulary")


def _steps(part: Any) -> tuple[Any, ...]:
    if part is None:
        return ()
    return next((value for name, value in part if name != "type"), ()) if part.type == "Sequence" else (part,)


#: How many times longer a step can make a text, at most; others keep its length.
GROWTH = {
    **dict.fromkeys(("NFKC", "NFKD"), 18),
    **dict.fromkeys(("NFC", "NFD", "Lowercase"), 3),
    **dict.fromkeys(("ByteLevel", "Metaspace", "BertNormalizer", "BPEDecoder", "CTC", "WordPiece"), 2),
    "Precompiled": MAX_MAPPED_BYTES,
}


def _growth(step: Any) -> int:
    if step.type == "Prepend":
        return 1 + len(step.prepend)
    if step.type != "Replace":
        return GROWTH.get(step.type, 1)
    if step.pattern.String is not None:
        return max(1, math.ceil(len(step.content) / len(step.pattern.String)))
    return 1 + len(step.content)  # an expression may match nothing, before each letter


def _check_post_processor(steps: tuple[Any, ...]) -> None:
    adding = [step for step in steps if step.type != "ByteLevel"]
    if len(adding) > 1:
        raise ValueError("post_processor adds special tokens twice")
    for step in adding:
        if step.type != "TemplateProcessing":
            continue
        if [piece.Sequence.id for piece in step.single if piece.Sequence] != ["A"]:
            raise ValueError("post_processor.single must have the sequence A, once, and no other")
        named = {piece.SpecialToken.id for piece in (*step.single, *step.pair) if piece.SpecialToken}
        if missing := named - step.special_tokens.keys():
            raise ValueError(f"post_processor.special_tokens lacks {one_line(min(missing), 40)!r}")
        if any(len(token.ids) != len(token.tokens) for token in step.special_tokens.values()):
            raise ValueError("post_processor.special_tokens has other numbers than tokens")
