"""Thousands of damaged manifests: Python's reader and the native one take the same and refuse the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from android_app.runner.build import SOURCE
from pocketvlm.bundle.open import parse_manifest
from pocketvlm.errors import BundleError
from tests.runner.native import Probe
from tests.soak.edits import edited
from tests.soak.hostile import VALUES, hostile_json, places

MANIFESTS = 1000  # for each kind of damage

#: The fuzzers' own: text alone, with vision, with an NPU's program, of native resolution.
ORIGINALS = [path.read_text() for path in sorted((SOURCE / "fuzz" / "corpus" / "manifest").glob("*.json"))]
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null|[][{}:,]')
#: What the native reader refuses wherever it stands, and Python's takes where no value of it counts: NaN and numbers
#: that no double holds, as the first of a key's two values; whole ones of 309 to 4300 digits as a shape or a colour.
UNLIKE_JSON = re.compile(rb"NaN|Infinity|[0-9]{309}|[eE]\+?[0-9]{3}")
#: What is written for a token: numbers at the ends of each type and in each spelling, strings, brackets, others' JSON.
ODD_TOKENS = (
    b"0", b"-0", b"-0.0", b"1.0", b"1e0", b"4.0", b"4", b"1E+2", b"1e400", b"-1e400", b"1e-400", b"00", b"01", b"1.",
    b".5", b"+1", b"-", b"1e", b"0x1", b"1_0", b"NaN", b"nan", b"Infinity", b"-Infinity", b"9223372036854775807",
    b"9223372036854775808", b"-9223372036854775808", b"-9223372036854775809", b"18446744073709551615",
    b"18446744073709551616", b"1" + b"0" * 30, b"-1" + b"0" * 400, b"9" * 4300, b"-" + b"9" * 4300, b"9" * 4301,
    b"0." + b"0" * 5000 + b"1", b"true", b"True", b"false", b"null", b"None", b'""', b'"x"', b'"\\u0000"', b'"\\ud800"',
    b'"\\udc00\\ud800"', b'"\\ud83d\\ude00"', b'"\\u12"', b'"\\x41"', b'"\\/"', b'"\x00"', b'"\n"', b'"\t"', b'"\x7f"',
    b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xf0\x9f\x98\x80"', b"'x'", b'"', b"{", b"}",
    b"[", b"]", b"{}", b"[]", b":", b",", b",,", b" ", b"\x0b", b"\x0c", b"\xc2\xa0", b"\x00", b"\xef\xbb\xbf", b"//",
    b"/**/", b"#", b"[" * 40, b"[" * 70 + b"]" * 70,
)  # fmt: skip
Damage = Callable[[Any, Random], bytes]


def bytes_edited(raw: Any, random: Random) -> bytes:
    return edited(json.dumps(raw).encode(), random)[0]


def values_changed(raw: Any, random: Random) -> bytes:
    return hostile_json(raw, random)[0]


def tokens_changed(raw: Any, random: Random) -> bytes:
    """One or two tokens replaced, doubled, left out or with another one before them."""
    text = json.dumps(raw).encode()
    for _ in range(random.choice((1, 1, 2))):
        found = list(TOKEN.finditer(text))
        if not found:
            break
        token, odd = random.choice(found), random.choice(ODD_TOKENS)
        new = random.choice((odd, odd, odd, token[0] * 2, b"", odd + token[0]))
        text = text[: token.start()] + new + text[token.end() :]
    return text


def key_doubled(raw: Any, random: Random) -> bytes:
    """An object with one of its keys twice, the second value right or of another kind."""
    at = [place for place in places(raw) if place and isinstance(place[-1], str)]
    place = random.choice(at)
    holder = raw
    for key in place[:-1]:
        holder = holder[key]
    value = holder[place[-1]]
    other = random.choice((value, holder[random.choice(list(holder))], random.choice(VALUES)))
    # Spelled apart until it is text: a dictionary holds a key once.
    first, second = random.sample((value, other), 2)
    holder[place[-1]], holder["\0"] = first, second
    return json.dumps(raw).replace('"\\u0000"', json.dumps(place[-1])).encode()


DAMAGES: tuple[Damage, ...] = (bytes_edited, values_changed, tokens_changed, key_doubled)


def manifests(damage: Damage, count: int, seed: int = 0) -> Iterator[bytes]:
    """Damaged manifests, the same ones each time."""
    random = Random(f"{damage.__name__} {seed}")
    for turn in range(count):
        yield damage(json.loads(ORIGINALS[turn % len(ORIGINALS)]), random)


def taken(probe: Probe, path: Path, content: bytes) -> bool:
    """Whether both readers take a manifest; AssertionError where they differ."""
    path.write_bytes(content)
    try:
        parse_manifest(content, path)
        python = None
    except BundleError as error:
        python = str(error)
    native = probe.refused("manifest", path=path)
    if native is not None and UNLIKE_JSON.search(content):
        return False
    assert (native is None) == (python is None), (native, python, content)
    return native is None


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_both_readers_take_the_same_manifests(probe: Probe, tmp_path: Path, damage: Damage) -> None:
    path = tmp_path / "manifest.json"
    assert all(taken(probe, path, original.encode()) for original in ORIGINALS)
    answers = [taken(probe, path, content) for content in manifests(damage, MANIFESTS)]
    assert 0 < sum(answers) < MANIFESTS
