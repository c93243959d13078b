"""Facts about a picture, and the questions that ask for them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

#: topic -> kind of question, and its phrasings; {slots} are filled by the fact
PHRASINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "line": ("line", ("What is on line {n}?", "Read line {n}.", "What does line {n} say?")),
    "item": ("line", ("What is item {n}?", "Read item {n}.", "What does item {n} say?")),
    "title": ("line", ("What is the title?", "Read the title.")),
    "shop": ("line", ("What is the name of the shop?", "Which shop is it?")),
    "message": ("line", ("What does the dialog say?", "Read the message.")),
    "total": ("total", ("What is the total?", "How much is the total?", "Read the total.")),
    "time": ("time", ("What time is it?", "What is the time?", "Read the time.")),
    "battery": ("value", ("What is the battery level?", "How full is the battery?")),
    "price": ("value", ("What does {label} cost?", "What is the price of {label}?", "How much is {label}?")),
    "value": ("value", ("What is the value of {label}?", "What is {label}?", "Read the value of {label}.")),
    "left button": ("value", ("What does the left button say?", "Read the left button.")),
    "right button": ("value", ("What does the right button say?", "Read the right button.")),
    "highest": ("value", ("Which bar is the highest?", "Which label has the highest bar?")),
    "lowest": ("value", ("Which bar is the lowest?", "Which label has the lowest bar?")),
    "sign colour": ("colour", ("Which colour is the sign?", "What color is the sign?")),
    "bar colour": ("colour", ("Which colour is the bar of {label}?", "What color is the bar of {label}?")),
    "shape colour": ("colour", ("Which colour is the {shape}?", "What color is the {shape}?")),
    "lines": ("count", ("How many lines are there?", "How many lines of text are in the picture?", "Count the lines.")),
    "items": ("count", ("How many items are there?", "Count the items.")),
    "bars": ("count", ("How many bars are there?", "Count the bars.")),
    "shapes": ("count", ("How many shapes are there?", "Count the shapes.")),
    "shapes of": ("count", ("How many {color} shapes are there?", "Count the {color} shapes.")),
    "has": ("yes or no", ("Is there {label}?", "Does the picture say {label}?")),
    "is on": ("yes or no", ("Is {label} on?", "Is {label} turned on?")),
    "higher": ("yes or no", ("Is {label} higher than {other}?",)),
    "has shape": ("yes or no", ("Is there a {color} {shape}?",)),
    "is sign": ("yes or no", ("Is the sign {color}?",)),
    "all": ("all", ("Read all lines.", "What does the picture say?", "Transcribe the picture.", "Read the picture.")),
}
KINDS = tuple(dict.fromkeys(kind for kind, _ in PHRASINGS.values()))


@dataclass(frozen=True)
class Fact:
    """Something that can be asked about a picture."""

    topic: str
    """a key of PHRASINGS"""
    answer: str
    slots: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return PHRASINGS[self.topic][0]


@dataclass(frozen=True)
class Turn:
    """A question and its right answer."""

    kind: str
    question: str
    answer: str


def yes_or_no(topic: str, is_so: bool, **slots: str) -> Fact:
    """A fact whose answer is Yes or No."""
    return Fact(topic, "Yes" if is_so else "No", slots)


def has(there: Sequence[str], words: Sequence[str], said: Sequence[str], source: random.Random) -> list[Fact]:
    """Whether a text is there: one of ``there``, and one of ``words`` that no line of ``said`` contains."""
    missing = [word for word in words if word not in "\n".join(said)]
    yes = yes_or_no("has", True, label=source.choice(list(there)))
    return [yes, yes_or_no("has", False, label=source.choice(missing))]


def ask(fact: Fact, source: random.Random) -> Turn:
    """A question for a fact, in any of its phrasings."""
    return Turn(fact.kind, source.choice(PHRASINGS[fact.topic][1]).format(**fact.slots), fact.answer)


def choose(facts: Sequence[Fact], count: int, source: random.Random) -> list[Fact]:
    """At most ``count`` different facts; each kind of question is as likely as any other that the picture allows."""
    left: dict[str, list[Fact]] = {}
    for fact in facts:
        left.setdefault(fact.kind, []).append(fact)
    chosen: list[Fact] = []
    while left and len(chosen) < count:
        kind = source.choice(list(left))
        chosen.append(left[kind].pop(source.randrange(len(left[kind]))))
        if not left[kind]:
            del left[kind]
    return chosen
