"""adb's shell service: a command's output, what is typed to it, and what it hears when the host goes away.

As in AOSP's packages/modules/adb/daemon/shell_service.cpp, without a terminal. A command has one pair of sockets for
stdin and stdout, and with the second protocol another for stderr and its exit status as a packet.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Protocol

from tests.support.phone.wire import ClosedError, Stream

#: Packets of the second protocol: kind and size, then that much.
PACKET = struct.Struct("<BI")
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
BLOCK = 65536


class Watch(Protocol):
    """Who looks on, and lets things go wrong."""

    def prints(self, size: int) -> None:
        """A block of output is about to be sent."""


async def serve(
    stream: Stream, command: Sequence[str], environment: Mapping[str, str], *, second: bool, watch: Watch
) -> None:
    """Run a command line until it and all that have its output have ended, or the host has gone away."""
    pairs = [socket.socketpair() for _ in range(2 if second else 1)]
    theirs = [pair[1].fileno() for pair in pairs]
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdin=theirs[0], stdout=theirs[0], stderr=theirs[-1], start_new_session=True
    )
    for _, end in pairs:
        end.close()
    ours = [await asyncio.open_connection(sock=pair[0]) for pair in pairs]
    writers = [writer for _, writer in ours]
    typed = asyncio.ensure_future(_type(process, writers, stream, second=second))
    kinds = zip((STDOUT, STDERR), ours, strict=False)
    printers = [_print(kind, reader, stream, second=second, watch=watch) for kind, (reader, _) in kinds]
    try:
        await asyncio.gather(*printers)
        status = await process.wait()
        if second:
            await stream.write(PACKET.pack(EXIT, 1) + bytes([status & 0xFF if status >= 0 else 128 - status]))
    finally:
        typed.cancel()
        _hang_up(process, writers, second=second)


async def _print(kind: int, pipe: asyncio.StreamReader, stream: Stream, *, second: bool, watch: Watch) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await pipe.read(BLOCK):
            watch.prints(len(data))
            await stream.write(PACKET.pack(kind, len(data)) + data if second else data)


async def _type(
    process: asyncio.subprocess.Process, writers: Sequence[asyncio.StreamWriter], stream: Stream, *, second: bool
) -> None:
    """Pass on what the host types; hang up where it goes away."""
    stdin = writers[0]
    try:
        while True:
            if not second:
                data = await stream.read_some()
                if not data:
                    raise ClosedError
                stdin.write(data)
                continue
            kind, size = PACKET.unpack(await stream.read(PACKET.size))
            data = await stream.read(size)
            if kind == STDIN:
                stdin.write(data)
            elif kind == CLOSE_STDIN:
                stdin.write_eof()
    except (ClosedError, OSError):
        _hang_up(process, writers, second=second)


def _hang_up(process: asyncio.subprocess.Process, writers: Sequence[asyncio.StreamWriter], *, second: bool) -> None:
    """Output leads nowhere from now on. By the second protocol the shell is told so, and by neither what it started.

    By the first the host's stream is the command's own socket, which still has what was typed.
    """
    if second and process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGHUP)
    for writer in writers:
        if second:
            writer.transport.abort()
        else:
            writer.close()
