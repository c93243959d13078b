"""Ending an answer before its end: from another thread, or when its time is over."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocketvlm.runtime.sampling import GenerationConfig
    from pocketvlm.runtime.stats import FinishReason

#: How often somebody who waits for an image looks whether the answer is still wanted, in seconds.
LOOK_EVERY = 0.02


@dataclass(frozen=True)
class Interrupt:
    """Asked between two steps of the decoder, so that an answer ends within one token or one chunk of the prompt."""

    until: float = math.inf
    """time.perf_counter() at which the answer ends"""
    cancelled: threading.Event = field(default_factory=threading.Event)

    @staticmethod
    def of(config: GenerationConfig, since: float) -> Interrupt:
        """``since``: time.perf_counter() when the question came."""
        return Interrupt(math.inf if config.max_seconds is None else since + config.max_seconds)

    def reason(self) -> FinishReason | None:
        """Why the answer ends now, if it does."""
        if self.cancelled.is_set():
            return "cancelled"
        return "deadline" if time.perf_counter() >= self.until else None

    def wait_for(self, future: Future[Any]) -> FinishReason | None:
        """Wait until ``future`` is done, or the answer has to end; why it has to."""
        # wait() alone does not notice a future that was cancelled
        while self.reason() is None and not future.done():
            wait([future], timeout=LOOK_EVERY)
        return self.reason()
