"""Dialogues on which the literals of a chat layout are proved equal to the chat template."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import NamedTuple

from pocketvlm.export.read.jinja.process import Message


class Text(NamedTuple):
    """Words of dialogues and what a template does that treats them unlike others."""

    what: str
    words: Sequence[str]
    answers: Sequence[str] = ()
    """those that only answers have"""


PLAIN = Text(
    "does more than put text around messages",
    [
        "hello",
        "Zahl 42",
        "two  spaces",
        "line\nbreak",
        "a\ttab",
        "{{ x }}",
        "<b>&amp;</b>",
        "äöü €",
        "'\"\\",
        "/no_think",
    ],
)
REASONING = Text(
    "rewrites earlier answers (drops their reasoning, say)",
    PLAIN.words,
    ["<think>\nyes\n</think>\n\nno", "</think>", "<think></think> so", "yes</think>no</think>maybe", "</think>\n \ta"],
)
EDGES = Text(
    "trims white space at the ends of messages in a way of its own",
    [" two  spaces ", "line\nbreak\n", "\ttab", "\n\nopening", "\u3000wide\x85", "plain"],
)


def dialogues(text: Text, *, seed: int, count: int, system: bool) -> list[list[Message]]:
    """Dialogues of alternating turns, with a system message or without, that end with a question."""
    source = random.Random(seed)

    def words(role: str) -> str:
        chosen = source.choices(text.words, k=source.randint(1, 3))
        if role == "assistant" and text.answers:
            chosen[source.randrange(len(chosen))] = source.choice(text.answers)
        return "".join(chosen)

    cases = []
    for index in range(count):
        roles = ["system"] if system else []
        roles += itertools.islice(itertools.cycle(("user", "assistant")), 1 + 2 * (index % 4))
        cases.append([{"role": role, "content": words(role)} for role in roles])
    return cases
