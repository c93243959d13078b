"""Where what is made once on a machine is kept: a directory that is this user's alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pocketvlm.errors import PocketVlmError, one_line


def private_cache(name: str) -> Path:
    """The user's cache directory (XDG's, else ~/.cache), pocketvlm's and ``name`` in it, made where they are missing.

    Nobody else can write to what is returned, nor put something in its place: code may be loaded from it.

    :raises PocketVlmError: there is no such place
    """
    said = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # XDG's specification: a path that is not absolute is ignored.
        base = said if said.is_absolute() else Path.home() / ".cache"
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check(base, sticky_is_enough=True)
        directory = base
        for part in ("pocketvlm", name):
            directory /= part
            directory.mkdir(mode=0o700, exist_ok=True)
            _check(directory)
    except (OSError, RuntimeError) as error:  # the latter where nobody knows a home
        reason = one_line((isinstance(error, OSError) and error.strerror) or error, 80)
        raise PocketVlmError(f"there is no cache directory ({reason}): set XDG_CACHE_HOME to one of yours") from error
    return directory


def _check(directory: Path, *, sticky_is_enough: bool = False) -> None:
    """Refuse a link, somebody else's directory, and one that others may write to.

    ``sticky_is_enough``: they may where nobody can rename what is another's, as in /tmp; root's will do then, too.
    """
    found = directory.stat() if sticky_is_enough else directory.lstat()
    owners = {os.geteuid(), 0} if sticky_is_enough else {os.geteuid()}
    shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not (sticky_is_enough and found.st_mode & stat.S_ISVTX)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners or shared:
        raise PocketVlmError(
            f"{one_line(directory, 120)} is not a directory of this user's alone: set XDG_CACHE_HOME to one that is"
        )
