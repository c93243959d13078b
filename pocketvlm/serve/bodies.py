"""Bodies of requests, and pictures that they name, bounded before memory is taken: each one, all that are there at
once, and the time they take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from pocketvlm.serve.errors import RequestError

if TYPE_CHECKING:
    from starlette.requests import Request

#: Bodies of the largest size that may be in memory at once.
AT_ONCE = 4
#: Seconds that a body may take in all, and that may pass without any of it.
WHOLE_S, PAUSE_S = 120.0, 15.0


@dataclass
class Bodies:
    """How many bytes of bodies are in memory, ``most`` of one. Used by the event loop's thread alone."""

    most: int
    held: int = 0

    @contextmanager
    def holding(self) -> Iterator[Held]:
        """Bodies read inside the block count until its end."""
        held = Held(self)
        try:
            yield held
        finally:
            self.held -= held.size


@dataclass
class Held:
    """What one request holds: its body, and what was fetched for it."""

    bodies: Bodies
    size: int = 0

    async def read(self, request: Request) -> bytes:
        """A request's body.

        :raises RequestError: it is too large, there is no room beside the others now, or it comes too slowly
        """
        most = self.bodies.most
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > most:
            raise _too_large(most)
        body = bytearray()
        try:
            with anyio.fail_after(WHOLE_S):
                stream = aiter(request.stream())
                while True:
                    with anyio.fail_after(PAUSE_S):
                        part = await anext(stream, None)
                    if part is None:
                        return bytes(body)
                    self.take(len(part))
                    body += part
        except TimeoutError:
            raise RequestError(408, "the request's body came too slowly", code="timeout") from None

    def take(self, count: int) -> None:
        """Count bytes before they are kept.

        :raises RequestError: they are too many for one request, or beside the others now
        """
        if self.size + count > self.bodies.most:
            raise _too_large(self.bodies.most)
        if self.bodies.held + count > AT_ONCE * self.bodies.most:
            what = "too many large requests at once: try again"
            raise RequestError(429, what, code="too_many_bytes", headers={"Retry-After": "1"})
        self.size += count
        self.bodies.held += count


def _too_large(most: int) -> RequestError:
    what = (
        f"the request is larger than {most} bytes, its images included: take smaller ones, or start the server with "
        "--max-body-mb"
    )
    return RequestError(413, what, code="too_large")
