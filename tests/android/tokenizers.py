"""Tokenizers of each kind that other platforms read, and random texts with the ids and pieces that Python makes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pocketvlm.runtime.text import Detokenizer, Literal, PeopleText, TextTokenizer

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
PATTERNS = {
    "qwen2": rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    "llama3": rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    rf"{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*"
    rf"{CONTRACTIONS}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
SPECIALS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|im_end|>|>")
OF_SCRIPTS = """
the total is don't I'LL We'VE it's 'S 'ſ über naïve 北京 こんにちは 안녕하세요 مرحبا שלום नमस्ते ไทย Ελληνικά
Привет 🙂 👩‍👩‍👧 🇩🇪 é é Å Å ﬁ Ⅷ ½ ²³ ١٢٣ 1234567 3.14 $5 <|im_end|> <s> ▁ Ġ <0x0A>
<think> </think> <mark> � <|im_end|>|>
"""  # noqa: RUF001
SPACES = ("\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2028", "\u0085", "\x0b", "\x0c", "\x1c")
WORDS = (*OF_SCRIPTS.split(), *SPACES)
#: Scripts, of which the second half came with Unicode 14 to 17: what a JVM or an Android may not know.
SCRIPTS = (
    (32, 127),
    (0xA0, 0x250),
    (0x370, 0x400),
    (0x400, 0x500),
    (0x900, 0x980),
    (0x4E00, 0x9FFD),
    (0x1F300, 0x1F650),
    (0x300, 0x370),
    (0x10570, 0x105FD),
    (0x10D40, 0x10D90),
    (0x11380, 0x113E3),
    (0x11DB0, 0x11DEA),
    (0x11F00, 0x11F60),
    (0x16100, 0x1613A),
    (0x16D40, 0x16D7A),
    (0x16FF0, 0x16FF7),
    (0x1CCD6, 0x1CCFA),
    (0x1DF00, 0x1DF2B),
    (0x1E030, 0x1E090),
    (0x2EBF0, 0x2EE5E),
)


def byte_level(texts: list[str], cut: Any, **model: Any) -> Tokenizer:
    """Of GPT-2's kind, trained on ``texts``."""
    made = Tokenizer(models.BPE(**model))
    made.pre_tokenizer = cut
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=alphabet, special_tokens=list(SPECIALS), show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    return made


def byte_fallback(texts: list[str], cut: Any, normal: Any, undo: Any) -> Tokenizer:
    """Of Llama 2's kind: characters, and tokens for the bytes of others."""
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if normal is not None:
        made.normalizer = normal
    if cut is not None:
        made.pre_tokenizer = cut
    made.decoder = undo
    all_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=[*SPECIALS, *all_bytes], limit_alphabet=120, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    content = json.loads(made.to_str())  # bytes are tokens of the vocabulary, not added ones
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in SPECIALS]
    return Tokenizer.from_str(json.dumps(content))


def kinds(texts: list[str]) -> dict[str, Tokenizer]:
    """One of each kind that is read."""
    with_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = {
        name: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), with_letters])
        for name, pattern in PATTERNS.items()
    }
    legacy = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    undo = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
    ])  # fmt: skip
    first = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    always = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    meta = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first"), decoders.Fuse()])
    gemma = pre_tokenizers.Split(" ", "merged_with_previous")
    digits = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made = {
        "gpt2": byte_level(texts, pre_tokenizers.ByteLevel(add_prefix_space=False)),
        "digits": byte_level(texts, digits),
        "qwen2": byte_level(texts, split["qwen2"]),
        "llama3": byte_level(texts, split["llama3"], ignore_merges=True),
        "o200k": byte_level(texts, split["o200k"]),
        "llama2": byte_fallback(texts, None, legacy, undo),
        "metaspace": byte_fallback(texts, first, None, meta),
        "metaspace-split": byte_fallback(texts, always, None, undo),
        "gemma": byte_fallback(texts, gemma, normalizers.Replace(" ", "▁"), undo),
    }
    made["qwen2"].normalizer = normalizers.NFC()
    made["qwen2"].add_tokens(["<think>", "</think>"])
    made["llama2"].add_tokens(
        [AddedToken("<mark>", lstrip=True, rstrip=True, normalized=False), AddedToken("</think>", normalized=True)]
    )
    made["llama3"].add_special_tokens([AddedToken("<think>", lstrip=True, rstrip=True, normalized=False)])
    return made


def drawn_text(random: Random, texts: list[str]) -> str:
    """Code, words of many scripts, letters of a few scripts, or any code points."""
    kind = random.random()
    if kind < 0.3:
        text = random.choice(texts)
        start = random.randrange(len(text))
        return text[start : start + random.randrange(1, 300)]
    if kind < 0.7:
        pieces = (
            random.choice(WORDS) + random.choice(["", " ", "  ", "\n\n", "\r\n "])
            for _ in range(random.randrange(1, 16))
        )
        return random.choice(["", " ", "  ", "\n"]).join(pieces)
    ranges = SCRIPTS if kind < 0.9 else ((1, 0xD800), (0xE000, 0x30000), (0x30000, 0x110000))
    script = random.choice(ranges)  # several letters of one in a row, or of any
    drawn = (script if random.random() < 0.5 else random.choice(ranges) for _ in range(random.randrange(1, 30)))
    return "".join(chr(random.randrange(*of)) for of in drawn)


def write_tokenizers(folder: Path, texts: list[str], each: int) -> None:
    """``NAME.json`` and ``NAME.jsonl`` in ``folder``: spans, ids and the pieces that the ids are streamed as."""
    folder.mkdir()
    for name, tokenizer in kinds(texts).items():
        (folder / f"{name}.json").write_text(tokenizer.to_str())
        vocabulary = tokenizer.get_vocab()
        controls = [vocabulary["</s>"], vocabulary["e"]]
        read = TextTokenizer.from_json(tokenizer.to_str().encode(), controls)
        with (folder / f"{name}.jsonl").open("w") as lines:
            for line in _lines(read, Random(name), texts, each):
                lines.write(json.dumps({"controls": controls, **line}) + "\n")


def _lines(read: TextTokenizer, random: Random, texts: list[str], each: int) -> Iterator[dict[str, Any]]:
    for _ in range(each):
        spans = [(random.random() < 0.3, drawn_text(random, texts)) for _ in range(random.choice((1, 1, 2, 4)))]
        at_start = random.random() < 0.5
        ids = read.encode(
            [Literal(text) if is_literal else PeopleText(text) for is_literal, text in spans], at_start=at_start
        )
        detokenizer = Detokenizer(read)
        pieces = [*map(detokenizer.push, ids), detokenizer.flush()]
        yield {"spans": spans, "at_start": at_start, "ids": ids, "decoded": read.decode(ids), "pieces": pieces}
