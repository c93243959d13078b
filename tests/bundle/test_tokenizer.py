"""tokenizer.json: read as the tokenizers library reads it, or refused in one line before that library sees it."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer

from pocketvlm.bundle.patterns import check_pattern
from pocketvlm.bundle.tokenizer import MAX_GROWTH, library_errors, read_tokenizer
from pocketvlm.errors import BundleError, CheckpointError
from pocketvlm.runtime.text import PeopleText, TextTokenizer
from tests.soak.tokenizers import IDS, MODELS, TEXTS, WORST, made
from tests.support.tokenizers_zoo import ZOO

#: As published with these tokenizers.
PATTERNS = {
    "GPT-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "Llama 3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "DeepSeek": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"
    r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "BLOOM": " ?[^(\\s|[.,!?…。，、।۔،])]+",  # noqa: RUF001
    "Kimi": r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{M}&&[^\p{Han}]]+(?i:'s|'t)?",
    "ALBERT": " {2,}",
    "OLMo": r"(?=(\d{3})+(?!\d))",
}
REFUSED = {
    "(a+)+$": "repeats what repeats", "(a|b+)*": "repeats what repeats", "(a?){50}a{50}": "repeats what repeats",
    "a*a*a*a*b": "too many parts", "a?" * 9: "too many parts", "((a{1000}){1000})": "more than 4096",
    "x" * 5000: "more than 4096",
    "(?<n>a)\\g<n>": "kind of group", "(?{x})": "kind of group", "(*FAIL)": "kind of group", "(?~a)": "kind of group",
    "(?": "kind of group", "(a)\\1": "escape", "a\\K": "escape", "\\": "escape", "a{1,3}+": "repeats a repetition",
    "a**": "repeats a repetition", "(": "does not end", "[": "does not end", "[]": "does not end", ")": "did not begin",
    "(" * 20 + ")" * 20: "too deeply",
}  # fmt: skip


def raw(**values: Any) -> dict[str, Any]:
    return {"version": "1.0", "model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": IDS}, **values}


def refused(content: Any) -> str:
    with pytest.raises(BundleError) as caught:
        read_tokenizer(json.dumps(content).encode(), "tokenizer.json", BundleError)
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 300
    assert line.startswith("tokenizer.json")
    return line


@pytest.mark.parametrize("name", PATTERNS)
def test_published_patterns_are_taken(name: str) -> None:
    assert check_pattern(PATTERNS[name]) == PATTERNS[name]
    Regex(PATTERNS[name])  # Oniguruma knows them as well


@pytest.mark.parametrize("pattern", REFUSED, ids=lambda one: one[:20])
def test_patterns_that_no_text_bounds_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[pattern]):
        check_pattern(pattern)


@given(st.text("ab(|)*+?{2,}[]^\\ps1-&", max_size=30))
def test_any_pattern_is_taken_or_refused(pattern: str) -> None:
    try:
        check_pattern(pattern)
    except ValueError as error:
        assert str(error).isprintable()  # noqa: PT017 - both outcomes are right


@pytest.mark.parametrize("name", ZOO)
def test_what_is_read_is_what_the_library_reads(name: str) -> None:
    content = ZOO[name]().to_str()
    ours, theirs = read_tokenizer(content.encode(), name), Tokenizer.from_str(content)
    for text in TEXTS:
        ids = theirs.encode(text).ids
        assert ours.encode(text).ids == ids
        assert ours.decode(ids) == theirs.decode(ids)
    assert ours.get_added_tokens_decoder() == theirs.get_added_tokens_decoder()


def test_a_file_of_2020_says_neither_kind_nor_pairs() -> None:
    """GPT-2's: no type of model, merges with a space between, a first line with a version."""
    old, new = raw(model=MODELS[1]), raw(model={**MODELS[0], "unk_token": None, "byte_fallback": False})
    ours = read_tokenizer(json.dumps(old).encode(), "old")
    assert (
        ours.encode("hello").ids
        == read_tokenizer(json.dumps(new).encode(), "new").encode("hello").ids
        == [IDS["hello"]]
    )


@pytest.mark.parametrize("name", WORST)
def test_the_worst_are_refused_or_read(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Without a word of the library's on stderr."""
    content = made(random.Random(name))
    WORST[name](content)
    try:
        tokenizer = TextTokenizer.from_json(json.dumps(content).encode())
        tokenizer.decode(tokenizer.encode([PeopleText("hello")]))
    except BundleError as error:
        assert str(error).isprintable()  # noqa: PT017 - both outcomes are right
    assert not capfd.readouterr().err


def test_a_text_cannot_grow_without_end() -> None:
    doubles = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    several = {"type": "Sequence", "normalizers": [doubles] * 12}
    tokenizer = read_tokenizer(json.dumps(raw(normalizer=several)).encode(), "x")
    assert len(tokenizer.normalizer.normalize_str("a")) == 4096 == MAX_GROWTH
    several["normalizers"] = [doubles] * 13
    assert "normalizer could make a text 8192 times longer" in refused(raw(normalizer=several))


def test_padding_and_truncation_are_left_out() -> None:
    padding = {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
    tokenizer = read_tokenizer(json.dumps(raw(padding=padding, truncation={"max_length": 0})).encode(), "x")
    assert tokenizer.padding is tokenizer.truncation is None
    assert tokenizer.encode("a").ids == [IDS["a"]]


def test_a_panic_of_the_library_is_one_line_and_ctrl_c_is_not(capfd: pytest.CaptureFixture[str]) -> None:
    """What would come out of the library alone, and does where a check is missing."""
    content = json.dumps(raw(pre_tokenizer={"type": "FixedLength", "length": 0}))
    with pytest.raises(BaseException, match="chunk size must be non-zero") as caught:
        Tokenizer.from_str(content).encode("a")
    assert not isinstance(caught.value, Exception)
    with (
        pytest.raises(CheckpointError, match=r"^it fails: chunk size must be non-zero$"),
        library_errors("it fails", CheckpointError),
    ):
        Tokenizer.from_str(content).encode("a")
    assert "panicked" in capfd.readouterr().err
    assert "pre_tokenizer.FixedLength.length is 0" in refused(json.loads(content))
    for error in (KeyboardInterrupt, GeneratorExit, MemoryError):
        with pytest.raises(error), library_errors("it fails", CheckpointError):
            raise error
