"""adb's wire protocol, the device's side: packets on a TCP connection, and streams within it.

As in AOSP's packages/modules/adb/protocol.txt. A packet is a header of six little-endian words (command, two arguments,
bytes of data, checksum, the command's complement) and its data. A stream may have one unacknowledged WRTE on its way.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import struct
from collections.abc import Awaitable, Callable

HEADER = struct.Struct("<6I")
VERSION, MOST_DATA = 0x01000001, 1 << 20
COMMANDS = {name: int.from_bytes(name.encode(), "little") for name in ("CNXN", "AUTH", "OPEN", "OKAY", "CLSE", "WRTE")}
NAMES = {number: name for name, number in COMMANDS.items()}
WORD = (1 << 32) - 1
#: What adb may use of the device: the second shell protocol, and the second stat and list of the sync service.
FEATURES = "shell_v2,cmd,stat_v2,ls_v2,fixed_push_mkdir"
#: First arguments of AUTH: what is to be signed, from the device; a signature and the key itself, from the host.
TOKEN, SIGNATURE, PUBLIC_KEY = 1, 2, 3
TOKEN_BYTES = 20


class ClosedError(Exception):
    """The other side has closed the stream, or the connection is gone."""


def packet(command: str, first: int, second: int, data: bytes = b"", *, checked: bool = False) -> bytes:
    """The bytes of a packet; ``checked``: with the checksum that peers before version 0x01000001 want."""
    number = COMMANDS[command]
    return HEADER.pack(number, first, second, len(data), sum(data) & WORD if checked else 0, number ^ WORD) + data


async def read_packet(reader: asyncio.StreamReader) -> tuple[str, int, int, bytes] | None:
    """The next packet; None where it is none of this protocol, or too large.

    Raises:
        IncompleteReadError: the connection ended.
    """
    number, first, second, size, _, magic = HEADER.unpack(await reader.readexactly(HEADER.size))
    if number not in NAMES or magic != number ^ WORD or size > MOST_DATA:
        return None
    return NAMES[number], first, second, await reader.readexactly(size)


class Stream:
    """One service's way to the host and back."""

    def __init__(self, connection: Connection, local: int, remote: int) -> None:
        self.local, self.remote = local, remote
        self._connection = connection
        self._buffer = bytearray()
        self._incoming: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._may_write = asyncio.Semaphore(1)
        self._closed = False

    async def read_some(self) -> bytes:
        """What came next; empty at the end."""
        if self._buffer:
            taken = bytes(self._buffer)
            self._buffer.clear()
            return taken
        data = None if self._closed and self._incoming.empty() else await self._incoming.get()
        if data is None:
            self._closed = True
            return b""
        # Acknowledged when it is taken, not when it arrives: so a slow service slows the host down.
        self._connection.send("OKAY", self.local, self.remote)
        return data

    async def read(self, size: int) -> bytes:
        """So many bytes.

        Raises:
            ClosedError: the stream ended before.
        """
        while len(self._buffer) < size:
            kept = bytes(self._buffer)
            self._buffer.clear()
            data = await self.read_some()
            self._buffer += kept + data
            if not data:
                raise ClosedError
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def write(self, data: bytes) -> None:
        """
        Raises:
            ClosedError: the host has closed the stream.
        """
        for first in range(0, len(data), self._connection.most_data):
            await self._may_write.acquire()
            if self._closed:
                self._may_write.release()  # of several writers the next one hears of it too
                raise ClosedError
            await self._connection.write(
                packet("WRTE", self.local, self.remote, data[first : first + self._connection.most_data])
            )

    def receive(self, data: bytes) -> None:
        self._incoming.put_nowait(data)

    def acknowledged(self) -> None:
        self._may_write.release()

    def end(self) -> None:
        self._closed = True
        self._incoming.put_nowait(None)
        self._may_write.release()


Service = Callable[[Stream], Awaitable[None]]
FindService = Callable[[str], "Service | None"]


class Connection:
    """One host's connection, from its banner until either side hangs up. ``properties`` go into the banner.

    Unless it is ``allowed`` from the start, no signature is accepted, and the host waits behind its key for ``allow``.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        find: FindService,
        properties: str,
        *,
        allowed: bool = True,
    ) -> None:
        self.most_data = 4096
        self._reader, self._writer, self._find, self._properties = reader, writer, find, properties
        self._allowed, self._greeted = allowed, False
        self._streams: dict[int, Stream] = {}
        self._ids = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, command: str, first: int, second: int, data: bytes = b"") -> None:
        self._writer.write(packet(command, first, second, data, checked=command == "CNXN"))

    async def write(self, raw: bytes) -> None:
        self._writer.write(raw)
        await self._writer.drain()

    async def run(self) -> None:
        """Serve it to its end, and end all that runs for it."""
        try:
            while (found := await read_packet(self._reader)) is not None:
                self._handle(*found)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            for stream in self._streams.values():
                stream.end()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._writer.close()

    def drop(self) -> None:
        """Pull the cable."""
        self._writer.transport.abort()

    def allow(self) -> None:
        """What a person's tap does: the host is let in, and may use services from now on."""
        if self._allowed:
            return
        self._allowed = True
        if self._greeted:
            self._let_in()

    def _let_in(self) -> None:
        self.send("CNXN", VERSION, MOST_DATA, f"device::{self._properties};features={FEATURES}".encode())

    def _ask(self) -> None:
        self.send("AUTH", TOKEN, 0, os.urandom(TOKEN_BYTES))

    def _handle(self, command: str, first: int, second: int, data: bytes) -> None:
        if command == "CNXN":
            self.most_data, self._greeted = min(second, MOST_DATA), True
            if self._allowed:
                self._let_in()
            else:
                self._ask()
        elif command == "AUTH":
            if not self._allowed and first == SIGNATURE:
                self._ask()  # and behind the host's last signature comes its key
        elif not self._allowed:
            return  # as adbd: nothing is served before
        elif command == "OPEN":
            self._open(first, data.rstrip(b"\0").decode("utf-8", "replace"))
        elif command in ("OKAY", "WRTE", "CLSE"):
            self._pass_on(command, first, second, data)

    def _open(self, remote: int, name: str) -> None:
        service = self._find(name)
        if service is None:
            self.send("CLSE", 0, remote)
            return
        stream = Stream(self, next(self._ids), remote)
        self._streams[stream.local] = stream
        self.send("OKAY", stream.local, remote)
        task = asyncio.ensure_future(self._serve(service, stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _pass_on(self, command: str, remote: int, local: int, data: bytes) -> None:
        stream = self._streams.get(local)
        if stream is None:
            if command == "WRTE":
                self.send("CLSE", 0, remote)
        elif command == "OKAY":
            stream.acknowledged()
        elif command == "WRTE":
            stream.receive(data)
        else:
            stream.end()
            del self._streams[local]
            self.send("CLSE", local, remote)  # as adbd does: without it adb waits

    async def _serve(self, service: Service, stream: Stream) -> None:
        try:
            await service(stream)
        except (ClosedError, ConnectionError):
            pass
        finally:
            if self._streams.pop(stream.local, None) is not None:
                self.send("CLSE", stream.local, stream.remote)
