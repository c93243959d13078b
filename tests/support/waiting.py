"""Waiting for a state instead of reading it once, and processes that no test leaves behind."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

#: What has to come at all comes in this time, on the busiest machine; only a test that fails waits so long.
SECONDS = 100.0
PAUSE = 0.02


def until(look: Callable[[], T], wanted: Callable[[T], Any] = bool, *, seconds: float = SECONDS) -> T:
    """Look again and again until what is seen is ``wanted`` (by default: anything true), and give it.

    :raises AssertionError: it has not come in time; the message says what was seen last
    """
    ends = time.monotonic() + seconds
    while True:
        over = time.monotonic() > ends  # before the look: the last one is behind the end
        seen = look()
        if wanted(seen):
            return seen
        assert not over, f"still not there after {seconds:.0f} s; seen last: {seen!r}"
        time.sleep(PAUSE)


def until_equal(look: Callable[[], T], wanted: T, *, seconds: float = SECONDS) -> None:
    """The same until exactly this is seen."""
    until(look, lambda seen: seen == wanted, seconds=seconds)


@contextlib.contextmanager
def ended(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """A process that is over when the block is left, whatever happened in there."""
    with process:
        try:
            yield process
        finally:
            process.kill()
