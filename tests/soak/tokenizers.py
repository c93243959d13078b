"""Part 5, mutated tokenizers: read as the library reads them, or refused by one line; no panic, no hang, no bomb."""

from __future__ import annotations

import base64
import json
import random
import struct
from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer

from pocketvlm.bundle.tokenizer import library_errors, read_tokenizer
from pocketvlm.errors import PocketVlmError
from pocketvlm.runtime.text import PeopleText, TextTokenizer
from tests.soak.cases import Case, Cases, Found, Limits, Setup, refusal
from tests.soak.edits import edited
from tests.soak.hostile import VALUES, changed, hostile_json
from tests.support.tokenizers_zoo import LINES, SPECIALS, ZOO

#: Reading one of some hundred tokens takes a hundredth of a second.
LIMITS = Limits(seconds=5.0, peak_bytes=1 << 29)
TEXTS = (
    "hello world, how are you? 7K9X", " ", "a", "é\u0301\U0001f469\u200d\U0001f680\ufeff", "<|user|>hi<|end|>",
    "\n\n\t  x", "a" * 300 + "b", "東京 123,456.78 ﷺ", "\0\x1b[2J",
)  # fmt: skip
JsonObject = dict[str, Any]
BYTE_LEVEL: JsonObject = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
METASPACE: JsonObject = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
LLAMA3 = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def character_map(*texts: str) -> str:
    """A Precompiled normalizer's map of one trie node that leads nowhere, and the texts of its leaves."""
    trie = struct.pack("<256I", *[0] * 256)
    blob = b"".join(text.encode() + b"\0" for text in texts)
    return base64.b64encode(struct.pack("<I", len(trie)) + trie + blob).decode()


def _sequence(name: str, *steps: JsonObject) -> JsonObject:
    return {"type": "Sequence", name: list(steps)}


