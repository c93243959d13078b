"""The tokens of an answer, a step each, or several in one step where a draft of them holds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from pocketvlm.runtime.constraints import MOST_FORCED
from pocketvlm.runtime.lookup import Lookup, Pace
from pocketvlm.runtime.sampling import Sampler

if TYPE_CHECKING:
    from pocketvlm.runtime.context import Context
    from pocketvlm.runtime.engines import Engine


class Decoding:
    """Chooses token after token. What is in the context is always what was computed of tokens that were chosen.

    ``prompt``: its tokens, those of pictures negative, where drafts are looked up in them; None: no drafts.
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
    ) -> None:
        self._engine, self._context, self._sampler, self._stop_ids = engine, context, sampler, stop_ids
        self._lookup, self._pace = (None if prompt is None else Lookup(prompt)), Pace()
        self._chosen: deque[int] = deque()
        self.drafted = self.held = self.forced = 0

    @property
    def position(self) -> int:
        """Tokens before the one that was given last."""
        return self._context.cache.position - len(self._chosen)

    def after(self, token_id: int, room: int) -> int:
        """The token after this one, the last that was given; at most ``room`` tokens will be asked for."""
        if self._lookup is not None:
            self._lookup.see(token_id)
        if not self._chosen:
            self._step(token_id, room)
        return self._chosen.popleft()

    def _step(self, token_id: int, room: int) -> None:
        began = time.perf_counter()
        forced = self._sampler.forced(min(room - 1, MOST_FORCED))
        self.forced += len(forced)
        self._chosen.extend(forced)
        if forced and forced[-1] in self._stop_ids:
            return  # nothing is asked for behind it
        most = 0 if self._lookup is None else min(self._pace.most(), room - 1)
        draft = [] if self._lookup is None or most < 1 or forced else self._lookup.draft(most)
        fed = [token_id, *forced, *draft]
        first = self._context.cache.position
        embeddings = self._engine.embed(np.array(fed, np.int64))
        logits = self._context.step(self._engine, embeddings, 1 + len(draft), self._context.positions(len(fed)))
        held = 0
        try:
            for row, follows in zip(logits, [*draft, None], strict=True):
                self._chosen.append(self._sampler(row))
                if self._chosen[-1] != follows or follows in self._stop_ids:
                    break
                held += 1
        finally:
            # Once: what a cache has forgotten does not come back.
            self._context.cache.position = first + 1 + len(forced) + held
            self._context.keys += fed[: 1 + len(forced) + held]
        self.drafted, self.held = self.drafted + len(draft), self.held + held
        if not forced:
            self._pace.took(time.perf_counter() - began, len(draft), held)
