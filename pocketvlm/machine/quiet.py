"""What libraries of C++ write to the process' stderr, left out."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

#: Two threads that restored each other's stderr would leave the process without one.
_SWITCHING = threading.RLock()


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Nothing comes out on file descriptor 2 meanwhile, whatever Python has as its stderr, from any thread."""
    with _SWITCHING:
        saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(nowhere)


@cache
def silent_exit() -> None:
    """For libraries that take their leave on stderr: nothing comes out there once Python is through with its own."""
    atexit.register(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))
