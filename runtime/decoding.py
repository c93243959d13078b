"""The tokens of an answer, a step each, or several in one step where a draft of them holds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketvlm.runtime.constraints import MOST_FORCED
from pocketvlm.runtime.lookup import Lookup, Pace
from pocketvlm.runtime.sampling import Sampler, Scores, scores

if TYPE_CHECKING:
    from pocketvlm.runtime.context import Context
    from pocketvlm.runtime.engines import Engine, Floats


@dataclass(frozen=True)
class Chosen:
    """A token of an answer, and how likely it was where that is asked for."""

    token_id: int
    scores: Scores | None = None


class Decoding:
    """Chooses token after token. What is in the context is always what was computed of tokens that were chosen.

    ``prompt``: its tokens, those of pictures negative, where drafts are looked up in them; None: no drafts.
    ``logprobs``: with so many tokens' scores; None: without any.
    A draft is checked in the step of the token before it: of each row the sampler chooses, and where it chooses what
    was drafted, the next row is that of the right text. So the tokens are those of steps of one token, also of sampled
    answers, as far as an engine gives a token's logits the same bits in either. Tokens that a constraint leaves no
    choice about are fed in one step with the one before them.
    """

    def __init__(
        self,
        engine: Engine,
        context: Context,
        sampler: Sampler,
        stop_ids: frozenset[int],
        prompt: Iterable[int] | None = None,
        logprobs: int | None = None,
    ) -> None:
        self._logprobs = logprobs
        self._engine, self._context, self._sampler, self._stop_ids = engine, context, sampler, stop_ids
        self._lookup, self._pace = (None if prompt is None else Lookup(prompt)), Pace()
        self._chosen: deque[Chosen] = deque()
        self.drafted = self.held = self.forced = 0

    @property
    def position(self) -> int:
        """Tokens before the one that was given last."""
        return self._context.cache.position - len(self._chosen)

    def choose(self, logits: Floats) -> Chosen:
        """float32 [vocabulary] -> the token that follows"""
        return self._scored(logits, self._sampler(logits))

    def after(self, token_id: int, room: int) -> Chosen:
        """The token after this one, the last that was given; at most ``room`` tokens will be asked for."""
        if self._lookup is not None:
            self._lookup.see(token_id)
        if not self._chosen:
            self._step(token_id, room)
        return self._chosen.popleft()

    def _step(self, token_id: int, room: int) -> None:
        began = time.perf_counter()
        if forced := self._sampler.forced(min(room - 1, MOST_FORCED)):
            self._go_on(token_id, forced)
            return
        most = 0 if self._lookup is None else min(self._pace.most(), room - 1)
        draft = [] if self._lookup is None or most < 1 else self._lookup.draft(most)
        fed = [token_id, *draft]
        first = self._context.cache.position
        logits = self._logits(fed, len(fed))
        held = 0
        try:
            for row, follows in zip(logits, [*draft, None], strict=True):
                self._chosen.append(self.choose(row))
                if self._chosen[-1].token_id != follows or follows in self._stop_ids:
                    break
                held += 1
        finally:
            # Once: what a cache has forgotten does not come back.
            self._context.cache.position = first + 1 + held
            self._context.keys += fed[: 1 + held]
        self.drafted, self.held = self.drafted + len(draft), self.held + held
        self._pace.took(time.perf_counter() - began, len(draft), held)

    def _go_on(self, token_id: int, forced: list[int]) -> None:
        """Give tokens that have to follow, and the one behind them; nothing is asked for behind a stop token."""
        self.forced += len(forced)
        ends = forced[-1] in self._stop_ids
        if ends and self._logprobs is None:
            self._chosen.extend(map(Chosen, forced))
            return
        fed = [token_id, *(forced[:-1] if ends else forced)]
        logits = self._logits(fed, 1 if self._logprobs is None else len(fed))
        self._context.keys += fed
        known: Iterable[Chosen] = map(Chosen, forced)
        self._chosen.extend(known if self._logprobs is None else map(self._scored, logits[: len(forced)], forced))
        if not ends:
            self._chosen.append(self.choose(logits[-1]))

    def _logits(self, fed: list[int], keep: int) -> Floats:
        """float32 [keep, vocabulary] behind the last of some tokens, which are in the cache then"""
        embeddings = self._engine.embed(np.array(fed, np.int64))
        return self._context.step(self._engine, embeddings, keep, self._context.positions(len(fed)))

    def _scored(self, logits: Floats, token_id: int) -> Chosen:
        return Chosen(token_id, None if self._logprobs is None else scores(logits, token_id, self._logprobs))
