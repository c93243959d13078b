"""Which option of a multiple choice an answer means."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: what may stand around a letter: "(B)", "B.", "**B**", "Answer: B"
AROUND = re.compile(r"[.()\[\],:;!*#{}]")


def chosen(answer: str, choices: Sequence[tuple[str, str]]) -> str | None:
    """The letter of the option that ``answer`` means; None where that is not clear.

    The rules of VLMEvalKit's exact matching (vlmeval/utils/matching_util.py), after one of our own: an answer that is
    an option's text means that option, also where it begins with the article "A". Then the only letter that stands as
    a word, then the only option whose text occurs in an answer that is not much longer than all options.
    """
    texts = {letter: text.strip().lower() for letter, text in choices}
    said = answer.strip().lower()
    words = set(AROUND.sub(" ", answer).split())
    whole = [letter for letter, text in texts.items() if said == text]
    letters = [letter for letter in texts if letter in words]
    inside = [letter for letter, text in texts.items() if text in said]
    short = len(said) <= 2 * sum(map(len, texts.values()))
    rules = (whole, letters, inside if short else [])
    return next((found[0] for found in rules if len(found) == 1), None)
