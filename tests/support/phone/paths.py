"""Paths of the phone, as the computer that holds its files sees them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol

MOST_LINKS = 40  # as Linux


class Locate(Protocol):
    """Where a path of the phone is here; ``follow``: where its last part leads, if that is a link.

    Raises:
        OSError: its links lead nowhere.
    """

    def __call__(self, path: str, *, follow: bool = True) -> Path: ...


def resolve(root: Path, path: str, *, follow: bool = True) -> Path:
    """Where an absolute path of a file system is that lies in ``root``. Its links lead within it, never out of it.

    Raises:
        OSError: its links lead in a circle.
        ValueError: it has a null byte.
    """
    if "\0" in path:
        raise ValueError("a path has a null byte")
    done: list[str] = []
    left, links = path.split("/")[::-1], 0
    while left:
        part = left.pop()
        if part == "..":
            del done[-1:]
        if part in ("", ".", ".."):
            continue
        here = root.joinpath(*done, part)
        if not here.is_symlink() or not (follow or any(left)):
            done.append(part)
            continue
        links += 1
        if links > MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = str(here.readlink())
        if target.startswith("/"):
            done.clear()
        left += target.split("/")[::-1]
    return root.joinpath(*done)
