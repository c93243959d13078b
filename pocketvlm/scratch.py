"""Directories that a process works in: held by a lock that ends with it, so that the next one tells what is abandoned.

Process ids would not tell: they repeat in containers, and not every system lists them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """A new directory, held until it is removed after the block: nobody finds half of it abandoned."""
    while True:
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with held(directory, wait=True) as ours:
            if not ours:  # removed as abandoned in the instant before it was held
                continue
            try:
                yield directory
            finally:
                shutil.rmtree(directory, ignore_errors=True)
            return


def abandoned(parent: Path, pattern: str) -> Iterator[Path]:
    """The directories whose holder is gone, each held while it is looked at."""
    for directory in sorted(parent.glob(pattern)):
        with held(directory) as ours:
            if ours:
                yield directory


@contextmanager
def held(directory: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a directory. False where another process does, or where there is none (any more).

    Where the file system knows no locks, whoever waits for one holds it: what is there is never taken as abandoned.
    """
    import fcntl  # which Windows does not have

    try:
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield False
        return
    try:
        how = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
        yield _locked(lock, how, otherwise=wait) and _leads_to(directory, lock)
    finally:
        os.close(lock)


def _locked(descriptor: int, how: int, *, otherwise: bool) -> bool:
    import fcntl

    try:
        fcntl.flock(descriptor, how)
    except OSError:
        return otherwise
    return True


def _leads_to(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False
