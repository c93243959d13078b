"""adb's packets, byte by byte."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from tests.device.wire import COMMANDS, HEADER, MOST_DATA, packet, read_packet

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
