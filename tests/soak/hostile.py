"""JSON that nobody would write: values of other types and sizes, missing and extra keys, nesting, odd text."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

#: Put in place of any value.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3.5, 0.0, -0.0, 1e308, 255, 256, 65536, 100_000, 2**31 - 1, 2**31, 2**32, 2**40,
    2**44, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63), float("nan"), float("inf"), float("-inf"), 5e-324,
    "", "x", "1", "../x", "/etc/passwd", "manifest.json", "tokenizer.json", "text.data", ".", "a\0b", "\u202e\u2066",
    "\x1b[2J\x07", "line\nline", "[bold]x[/]", "[/nothing]", "e\u0301" * 100, "\ufeff", "\U0010ffff", "é" * 10_000,
    "<|im_end|>", [], {}, [[]], [None], {"": None}, {"a": {"b": []}}, [0] * 300, ["x"] * 5000,
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [path, *(place for key in keys for place in places(value[key], (*path, key)))]


def changed(raw: Any, random_: random.Random) -> tuple[Any, str]:
    """Another value somewhere, a key more or fewer, or two values in each other's place."""
    raw = copy.deepcopy(raw)
    all_places = [place for place in places(raw) if place]
    if not all_places:
        return raw, "nothing is left to change"
    # Long lists of the same would take nearly every turn: half of the turns go to what stands near the top.
    near = [place for place in all_places if len(place) <= 2]
    place = random_.choice(near if random_.random() < 0.5 else all_places)
    holder = _at(raw, place[:-1])
    action = random_.choice(("replace", "replace", "replace", "delete", "add", "exchange"))
    where = ".".join(map(str, place))
    if action == "delete":
        del holder[place[-1]]
    elif action == "add" and isinstance(holder, dict):
        holder[random_.choice(("", "x", "format_version", "\n", "\x1b[2J" * 100, "é"))] = random_.choice(VALUES)
    elif action == "exchange":
        other = random_.choice(all_places)
        if other[: len(place)] != place and place[: len(other)] != other:
            second = _at(raw, other[:-1])
            holder[place[-1]], second[other[-1]] = second[other[-1]], holder[place[-1]]
    else:
        value = random_.choice(VALUES)
        holder[place[-1]] = value
        return raw, f"{where} becomes {repr(value)[:30]}"
    return raw, f"{action} at {where}"


def _at(raw: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        raw = raw[key]
    return raw


def hostile_json(raw: Any, random_: random.Random) -> tuple[bytes, str]:
    """One or two changes of values; in a tenth of the cases the text is odd itself."""
    how: list[str] = []
    for _ in range(random_.choice((1, 1, 2))):
        raw, what = changed(raw, random_)
        how.append(what)
    text = json.dumps(raw, indent=random_.choice((None, 1))).encode()
    if random_.random() < 0.1:
        text, what = odd_text(text, random_)
        how.append(what)
    return text, ", ".join(how)


def odd_text(text: bytes, random_: random.Random) -> tuple[bytes, str]:
    """The same JSON in another encoding, nested deeply, with more behind it, with numbers that never end."""
    at = text.index(b"{") + 1
    deep = random_.choice((100, 3000, 200_000))
    odd = {
        "UTF-16": lambda: text.decode().encode("utf-16"),
        "a byte order mark": lambda: b"\xef\xbb\xbf" + text,
        "more behind it": lambda: text + random_.choice((b"{}", b"\0" * 100, b" " * 100_000, b"//")),
        "twice the same key": lambda: text[:at] + b'"format_version": 1, "format_version": 1,' + text[at:],
        f"{deep} lists deep": lambda: text[:at] + b'"x": ' + b"[" * deep + b"]" * deep + b"," + text[at:],
        f"{deep} objects deep": lambda: text[:at] + b'"x": ' + b'{"a":' * deep + b"1" + b"}" * deep + b"," + text[at:],
        "a number of 5000 digits": lambda: text[:at] + b'"x": ' + b"9" * 5000 + b"," + text[at:],
        "an exponent of 5000 digits": lambda: text[:at] + b'"x": 1e' + b"9" * 5000 + b"," + text[at:],
        "a lone surrogate": lambda: text[:at] + b'"\\ud800": 1,' + text[at:],
        "bytes that are no UTF-8": lambda: text[:at] + b'"\xff\xfe": 1,' + text[at:],
        "a key of a megabyte": lambda: text[:at] + b'"' + b"k" * (1 << 20) + b'": 1,' + text[at:],
        "nothing at all": lambda: b"",
    }
    name = random_.choice(list(odd))
    return odd[name](), name
