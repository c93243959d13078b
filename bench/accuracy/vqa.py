"""VQA accuracy: how many of ten people would agree, after spelling, articles and punctuation are made the same.

S. Antol et al., "VQA: Visual Question Answering" (arXiv 1505.00468), and the rules of https://visualqa.org/evaluation:
lower case, number words to digits, no articles, no periods but decimal ones, apostrophes put back into contractions,
other punctuation (apostrophe and colon aside) to a space. Where the prose leaves something open, this does what the
organizers' vqaEval.py does; what differs from it is said at ``vqa_accuracy``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

#: so many other people make an answer fully right
AGREEING = 3

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)} | {"none": "0"}
ARTICLES = {"a", "an", "the"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
#: a digit on the left does not matter: "5." loses its period, ".5" keeps it
PERIOD = re.compile(r"\.(?!\d)")
COMMA_IN_NUMBER = re.compile(r"\d,\d")
#: the contractions of vqaEval.py that lower-case text can have; "hell", "well" or "its" are left as they are
CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""


def _misspellings() -> Iterator[tuple[str, str]]:
    """(a contraction that lacks one apostrophe, the same with it)"""
    for word in CONTRACTIONS.split():
        for place, character in enumerate(word):
            if character == "'":
                yield word[:place] + word[place + 1 :], word


#: "dont" -> "don't"; the last entry is a slip of vqaEval.py that all published numbers share
SPELLED = dict(_misspellings()) | {"somebody'd": "somebodyd"}


def normalized(answer: str) -> str:
    """An answer as vqaEval.py compares it."""
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    words = (DIGITS.get(word, word) for word in _without_punctuation(text).lower().split())
    return " ".join(SPELLED.get(word, word) for word in words if word not in ARTICLES)


def _without_punctuation(text: str) -> str:
    """A mark beside a space vanishes, one between letters becomes a space; all vanish where a number has a comma."""
    in_number = COMMA_IN_NUMBER.search(text) is not None
    kept = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        kept = kept.replace(mark, "" if in_number or beside_space else " ")
    return PERIOD.sub("", kept)


def vqa_accuracy(got: str, answers: Sequence[str]) -> float:
    """min(people who said it / 3, 1), averaged over leaving out each person once; 0 to 1.

    Fewer than four answers cannot have three others that agree: there it is 1 if any equals ``got``, else 0. Unlike
    vqaEval.py, which compares unanimous answers as they are written, this always normalizes: the rules say so.
    """
    said, wanted = normalized(got), [normalized(answer) for answer in answers]
    same = wanted.count(said)
    if len(wanted) <= AGREEING:
        return float(same > 0)
    # Who said it is left out `same` times, and then one less agrees; anybody else the other times.
    agreeing = same * min((same - 1) / AGREEING, 1) + (len(wanted) - same) * min(same / AGREEING, 1)
    return agreeing / len(wanted)
