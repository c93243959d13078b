"""One thread that has the model, and the queue before it: bounded, and left at once by whoever hangs up."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pocketvlm.errors import PocketVlmError
from pocketvlm.serve.errors import RequestError

if TYPE_CHECKING:
    from pocketvlm.bundle.tools import ToolCall
    from pocketvlm.runtime.generation import Answer
    from pocketvlm.runtime.stats import Stats
    from pocketvlm.serve.forms import TokenLogprob
    from pocketvlm.serve.schema import ChatRequest

LOG = logging.getLogger(__name__)
#: Of the mean time of an answer, which Retry-After is made of: the weight of the newest.
NEWEST = 0.2


@dataclass(frozen=True)
class Began:
    """The request is good, and its answer comes next; ``seed`` is that of its random numbers."""

    seed: int


@dataclass(frozen=True)
class Said:
    """A piece of an answer: its text, and of its token what ``logprobs`` asks for, in OpenAI's form."""

    text: str
    scores: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Ended:
    """An answer came to its end, whatever the reason; the tools that it calls."""

    stats: Stats
    calls: tuple[ToolCall, ...] = ()


#: What a request is told, in this order: that its answer begins, its pieces, its end. Or, last of all, what went wrong.
Event = RequestError | Began | Ended | Said


@dataclass(eq=False)
class Ticket:
    """A request on its way through the queue: the worker tells, the one who asked listens, either may end it.

    ``fetched``: pictures of other hosts, by their URLs.
    """

    request: ChatRequest
    loop: asyncio.AbstractEventLoop
    fetched: Mapping[str, bytes] = field(default_factory=dict)
    since: float = field(default_factory=time.perf_counter)
    _events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    _given_up: threading.Event = field(default_factory=threading.Event)
    _answer: Answer | None = None

    @property
    def given_up(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._given_up.is_set()

    def tell(self, event: Event) -> None:
        """From the worker's thread. A loop that is closed listens no more."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def listen(self) -> Event:
        """The next event."""
        return await self._events.get()

    def begin(self, answer: Answer) -> None:
        """The answer that ``give_up`` ends."""
        self._answer = answer
        if self.given_up:
            answer.cancel()

    def give_up(self) -> None:
        """End the answer within a token; from any thread."""
        self._given_up.set()
        if (answer := self._answer) is not None:
            answer.cancel()


class Queue:
    """At most ``most`` tickets wait while one is answered. ``answer`` runs in the queue's thread and raises nothing
    that it need not."""

    def __init__(self, answer: Callable[[Ticket], Any], most: int) -> None:
        self._answer = answer
        self._most = most
        self._waiting: deque[Ticket] = deque()
        self._running: Ticket | None = None
        self._mean_s = 1.0
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that are answered now: 0 or 1."""
        return int(self._running is not None)

    def put(self, ticket: Ticket) -> None:
        """Let a request wait for its turn.

        :raises RequestError: too many wait already; its headers say after how many seconds there should be room
        """
        with self._changed:
            self.check_room()
            self._waiting.append(ticket)
            self._changed.notify()

    def check_room(self) -> None:
        """Before work is done for a request that would have no place; raises as ``put`` does."""
        if self._stopped:
            raise RequestError(503, "the server is being stopped", code="stopping")
        # One that is taken next does not wait.
        if len(self._waiting) + self.running > self._most:
            seconds = max(1, math.ceil(self._mean_s))
            what = f"{self.waiting} requests wait already: try again in {seconds} s"
            raise RequestError(429, what, code="queue_full", headers={"Retry-After": str(seconds)})

    def leave(self, ticket: Ticket) -> None:
        """Nobody wants this answer any more: its place is free at once, or its generation ends within a token."""
        ticket.give_up()
        with self._changed, suppress(ValueError):
            self._waiting.remove(ticket)

    def stop(self) -> None:
        """Refuse who waits, end the answer that is being generated, and wait for its end."""
        with self._changed:
            self._stopped = True
            for ticket in self._waiting:
                ticket.tell(RequestError(503, "the server is being stopped", code="stopping"))
            self._waiting.clear()
            if self._running is not None:
                self._running.give_up()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while (ticket := self._next()) is not None:
            start = time.perf_counter()
            try:
                self._answer(ticket)
            except RequestError as refusal:
                ticket.tell(refusal)
            except PocketVlmError as error:
                ticket.tell(RequestError(500, str(error), code="failed"))
            except MemoryError:
                ticket.tell(RequestError(500, "not enough memory for this answer", code="failed"))
            except Exception as error:  # one answer fails, and the server goes on
                LOG.exception("an answer failed")
                ticket.tell(RequestError(500, f"the answer failed ({type(error).__name__})", code="failed"))
            finally:
                with self._changed:
                    self._running = None
                    self._mean_s += NEWEST * (time.perf_counter() - start - self._mean_s)

    def _next(self) -> Ticket | None:
        """The ticket that waits longest, once there is one; None when the queue is stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            if self._stopped:
                return None
            self._running = self._waiting.popleft()
            return self._running
