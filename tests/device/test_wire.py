"""adb's packets, byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hypothesis import given
from hypothesis import strategies as st

from tests.support.phone.wire import (
    COMMANDS,
    HEADER,
    MOST_DATA,
    PUBLIC_KEY,
    SIGNATURE,
    TOKEN,
    TOKEN_BYTES,
    VERSION,
    ClosedError,
    Connection,
    Service,
    Stream,
    packet,
    read_packet,
)
from tests.support.waiting import SECONDS

words = st.integers(0, (1 << 32) - 1)


def read(raw: bytes) -> tuple[str, int, int, bytes] | None:
    async def parse() -> tuple[str, int, int, bytes] | None:
        reader = asyncio.StreamReader()
        reader.feed_data(raw)
        reader.feed_eof()
        return await read_packet(reader)

    return asyncio.run(parse())


def test_a_banner_as_adb_sends_it() -> None:
    """Recorded from adb 36: CNXN, protocol 0x01000001, 1 MiB, with the checksum of its old versions."""
    raw = bytes.fromhex("434e584e 01000001 00001000 07000000 32020000 bcb1a7b1") + b"host::\0"
    assert read(raw) == ("CNXN", 0x01000001, MOST_DATA, b"host::\0")
    assert packet("CNXN", 0x01000001, MOST_DATA, b"host::\0", checked=True) == raw


@given(st.sampled_from(sorted(COMMANDS)), words, words, st.binary(max_size=2000))
def test_packets_come_back(command: str, first: int, second: int, data: bytes) -> None:
    assert read(packet(command, first, second, data)) == (command, first, second, data)


@given(st.binary(min_size=HEADER.size, max_size=HEADER.size))
def test_other_bytes_are_no_packet(raw: bytes) -> None:
    number, *_, magic = HEADER.unpack(raw)
    if number not in COMMANDS.values() or magic != number ^ 0xFFFFFFFF:
        assert read(raw) is None


class Host:
    """A host's side of a connection: what it sends, and the packets that come back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, *sent: bytes) -> tuple[str, int, int, bytes] | None:
        for one in sent:
            self._writer.write(one)
        return await asyncio.wait_for(read_packet(self._reader), SECONDS)

    async def nothing(self, *sent: bytes) -> bool:
        """Whether nothing comes for a moment."""
        try:
            await asyncio.wait_for(self.ask(*sent), 0.1)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def connected(service: Service, *, allowed: bool = True) -> AsyncIterator[tuple[Host, Connection]]:
    """A host and the device's end, which serves this by any name."""
    made: list[Connection] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.append(Connection(reader, writer, lambda name: service, "p=1", allowed=allowed))
        await made[0].run()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    host = Host(*await asyncio.open_connection(*server.sockets[0].getsockname()))
    while not made:
        await asyncio.sleep(0)
    try:
        yield host, made[0]
    finally:
        host.close()
        server.close()


GREETING = packet("CNXN", VERSION, MOST_DATA, b"host::")


def test_a_host_that_is_not_allowed_waits_for_a_tap() -> None:
    """Each signature is answered by another token, the key by nothing, a service by nothing."""

    async def served(stream: Stream) -> None:
        raise AssertionError

    async def talk() -> None:
        async with connected(served, allowed=False) as (host, device):
            for sent in (GREETING, packet("AUTH", SIGNATURE, 0, bytes(256)), packet("AUTH", SIGNATURE, 0, bytes(256))):
                said = await host.ask(sent)
                assert said is not None
                assert (said[0], said[1], len(said[3])) == ("AUTH", TOKEN, TOKEN_BYTES)
            assert await host.nothing(packet("AUTH", PUBLIC_KEY, 0, b"key\0"), packet("OPEN", 1, 0, b"shell:id\0"))
            device.allow()
            device.allow()
            said = await host.ask()
            assert said is not None
            assert said[0] == "CNXN"
            assert said[3].startswith(b"device::p=1;features=shell_v2,")
            assert await host.nothing()

    asyncio.run(talk())


def test_all_who_write_hear_that_a_stream_is_closed() -> None:
    """Several write on one stream (stdout and stderr), and wait for one acknowledgement after another."""
    ended: list[int] = []
    all_ended = asyncio.Event()

    async def write(stream: Stream, number: int) -> None:
        try:
            while True:
                await stream.write(b"x")
        except ClosedError:
            ended.append(number)
            if len(ended) == 3:
                all_ended.set()

    async def service(stream: Stream) -> None:
        await asyncio.gather(*(write(stream, number) for number in range(3)))

    async def talk() -> None:
        async with connected(service) as (host, _):
            await host.ask(GREETING)
            opened = await host.ask(packet("OPEN", 9, 0, b"any\0"))
            assert opened is not None
            assert (opened[0], opened[2]) == ("OKAY", 9)
            written = await host.ask()
            assert written is not None
            assert written[0] == "WRTE"
            assert await host.nothing(), "the next one waits for an acknowledgement"
            closed = await host.ask(packet("CLSE", 9, opened[1]))
            assert closed == ("CLSE", opened[1], 9, b"")
            await asyncio.wait_for(all_ended.wait(), SECONDS)
            assert sorted(ended) == [0, 1, 2]

    asyncio.run(talk())
