r"""Which tokenizers the Kotlin library reads: those whose every step it has. The rest only Python runs.

The rule is that of ``TokenizerJson.kt`` and ``Patterns.kt`` in ``android_app/pocketvlm-core``, to which
``tests/android/portable.py`` holds it. What it is asked about was read by ``pocketvlm.bundle.tokenizer`` before, whose
bounds on patterns are those of Kotlin as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pocketvlm.errors import one_line

CONTRACTIONS, ONE_OF_THEM = "(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?:'[a-z])"
MAX_PATTERN = 1024
CATEGORIES = "L[ultmo]?|M[nce]?|N[dlo]?|P[cdseifo]?|S[mcko]?"
ESCAPE = re.compile(
    rf"\\(?:s|p\{{(?:{CATEGORIES})\}}|x\{{([0-9A-Fa-f]{{1,6}})\}}|([rnt])|([-'/.+*?()\[\]{{}}|\\^$!\"#%&,:;<=>@_`~ ]))"
)
COUNT = re.compile(r"\{([0-9]{1,3})(?:(,)([0-9]{0,3}))?\}", re.ASCII)
GROUP = re.compile(r"\(\?:|\(\?[!=]|\((?![?*])")
CONTROLS = {"r": 13, "n": 10, "t": 9}


class _NotPortableError(Exception):
    """Why not, in a few words."""


def why_not_portable(content: bytes) -> str | None:
    """What the Kotlin library lacks for a ``tokenizer.json`` that is valid, in a few words; None where it reads it."""
    top = json.loads(content)
    try:
        _check_model(top["model"])
        _check_added(top.get("added_tokens") or ())
        for step in _steps(top.get("normalizer"), "normalizers"):
            _check_normalizer(step)
        for step in _steps(top.get("pre_tokenizer"), "pretokenizers"):
            _check_pre_tokenizer(step)
        for step in _steps(top.get("decoder"), "decoders"):
            _check_decoder(step)
        for step in _steps(top.get("post_processor"), "processors"):
            if step["type"] not in ("ByteLevel", "TemplateProcessing"):
                raise _NotPortableError(f"its post-processor is {step['type']}")
    except _NotPortableError as error:
        return one_line(error, 160)
    return None


def reads_pattern(pattern: str) -> bool:
    """Whether the Kotlin library splits by this pattern, which ``check_pattern`` let through."""
    try:
        _check_pattern(pattern.replace(CONTRACTIONS, ONE_OF_THEM))
    except _NotPortableError:
        return False
    return len(pattern) <= MAX_PATTERN


def _steps(part: Any, several: str) -> Sequence[Any]:
    if part is None:
        return ()
    steps: Sequence[Any] = part[several] if part["type"] == "Sequence" else (part,)
    return steps


def _check_model(model: Mapping[str, Any]) -> None:
    kind = model.get("type") or ("BPE" if model.get("merges") is not None else "another model")
    if kind != "BPE":
        raise _NotPortableError(f"its model is {kind}, not BPE")
    if model.get("dropout"):
        raise _NotPortableError("it drops merges at random")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise _NotPortableError(f"its model has a {key}")
    if model.get("byte_fallback") and any(f"<0x{byte:02X}>" not in model["vocab"] for byte in range(256)):
        raise _NotPortableError("it has no token for each byte")


def _check_added(tokens: Sequence[Mapping[str, Any]]) -> None:
    for token in tokens:
        if token["single_word"] and not token["special"]:
            raise _NotPortableError("it looks for whole words")
        if not token["content"]:
            raise _NotPortableError("it looks for nothing")


def _check_normalizer(step: Mapping[str, Any]) -> None:
    if step["type"] == "Replace":
        _literal(step)
    elif step["type"] not in ("NFC", "Prepend"):
        raise _NotPortableError(f"its normalizer is {step['type']}")


def _literal(step: Mapping[str, Any]) -> None:
    if step["pattern"].get("String") is None:
        raise _NotPortableError("it replaces what a pattern finds")


def _check_pre_tokenizer(step: Mapping[str, Any]) -> None:
    kind = step["type"]
    if kind == "ByteLevel":
        if step["add_prefix_space"]:
            raise _NotPortableError("its ByteLevel adds a space")
    elif kind == "Split":
        _check_split(step)
    elif kind not in ("Digits", "Metaspace"):
        raise _NotPortableError(f"its pre-tokenizer is {kind}")


def _check_split(step: Mapping[str, Any]) -> None:
    behavior, pattern = step["behavior"], step["pattern"].get("Regex")
    if step["invert"]:
        raise _NotPortableError("it splits by what a pattern does not find")
    if pattern is not None and behavior != "Isolated":
        raise _NotPortableError(f"it splits by a pattern, {behavior}")
    if pattern is not None and not reads_pattern(pattern):
        raise _NotPortableError(f"it splits by the pattern {one_line(pattern, 80)}")
    if behavior not in ("Isolated", "MergedWithPrevious", "MergedWithNext"):
        raise _NotPortableError(f"it splits {behavior}")


def _check_decoder(step: Mapping[str, Any]) -> None:
    kind = step["type"]
    if kind == "Replace":
        _literal(step)
    elif kind not in ("ByteLevel", "ByteFallback", "Fuse", "Strip", "Metaspace"):
        raise _NotPortableError(f"its decoder is {kind}")


def _check_pattern(text: str) -> None:
    """Groups are in order already: each letter belongs to a set, a repetition, or a group's edge."""
    looks: list[bool] = []
    at = 0
    while at < len(text):
        begins = GROUP.match(text, at)
        if begins is not None:
            looks.append(begins.group() in ("(?!", "(?="))
            at = begins.end()
        elif text[at] == ")":
            at += 1
            if not looks.pop():
                at += text.startswith("?", at)
            _end_of_repetition(text, at)
        elif text[at] == "|":
            at += 1
        else:
            at = _repetition(text, _set(text, at))


