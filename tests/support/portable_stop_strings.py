"""Stop strings a second time, by searching the whole text so far after every token: what streaming must give out.

Run as ``python -m tests.support.portable_stop_strings`` it writes ``tests/golden/stop_strings.json``, from this version
and not from the runtime's, so that the file judges the runtime too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "stop_strings.json"
DESCRIPTION = (
    "Stop strings that end an answer, also where they span tokens. tokens: the texts that come one after the other, "
    "always whole characters. pieces: what is given out after each, up to the token that completes a stop string "
    "(found: that there is one); the tokens behind it are not looked at. The text ends before the stop string that "
    "begins first of those that are complete then. rest: what was held back and is given out at the end if none was "
    "found. What could be the beginning of a stop string is held back, and nothing more."
)
CASES: list[tuple[str, list[str], list[str]]] = [
    ("no stop strings", [], ["ab", "", "c"]),
    ("none found", ["STOP"], ["What ", "is", " it?"]),
    ("in one token", ["STOP"], ["aSTOPb", "c"]),
    ("at the very start", ["STOP"], ["STOP", "a"]),
    ("a token to each character", ["STOP"], ["a", "S", "T", "O", "P", "b"]),
    ("across two tokens, with text behind it", ["</answer>"], ["42</ans", "wer> and", " more"]),
    ("a beginning that goes on differently", ["</answer>"], ["1 <", " 2 </", "b></an", "gle>"]),
    ("a beginning that is a beginning again", ["<<end"], ["<", "<", "<", "e", "n", "d"]),
    ("a beginning inside a beginning", ["ababc"], ["abab", "ab", "c"]),
    ("held back at the end", ["STOP"], ["abc", "STO"]),
    ("all of it held back", ["aaaa"], ["a", "a", "a"]),
    ("more of the held than a stop string needs", ["aaaa"], ["aaa", "baa", "aa"]),
    ("tokens without text", ["ab"], ["", "a", "", "", "b", ""]),
    ("of two the one that begins first", ["world", "lo w"], ["hello", " world"]),
    ("of two the one that is complete first", ["lo world", "o"], ["hel", "lo", " world"]),
    ("one that begins another", ["STOP", "STOP NOW"], ["a ST", "OP NOW"]),
    ("one inside another, the longer one first", ["abcd", "bc"], ["xab", "cd"]),
    ("one inside another, complete at once", ["abcd", "bc"], ["xab_", "abcd"]),
    ("the longest beginning of several", ["xyz", "yzzz", "z!"], ["wx", "y", "z"]),
    ("one character", ["\n"], ["line", " one\nline", " two"]),
    ("line breaks", ["\n\nUser:"], ["yes\n", "\n", "Us", "er", ": next"]),
    ("beginnings of line breaks", ["\n\nUser:"], ["a\n", "\n", "\n", "User", ":"]),
    ("characters of several bytes", ["né"], ["l'an", "n", "ée", "née"]),
    ("characters that share their first bytes and their surrogate", ["👍"], ["a👌", "👍b"]),
    ("characters that share only surrogates or bytes", ["👍👍"], ["👍", "👌👍", "👎", "👍", "👍"]),
    ("Chinese", ["。停"], ["你好", "。", "吗。", "停止"]),
    ("a joined emoji, cut between its characters", ["👩\u200d💻"], ["👩", "\u200d", "🚀👩\u200d", "💻!"]),
    ("combining characters are not composed", ["e\u0301"], ["é", "e", "\u0301"]),
    ("case matters", ["Stop"], ["stop STOP St", "op"]),
    ("special characters of patterns are text", [".*", "$"], ["a.b", ".", "*c"]),
]


def stream(stops: list[str], tokens: list[str]) -> dict[str, Any]:
    """``pieces``, ``found`` and ``rest`` of a case."""
    pieces: list[str] = []
    for count in range(1, len(tokens) + 1):
        text, given = "".join(tokens[:count]), len("".join(pieces))
        starts = sorted(text.index(stop) for stop in stops if stop in text)
        if starts:
            return {"pieces": [*pieces, text[given : starts[0]]], "found": True, "rest": ""}
        # A stop string may still come of what begins here; without one, nothing is held back.
        safe = next((start for start in range(len(text)) if _begins(text[start:], stops)), len(text))
        pieces.append(text[given:safe])
    return {"pieces": pieces, "found": False, "rest": "".join(tokens)[len("".join(pieces)) :]}


def _begins(text: str, stops: list[str]) -> bool:
    return any(stop[: len(text)] == text for stop in stops)


def text() -> str:
    """The golden file: one line a case."""
    cases = [{"name": name, "stops": stops, "tokens": tokens, **stream(stops, tokens)} for name, stops, tokens in CASES]
    lines = ["{", f' "description": {json.dumps(DESCRIPTION)},', ' "cases": [']
    lines += [",\n".join(f"  {json.dumps(case)}" for case in cases), " ]", "}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    GOLDEN.write_text(text(), encoding="utf-8")
