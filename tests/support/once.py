"""What the workers of one test run share: the first that asks makes it, the others wait for it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

#: The same in all workers of a run, and in no other run.
RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"process {os.getpid()}")


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Nobody else who asks for this lock is in such a block; it goes with the process that holds it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def once(directory: Path, make: Callable[[Path], object]) -> Path:
    """A directory that ``make`` fills, once a run; what is left of one that failed is removed first."""
    made = directory.with_name(f"{directory.name}.made")
    with alone(directory.with_name(f"{directory.name}.lock")):
        if not made.exists():
            shutil.rmtree(directory, ignore_errors=True)
            make(directory)
            made.touch()
    return directory
