"""Files read with a bound and written whole: one way of each, and how a file is named in an error's line."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from pocketvlm.errors import PocketVlmError, one_line

BOM = b"\xef\xbb\xbf"
#: Begins a file that was cloned without its content.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
#: Where regular files block or never end: the kernel makes them while they are read.
KERNEL_FILES = (Path("/proc"), Path("/sys"))
#: Begins, behind a dot and the name of what is written, the name under which it is written.
PARTIAL = ".partial-"
#: Of Linux's <fcntl.h> and <linux/fs.h>: paths are relative to the current directory; both names change places.
AT_FDCWD, RENAME_EXCHANGE = -100, 2


def label(path: str | Path, number: int | None = None) -> str:
    """A file, and a line of it, for an error's line."""
    name = one_line(path, 120)
    return name if number is None else f"{name}, line {number}"


def reason(error: Exception) -> str:
    """Why a file could not be read or written, in the system's words where it has any."""
    return one_line((isinstance(error, OSError) and error.strerror) or error, 80)


@cache
def _kernel_devices() -> frozenset[int]:
    return frozenset(root.stat().st_dev for root in KERNEL_FILES if root.is_dir())


def found(test: Callable[[], bool]) -> bool:
    """What a path is; a name that no file can have, or that may not be looked at, is nothing."""
    try:
        return test()
    except (OSError, ValueError):
        return False


def check_no_pointer(path: Path, start: bytes, kind: type[PocketVlmError] = PocketVlmError) -> None:
    """A file whose content begins so has one.

    :raises PocketVlmError: of ``kind``: Git left a pointer in its place
    """
    if start.startswith(LFS_POINTER):
        raise kind(f"{label(path)}: is a Git LFS pointer without the file's content: git lfs pull fetches it")


@contextmanager
def readable(path: Path, kind: type[PocketVlmError] = PocketVlmError) -> Iterator[None]:
    """Reads ``path`` inside the block, which begins when it is a regular file: a pipe would block, a device never end.

    :raises PocketVlmError: of ``kind``: it is none, is one of the kernel's, or cannot be read
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_dev in _kernel_devices():
            raise kind(f"{label(path)}: is not a regular file")
        yield
    except (OSError, ValueError) as error:
        raise kind(f"{label(path)}: cannot be read ({reason(error)})") from error


def read_bounded(path: Path, most: int, kind: type[PocketVlmError] = PocketVlmError) -> bytes:
    """A file of at most ``most`` bytes.

    :raises PocketVlmError: of ``kind``: it is larger, no regular file, or cannot be read
    """
    with readable(path, kind), path.open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise kind(f"{label(path)}: more than the {most} bytes that are read")
    check_no_pointer(path, content, kind)
    return content


def read_text(path: Path, most: int, kind: type[PocketVlmError] = PocketVlmError) -> str:
    """A text of at most ``most`` bytes, without a byte order mark.

    :raises PocketVlmError: of ``kind``: also when it is not UTF-8
    """
    try:
        return read_bounded(path, most, kind).removeprefix(BOM).decode()
    except UnicodeDecodeError as error:
        raise kind(f"{label(path)}: is not UTF-8 ({error.reason} at byte {error.start})") from error


def exchange(one: Path, other: Path) -> bool:
    """Let two files or directories of one file system change places in one step; False where the system cannot.

    Linux's renameat2(2) with RENAME_EXCHANGE.

    :raises OSError: one of them is not there, or may not be moved
    """
    import ctypes

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):  # an old kernel, or a file system without it
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write a file at, which takes its place when the block ends well.

    A failure leaves what stood there, and links stay links.
    """
    target = path.resolve()
    # The process's number tells what a killed one left behind.
    partial = target.with_name(f".{target.name}{PARTIAL}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes, kind: type[PocketVlmError] = PocketVlmError) -> None:
    """Write a file that appears when it is complete, and is on the disk then.

    :raises PocketVlmError: of ``kind``: it cannot be written
    """
    try:
        with written_whole(path) as partial, partial.open("xb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
    except (OSError, RuntimeError) as error:  # before Python 3.13 links that lead to each other are the latter
        raise kind(f"{label(path)}: cannot be written ({reason(error)})") from error


def check_writable(path: Path, kind: type[PocketVlmError] = PocketVlmError) -> None:
    """Before hours of work: whether a file can be written there.

    :raises PocketVlmError: of ``kind``: it cannot
    """
    try:
        target = path.resolve()
    except (OSError, RuntimeError) as error:
        raise kind(f"{label(path)}: cannot be followed ({reason(error)})") from error
    if target.exists() and not target.is_file():
        raise kind(f"{label(path)}: is not a regular file, which could be replaced")
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise kind(f"{label(path)}: its directory does not exist or cannot be written to")
