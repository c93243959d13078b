"""Tokenizers of many kinds with what Python says of each: whether the Kotlin library reads it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from pocketvlm.bundle.patterns import check_pattern
from pocketvlm.bundle.portable import reads_pattern, why_not_portable
from tests.android.tokenizers import CONTRACTIONS, PATTERNS

#: Of published tokenizers; the last three are not read.
PUBLISHED = (
    *PATTERNS.values(),
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s+",
    "[一-龥぀-ゟ゠-ヿ]+",  # noqa: RUF001
    r"\p{N}{1,3}",
    r"\p{Nd}{1,3}(?=(?:\p{N}{3})?)",
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^\p{Han}]]+",
    r" ?[^(\s|[.,!?…。，、।۔،])]+",  # noqa: RUF001
)
PIECES = (
    *("a", "ü", "é", "'", "-", "]", "}", "&", "&&", "^", "[", "[^", "(", "(?:", "(?!", "(?=", "(?<n>", ")", ")?", "|"),
    *("+", "*", "?", "++", "+?", "{2}", "{1,3}", "{2,}", "{3,1}", "{,2}", "{", ".", "$", r"\s", r"\S", r"\d", r"\w"),
    *(r"\p{L}", r"\p{Lu}", r"\p{Lx}", r"\p{Han}", r"\P{L}", r"\r", r"\n", r"\/", r"\.", r"\-", r"\x{17f}", r"\x{d800}"),
    *(r"\x41", r"\1", "[a-z]", "[z-a]", "[-a]", "[a-]", r"[\s-a]", "[a-b-c]", "[]a]", "[^]", r"[^\S]", "😀", "[😀-😂]"),
    *(CONTRACTIONS, r"\x{1f600}"),
)


def patterns() -> Iterator[str]:
    """Those of published tokenizers, and pieces of patterns at random."""
    yield from PUBLISHED
    random = Random(3)
    for _ in range(4000):
        yield "".join(random.choice(PIECES) for _ in range(random.randrange(1, 7)))


def _is_bounded(pattern: str) -> bool:
    try:
        check_pattern(pattern)
    except ValueError:
        return False
    return True


def files() -> Iterator[dict[str, Any]]:
    """One of each step that the tokenizers library has, beside a tokenizer that is read."""
    letters = {"a": 0, "b": 1, "ab": 2, "<unk>": 3}
    plain = json.loads(Tokenizer(models.BPE(vocab=letters, merges=[("a", "b")])).to_str())
    yield plain
    for other in (
        models.WordPiece(vocab=letters, unk_token="<unk>"),
        models.WordLevel(vocab=letters, unk_token="<unk>"),
        models.Unigram(vocab=[("a", 0.0)], unk_id=0),
        models.BPE(vocab=letters, merges=[], dropout=0.5),
        models.BPE(vocab=letters, merges=[], end_of_word_suffix="b"),
        models.BPE(vocab=letters, merges=[], continuing_subword_prefix="b"),
        models.BPE(vocab=letters, merges=[], byte_fallback=True),
    ):
        yield json.loads(Tokenizer(other).to_str())
    parts: dict[str, tuple[Any, ...]] = {
        "normalizer": (
            normalizers.NFC(), normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip(),
            normalizers.Prepend("_"), normalizers.Replace(" ", "_"),
            normalizers.Sequence([normalizers.NFC(), normalizers.StripAccents()]),
        ),
        "pre_tokenizer": (
            pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.ByteLevel(add_prefix_space=True),
            pre_tokenizers.Digits(), pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation(),
            pre_tokenizers.Split(Regex(r"\d+"), "isolated"), pre_tokenizers.Split(Regex("a+"), "removed"),
            pre_tokenizers.Split(Regex("a+"), "isolated"), pre_tokenizers.Metaspace(),
            pre_tokenizers.Metaspace(prepend_scheme="never"), pre_tokenizers.BertPreTokenizer(),
            pre_tokenizers.UnicodeScripts(), pre_tokenizers.CharDelimiterSplit("a"),
            *(pre_tokenizers.Split("a", behavior, invert) for invert in (False, True)
              for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous")),
        ),
        "decoder": (
            decoders.ByteLevel(), decoders.BPEDecoder(), decoders.WordPiece(), decoders.CTC(), decoders.Metaspace(),
            decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]),
            decoders.Replace("a", "b"),
        ),
        "post_processor": (
            processors.ByteLevel(), processors.BertProcessing(("a", 0), ("b", 1)),
            processors.RobertaProcessing(("a", 0), ("b", 1)),
            processors.TemplateProcessing(single="a $A", special_tokens=[("a", 0)]),
        ),
    }  # fmt: skip
    for name, several in parts.items():
        for part in several:
            yield {**copy.deepcopy(plain), name: json.loads(part.__getstate__())}
    token = {"id": 0, "content": "a", "single_word": True, "lstrip": False, "rstrip": False, "normalized": False}
    for special in (False, True):
        yield {**copy.deepcopy(plain), "added_tokens": [{**token, "special": special}]}


def write_portable(path: Path) -> None:
    """``{"files": [[content, why not]], "patterns": [[pattern, is read]]}``."""
    whole = [json.dumps(file, ensure_ascii=False) for file in files()]
    written = {
        "files": [[content, why_not_portable(content.encode())] for content in whole],
        "patterns": [[pattern, reads_pattern(pattern)] for pattern in patterns() if _is_bounded(pattern)],
    }
    path.write_text(json.dumps(written))
