"""adb's file service: stat, list, push and pull, in both versions of each.

As in AOSP's packages/modules/adb/file_sync_protocol.h. A request is four letters and the size of a path, and the path;
the second versions of send and receive add a mode and flags. Files come and go as DATA of at most 64 KiB and a DONE.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.support.phone.paths import Locate
from tests.support.phone.wire import Stream

REQUEST = struct.Struct("<4sI")
#: Behind the path of SND2: its name again, mode, flags; of RCV2: its name again, flags.
SEND_V2, RECEIVE_V2 = struct.Struct("<4sII"), struct.Struct("<4sI")
STAT_V1, STAT_V2 = struct.Struct("<4sIII"), struct.Struct("<4sIQQIIIIQqqq")
DIRENT_V1 = struct.Struct("<4sIIII")
MOST_CHUNK, MOST_PATH = 65536, 1024
#: Flags of SND2 and RCV2: compression, which is not among the features.
COMPRESSED = 7
WORD = (1 << 32) - 1


class Watch(Protocol):
    """Who looks on, and lets things go wrong."""

    def pushes(self, path: str, size: int) -> str | None:
        """A chunk of a push is here; an error refuses it and all that follow."""

    def arrived(self, path: Path) -> None:
        """A file was pushed whole."""

    def pulls(self, size: int) -> None:
        """A chunk of a pull is about to be sent."""

    def endless(self) -> bool:
        """Whether a pull's file begins again at its end."""


async def serve(stream: Stream, locate: Locate, watch: Watch) -> None:
    """Answer requests until QUIT, or until something goes wrong with one.

    Raises:
        ClosedError: the host has gone away.
    """
    while True:
        kind, size = REQUEST.unpack(await stream.read(REQUEST.size))
        if kind == b"QUIT":
            return
        if size > MOST_PATH:
            await _fail(stream, "path too long")
            return
        path = (await stream.read(size)).decode("utf-8", "surrogateescape")
        if "\0" in path:
            await _fail(stream, "path with a null byte")
            return
        if kind in (b"STAT", b"STA2", b"LST2"):
            await stream.write(_stat(kind, path, locate))
        elif kind in (b"LIST", b"LIS2"):
            await stream.write(_listing(kind, path, locate))
        elif kind in (b"SEND", b"SND2"):
            await _receive_file(stream, kind, path, locate, watch)
        elif kind in (b"RECV", b"RCV2"):
            await _send_file(stream, kind, path, locate, watch)
        else:
            await _fail(stream, f"unknown command {kind!r}")
            return


def _stat(kind: bytes, path: str, locate: Locate) -> bytes:
    error, found = 0, None
    try:
        found = locate(path, follow=kind == b"STA2").lstat()
    except OSError as caught:
        error = caught.errno or errno.EIO
    if kind == b"STAT":
        mode, size, time = (found.st_mode, found.st_size & WORD, int(found.st_mtime)) if found else (0, 0, 0)
        return STAT_V1.pack(kind, mode, size, time)
    return _stat_v2(kind, error, found)


def _stat_v2(kind: bytes, error: int, found: os.stat_result | None) -> bytes:
    if found is None:
        return STAT_V2.pack(kind, error, *[0] * 10)
    times = (int(found.st_atime), int(found.st_mtime), int(found.st_ctime))
    who = (found.st_mode, found.st_nlink, found.st_uid, found.st_gid)
    return STAT_V2.pack(kind, 0, found.st_dev, found.st_ino, *who, found.st_size, *times)


def _listing(kind: bytes, path: str, locate: Locate) -> bytes:
    entries, found = [], b""
    with contextlib.suppress(OSError):
        entries = sorted(locate(path).iterdir())
    for entry in entries:
        name, status = os.fsencode(entry.name), entry.lstat()
        if kind == b"LIS2":
            found += _stat_v2(b"DNT2", 0, status) + struct.pack("<I", len(name)) + name
        else:
            size = status.st_size & WORD
            found += DIRENT_V1.pack(b"DENT", status.st_mode, size, int(status.st_mtime), len(name)) + name
    return found + b"DONE" + bytes(STAT_V2.size if kind == b"LIS2" else DIRENT_V1.size - 4)


async def _receive_file(stream: Stream, kind: bytes, said: str, locate: Locate, watch: Watch) -> None:
    """A push: into a file beside, renamed when all is there, as adbd's file appears whole or not at all here."""
    name, mode, flags = said, 0, 0
    if kind == b"SND2":
        _, mode, flags = SEND_V2.unpack(await stream.read(SEND_V2.size))
    else:
        name, _, digits = said.rpartition(",")
        mode = int(digits) if digits.isdecimal() and len(digits) < 10 else -1
    if mode < 0 or flags & COMPRESSED:
        await _fail(stream, "compression is not supported" if flags else "bad mode")
        return
    target, error = _target(name, locate)
    if target is None:
        await _receive_data(stream, len, name, error, watch)  # adbd too takes what comes, and adb hears of it behind
        await _fail(stream, error or "")
        return
    partial = _beside(target)
    try:
        with partial.open("wb") as file:
            modified, error = await _receive_data(stream, file.write, name, None, watch)
        if error is not None:
            await _fail(stream, error)
            return
        partial.chmod((mode >> 6 & 7) * 0o111)  # as adbd: the owner's rights, for all
        os.utime(partial, (modified, modified))
        partial.replace(target)
        watch.arrived(target)
        await stream.write(b"OKAY" + bytes(4))
    finally:
        partial.unlink(missing_ok=True)


def _beside(target: Path) -> Path:
    return target.with_name(f"{target.name}.pushing")


def _target(name: str, locate: Locate) -> tuple[Path | None, str | None]:
    """Where a push goes, its folder and the file beside it made; or what is wrong with that."""
    try:
        target = locate(name, follow=False)  # a link there is replaced
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.is_dir() or target.is_symlink():
            _beside(target).touch()
            return target, None
        why = errno.EISDIR
    except FileExistsError:
        why = errno.ENOTDIR
    except OSError as caught:
        why = caught.errno or errno.EIO
    return None, f"couldn't create file: {os.strerror(why)}"


async def _receive_data(
    stream: Stream, write: Callable[[bytes], int], name: str, error: str | None, watch: Watch
) -> tuple[int, str | None]:
    """All data up to DONE: its time of modification, and what went wrong; adb hears of that at the end."""
    while True:
        kind, size = REQUEST.unpack(await stream.read(REQUEST.size))
        if kind == b"DONE":
            return size, error
        if kind != b"DATA" or size > MOST_CHUNK:
            return 0, error or "not a chunk of data"
        data = await stream.read(size)
        error = error or watch.pushes(name, size)
        if error is None:
            write(data)


async def _send_file(stream: Stream, kind: bytes, path: str, locate: Locate, watch: Watch) -> None:
    """A pull."""
    if kind == b"RCV2":
        _, flags = RECEIVE_V2.unpack(await stream.read(RECEIVE_V2.size))
        if flags & COMPRESSED:
            await _fail(stream, "compression is not supported")
            return
    try:
        with locate(path).open("rb") as file:
            while data := file.read(MOST_CHUNK) or (watch.endless() and bytes(MOST_CHUNK)):
                watch.pulls(len(data))
                await stream.write(b"DATA" + struct.pack("<I", len(data)) + data)
    except OSError as error:
        await _fail(stream, f"{path}: {os.strerror(error.errno or errno.EIO)}")
        return
    await stream.write(b"DONE" + bytes(4))


async def _fail(stream: Stream, message: str) -> None:
    raw = message.encode()
    await stream.write(b"FAIL" + struct.pack("<I", len(raw)) + raw)
