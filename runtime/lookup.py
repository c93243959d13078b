"""Prompt lookup: what comes next, guessed from where the last tokens stood before in the prompt or the answer.

Source: Saxena: Prompt lookup decoding (2023), github.com/apoorvumang/prompt-lookup-decoding; transformers has it as
``prompt_lookup_num_tokens``. A draft costs the step in which it is checked some rows more, so it is made where the
last tokens were seen before, and only as long as drafts of this answer give back what they cost.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

#: So many last tokens are looked up. Of drafts behind two alone a quarter held where the built-in model answers about a
#: picture, behind three half; where it repeats an answer both give the same.
NGRAM = 3
#: Tokens of a draft: one; after each that holds whole, the next. With the token before it a step has an even number
#: of rows, which kernels like.
LENGTHS = (1, 3, 7, 15)
#: How much of its time an answer may lose on drafts, and how many plain steps before that; no more are saved up.
SHARE, STAKE, MOST = 0.015, 0.5, 4.0
#: Weight of the newest plain step in what one costs: a cache grows, a machine gets busy.
NEWEST = 0.2


class Lookup:
    """Tokens so far, and where each n-gram of them stood last. A negative token, a picture's, is in no n-gram."""

    def __init__(self, tokens: Iterable[int]) -> None:
        self._tokens: list[int] = []
        self._behind: dict[tuple[int, ...], int] = {}
        for token in tokens:
            self.see(token)

    def see(self, token: int) -> None:
        """One more token of the prompt or the answer."""
        ngram = tuple(self._tokens[-NGRAM:])
        if len(ngram) == NGRAM and min(ngram) >= 0:
            self._behind[ngram] = len(self._tokens)
        self._tokens.append(token)

    def draft(self, most: int) -> list[int]:
        """At most so many tokens that followed the last ones where those stood before; none where they did not."""
        at, start = len(self._tokens), self._behind.get(tuple(self._tokens[-NGRAM:]))
        drafted: list[int] = []
        if start is None:
            return drafted
        for source in range(start, start + most):
            # A text that repeats itself goes on with what was drafted.
            token = self._tokens[source] if source < at else drafted[source - at]
            if token < 0:
                break
            drafted.append(token)
        return drafted


@dataclass
class Pace:
    """How long a draft may be: longer while drafts hold, none while they take more time than they give.

    It keeps account in seconds, beside what a plain step takes. Whatever drafts do, an answer loses no more than
    ``SHARE`` of its time by them and ``STAKE`` of a step.
    """

    plain_s: float | None = None
    credit_s: float = 0.0
    length: int = 0

    def most(self) -> int:
        """Tokens of the next draft. The first step is a plain one: what drafts are compared with."""
        return LENGTHS[self.length] if self.plain_s is not None and self.credit_s > 0 else 0

    def took(self, seconds: float, drafted: int = 0, held: int = 0) -> None:
        """A step took so long, of whose draft so many tokens held."""
        if not drafted:
            if self.plain_s is None:
                self.credit_s = STAKE * seconds
            self.plain_s = seconds if self.plain_s is None else self.plain_s + NEWEST * (seconds - self.plain_s)
            gain = SHARE * seconds
        else:
            assert self.plain_s is not None
            gain = (1 + held) * self.plain_s - seconds
            whole = held == drafted
            fitting = next(at for at, length in enumerate(LENGTHS) if length >= max(held, 1))
            self.length = min(fitting + whole, len(LENGTHS) - 1)
        self.credit_s = min(self.credit_s + gain, MOST * (self.plain_s or 0.0))