def _end_of_repetition(text: str, at: int) -> None:
    if text[at : at + 1] and text[at] in "*+?{":
        raise _NotPortableError


def _repetition(text: str, at: int) -> int:
    if not (text[at : at + 1] and text[at] in "*+?{"):
        return at
    count = COUNT.match(text, at)
    if text[at] == "{" and (count is None or (count[3] and int(count[3]) < int(count[1]))):
        raise _NotPortableError
    end = at + 1 if count is None else count.end()
    _end_of_repetition(text, end)
    return end


def _set(text: str, at: int) -> int:
    """Behind a letter, an escape or a list of them."""
    if text[at] == "[":
        return _list(text, at + 1)
    if text[at] in "(.^$*+?{":
        raise _NotPortableError
    return at + 2 if text.startswith("\\S", at) else _member(text, at)[1]


def _list(text: str, at: int) -> int:
    at += text.startswith("^", at)
    first = at
    if text.startswith("]", at):
        raise _NotPortableError
    while not text.startswith("]", at):
        hyphen = text.startswith("-", at)
        if text[at : at + 1] in ("", "[") or text.startswith("&&", at):
            raise _NotPortableError
        if hyphen and at != first and not text.startswith("-]", at):
            raise _NotPortableError
        code, at = _member(text, at)
        if text.startswith("-", at) and not text.startswith("-]", at):
            at += 1
            if hyphen or text[at : at + 1] in ("", "[", "-"):
                raise _NotPortableError
            last, at = _member(text, at)
            if code is None or last is None or code > last:
                raise _NotPortableError
    return at + 1


def _member(text: str, at: int) -> tuple[int | None, int]:
    """The code point that stands here, None for a class of them, and where it ends."""
    if text[at] != "\\":
        return ord(text[at]), at + 1
    escape = ESCAPE.match(text, at)
    if escape is None:
        raise _NotPortableError
    if escape[1]:
        code = int(escape[1], 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise _NotPortableError
        return code, escape.end()
    if escape[2]:
        return CONTROLS[escape[2]], escape.end()
    return (ord(escape[3]) if escape[3] else None), escape.end()