NORMALIZERS: tuple[JsonObject | None, ...] = (
    None,
    _sequence("normalizers", {"type": "NFKD"}, {"type": "Lowercase"}, {"type": "StripAccents"}),
    {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
     "lowercase": True},
    _sequence(
        "normalizers", {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"},
    ),
    {"type": "Precompiled", "precompiled_charsmap": character_map("a", "b c")},
    _sequence(
        "normalizers", {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Nmt"}, {"type": "NFC"}
    ),
    {"type": "ByteLevel"},
)  # fmt: skip
PRE_TOKENIZERS: tuple[JsonObject | None, ...] = (
    BYTE_LEVEL,
    METASPACE,
    _sequence(
        "pretokenizers",
        {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False},
        {**BYTE_LEVEL, "use_regex": False},
    ),
    {"type": "BertPreTokenizer"},
    _sequence("pretokenizers", {"type": "Whitespace"}, {"type": "Digits", "individual_digits": True}),
    _sequence("pretokenizers", {"type": "Punctuation", "behavior": "Isolated"}, {"type": "UnicodeScripts"}),
    {"type": "FixedLength", "length": 5},
    {"type": "CharDelimiterSplit", "delimiter": " "},
    {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": True},
    None,
)
DECODERS: tuple[JsonObject | None, ...] = (
    BYTE_LEVEL,
    METASPACE,
    _sequence(
        "decoders", {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ),
    {"type": "WordPiece", "prefix": "##", "cleanup": True},
    {"type": "BPEDecoder", "suffix": "</w>"},
    {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True},
    None,
)  # fmt: skip
TEMPLATE: JsonObject = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
}
POST_PROCESSORS: tuple[JsonObject | None, ...] = (
    _sequence("processors", BYTE_LEVEL, TEMPLATE),
    TEMPLATE,
    {"type": "BertProcessing", "sep": ["<s>", 0], "cls": ["<|end|>", 3]},
    {"type": "RobertaProcessing", "sep": ["<s>", 0], "cls": ["<|end|>", 3], "trim_offsets": True,
     "add_prefix_space": False},
    BYTE_LEVEL,
    None,
)  # fmt: skip
LETTERS = ["<unk>", *"abcdefghijklmnopqrstuvwxyzĠ\u2581#019é", "he", "ll", "hell", "hello", "##o", "##e", "<0x0A>"]
IDS = {token: number + len(SPECIALS) for number, token in enumerate(LETTERS)}
MODELS: tuple[JsonObject, ...] = (
    {
        "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": IDS,
        "merges": [["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"]],
    },
    {"unk_token": None, "vocab": IDS, "merges": ["#version: 0.2", "h e", "l l", "he ll", "hell o"]},
    {
        "type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": IDS,
    },
    {"type": "WordLevel", "unk_token": "<unk>", "vocab": IDS},
    {
        "type": "Unigram", "unk_id": 0, "byte_fallback": True,
        "vocab": [[token, -float(number)] for number, token in enumerate(LETTERS)],
    },
)  # fmt: skip


def made(random_: random.Random) -> JsonObject:
    """A small tokenizer of parts that need not go together."""
    added = [
        {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": random_.random() < 0.3,
         "normalized": random_.random() < 0.3, "special": True}
        for number, content in enumerate(SPECIALS)
    ]  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": random_.choice(NORMALIZERS), "pre_tokenizer": random_.choice(PRE_TOKENIZERS),
        "post_processor": random_.choice(POST_PROCESSORS), "decoder": random_.choice(DECODERS),
        "model": random_.choice(MODELS),
    }  # fmt: skip


# --- What is done to one ----------------------------------------------------------------------------------------------

Mutation = Callable[[JsonObject, random.Random], tuple[bytes, str]]


def _nothing(raw: JsonObject, random_: random.Random) -> tuple[bytes, str]:
    return json.dumps(raw).encode(), "nothing"


def _values(raw: JsonObject, random_: random.Random) -> tuple[bytes, str]:
    return hostile_json(raw, random_)


def _part(raw: JsonObject, random_: random.Random) -> tuple[bytes, str]:
    """One value of a part, not of the vocabulary."""
    parts = [name for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens") if raw[name]]
    name = random_.choice(parts or ["model"])
    raw[name], how = changed(raw[name], random_)
    return json.dumps(raw).encode(), f"{name}: {how}"


def _model(raw: JsonObject, random_: random.Random) -> tuple[bytes, str]:
    """One value of the model, its vocabulary among them, once."""
    key = random_.choice(list(raw["model"]))
    if key in ("vocab", "merges") and random_.random() < 0.8:
        raw["model"][key], how = changed(raw["model"][key], random_)
    else:
        raw["model"][key] = random_.choice((*VALUES, 1 << 32, -(1 << 63), 1e39))
        how = f"becomes {repr(raw['model'][key])[:30]}"
    return json.dumps(raw).encode(), f"model.{key}: {how}"


def _bytes(raw: JsonObject, random_: random.Random) -> tuple[bytes, str]:
    return edited(json.dumps(raw).encode(), random_)


def _worst(raw: JsonObject, random_: random.Random) -> tuple[bytes, str]:
    name = random_.choice(list(WORST))
    WORST[name](raw)
    return json.dumps(raw).encode(), name


def _pattern(raw: JsonObject, random_: random.Random) -> tuple[bytes, str]:
    """A pattern of pieces that Oniguruma knows."""
    pieces = ("a", "(", ")", "|", "*", "+", "?", "{2}", "{1,}", "{0,999}", "[^", "[", "]", "\\s", "\\p{L}", "(?:",
              "(?=", "(?<!", "(?<n>", "\\1", "\\g<0>", "^", "$", ".", "&&", "-", " ", "(?i)", "{", "}",
              "\\")  # fmt: skip
    pattern = "".join(random_.choices(pieces, k=random_.randint(1, 12)))
    raw["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return json.dumps(raw).encode(), f"the pattern {pattern}"


MUTATIONS: tuple[Mutation, ...] = (_nothing, _values, _part, _model, _worst, _part, _pattern, _model, _bytes)


def _steps(kind: str, listed: str, *steps: JsonObject) -> Callable[[JsonObject], object]:
    return lambda raw: raw.update({kind: _sequence(listed, *steps)})


def _split(pattern: str) -> Callable[[JsonObject], object]:
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return lambda raw: raw.update(pre_tokenizer=step)


def _of_model(**values: Any) -> Callable[[JsonObject], object]:
    return lambda raw: raw["model"].update(values)


def _template(**values: Any) -> Callable[[JsonObject], object]:
    return lambda raw: raw.update(post_processor={**TEMPLATE, **values})


def _nested(depth: int) -> JsonObject:
    return {"type": "NFC"} if not depth else _sequence("normalizers", _nested(depth - 1))


DOUBLES = {"type": "Replace", "pattern": {"Regex": ""}, "content": "aa"}
PIECE_B = {"Sequence": {"id": "B", "type_id": 0}}
WORST: dict[str, Callable[[JsonObject], object]] = {
    "a text that doubles forty times": _steps("normalizer", "normalizers", *[
        {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    ] * 40),
    "a text that triples thirty times": _steps("normalizer", "normalizers", *[DOUBLES] * 30),
    "bytes that double forty times": _steps("pre_tokenizer", "pretokenizers", *[BYTE_LEVEL] * 40),
    "an answer that doubles forty times": _steps("decoder", "decoders", *[
        {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}
    ] * 31),
    "a normalizer nested 100 times": lambda raw: raw.update(normalizer=_nested(100)),
    "a pattern that backtracks": _split("(a+)+$"),
    "a pattern that backtracks over words": _split("(\\p{L}|\\w)*!"),
    "a pattern of many repeats": _split("a*a*a*a*a*a*b"),
    "a pattern that fills the memory": _split("(((a{1000}){1000}){100}){9}"),
    "a pattern that calls itself": _split("(?<x>a\\g<x>?b)"),
    "a pattern of 100,000 groups": _split("(" * 100_000 + "a" + ")" * 100_000),
    "a pattern that is none": _split("("),
    "an empty pattern": _split(""),
    "pieces of no length": lambda raw: raw.update(pre_tokenizer={"type": "FixedLength", "length": 0}),
    "an end that is cut off": lambda raw: raw.update(decoder={"type": "Strip", "content": "a", "start": 0, "stop": 9}),
    "a map that is none": lambda raw: raw.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "a map without a trie": lambda raw: raw.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": base64.b64encode(bytes(8)).decode()}
    ),
    "a map to long texts": lambda raw: raw.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": character_map("a" * 100_000)}
    ),
    "no map": lambda raw: raw.update(normalizer={"type": "Precompiled", "precompiled_charsmap": None}),
    "a decoder that is a number": lambda raw: raw.update(decoder=7),
    "a template of a second text": _template(single=[PIECE_B]),
    "a template without a text": _template(single=[]),
    "a template of a token that is none": _template(special_tokens={}),
    "a template of other numbers": _template(special_tokens={"<s>": {"id": "<s>", "ids": [0, 1], "tokens": ["<s>"]}}),
    "templates in a row": _steps("post_processor", "processors", TEMPLATE, TEMPLATE, TEMPLATE),
    "padding to a billion": lambda raw: raw.update(padding={
        "strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<s>",
    }),
    "truncation to nothing": lambda raw: raw.update(
        truncation={"direction": "Right", "max_length": 0, "strategy": "OnlySecond", "stride": 9}
    ),
    "merges that are too long": _of_model(type="BPE", vocab=IDS, merges=[["hello", "hello"]]),
    "merges that lead nowhere": _of_model(type="BPE", vocab=IDS, merges=[["x", "nobody"]]),
    "merges inside a character": _of_model(
        type="BPE", vocab={"a": 0, "é": 1, "aé": 2}, merges=[["a", "é"]], continuing_subword_prefix="#"
    ),
    "merges of one": _of_model(type="BPE", vocab=IDS, merges=[["h"]]),
    "words without end": _of_model(
        type="WordPiece", max_input_chars_per_word=1 << 62, unk_token="<unk>", continuing_subword_prefix="", vocab=IDS
    ),
    "tokens of a megabyte": _of_model(type="WordLevel", unk_token="<unk>", vocab={"<unk>": 0, "a" * (1 << 20): 1}),
    "numbers at the end": lambda raw: (
        raw["model"].update(type="WordLevel", unk_token="a", vocab={"a": 2**32 - 1}),
        raw["added_tokens"][0].update(content="a", id=2**32 - 1),
    ),
    "the same token twice": lambda raw: raw["added_tokens"].append({**raw["added_tokens"][0], "lstrip": True}),
    "a token of nothing": lambda raw: raw["added_tokens"][0].update(content=""),
    "tokens that a normalizer removes": lambda raw: (
        raw.update(normalizer={"type": "Replace", "pattern": {"Regex": "."}, "content": ""}),
        [token.update(normalized=True) for token in raw["added_tokens"]],
    ),
    "no score": _of_model(type="Unigram", unk_id=0, vocab=[["a", None]]),
    "an empty vocabulary": _of_model(type="Unigram", unk_id=None, vocab=[]),
    "an unknown token beyond": _of_model(type="Unigram", unk_id=9, vocab=[["a", 0.0]]),
    "scores at the ends": _of_model(type="Unigram", unk_id=0, vocab=[["a", 1e308], ["h", -1e308], ["he", -1e308]]),
    "ten million values": lambda raw: raw.update(model=[0] * 5_000_000),
}  # fmt: skip


# --- Cases ------------------------------------------------------------------------------------------------------------


def cases(setup: Setup) -> Cases:
    """The mutations take turns on tokenizers that people use and on made ones."""
    zoo = [json.loads(make().to_str()) for make in ZOO.values()]

    def case(index: int) -> Case:
        random_ = setup.random("tokenizers", index)
        raw = json.loads(json.dumps(random_.choice(zoo) if random_.random() < 0.3 else made(random_)))
        mutation = MUTATIONS[index % len(MUTATIONS)]
        content, what = mutation(raw, random_)
        return Case(what[:200], lambda: check(content, unchanged=mutation is _nothing))

    return case


def check(content: bytes, *, unchanged: bool) -> Found:
    """Read it, encode and decode: the library's numbers, or a refusal; an unchanged one can only fail on a text."""
    try:
        ours = read_tokenizer(content, "tokenizer.json", PocketVlmError)
        tokenizer = TextTokenizer.from_json(content, (0, 3))
        with library_errors("fails", PocketVlmError):
            found = _numbers(ours)
        tokenizer.opening()
        for text in (*TEXTS, LINES[0]):
            tokenizer.decode(tokenizer.encode([PeopleText(text)]))
    except PocketVlmError as error:
        return Found("wrong", f"refused: {error}") if unchanged and "fails" not in str(error) else refusal(error)
    try:
        theirs = Tokenizer.from_str(content.decode())
    except Exception:  # noqa: BLE001 - what was left out of the file was wrong, and is not used
        return Found("another")
    theirs.no_truncation()
    theirs.no_padding()
    if not json.loads(content)["model"].get("dropout") and found != (wanted := _numbers(theirs)):
        return Found("wrong", f"numbers {found} instead of {wanted}")
    return Found("right")


def _numbers(tokenizer: Tokenizer) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
