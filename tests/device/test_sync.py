"""The fake's file service on bytes, as AOSP's file_sync_protocol.h has them: no adb between."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import struct
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.phone import sync
from tests.support.phone.adbd import Phone
from tests.support.phone.paths import resolve
from tests.support.phone.wire import ClosedError, Stream
from tests.support.waiting import SECONDS

QUIT = b"QUIT" + bytes(4)
TIME = 1_700_000_000


class Recorded(Stream):
    """A stream whose host has sent ``given`` and gone away; ``said`` is what it was answered."""

    def __init__(self, given: bytes) -> None:
        self.left, self.said = given, b""

    async def read(self, size: int) -> bytes:
        if len(self.left) < size:
            raise ClosedError
        taken, self.left = self.left[:size], self.left[size:]
        return taken

    async def write(self, data: bytes) -> None:
        self.said += data


class Untouched:
    """Looks on, and lets nothing go wrong."""

    def pushes(self, path: str, size: int) -> str | None:
        return f"couldn't write {path}: No space left on device" if self.full else None

    def arrived(self, path: Path) -> None:
        self.files.append(path)

    def pulls(self, size: int) -> None:
        self.pulled += size

    def endless(self) -> bool:
        return False

    def __init__(self, *, full: bool = False) -> None:
        self.full, self.pulled = full, 0
        self.files: list[Path] = []


def ask(root: Path, given: bytes, watch: sync.Watch | None = None) -> bytes:
    """What is answered; the service ends by itself, or where the bytes end."""
    stream = Recorded(given)

    async def serve() -> None:
        with contextlib.suppress(ClosedError):
            await asyncio.wait_for(sync.serve(stream, partial(resolve, root), watch or Untouched()), SECONDS)

    asyncio.run(serve())
    return stream.said


def request(kind: bytes, path: str) -> bytes:
    raw = os.fsencode(path)
    return kind + struct.pack("<I", len(raw)) + raw


def data(*chunks: bytes, time: int = TIME) -> bytes:
    return b"".join(b"DATA" + struct.pack("<I", len(one)) + one for one in chunks) + b"DONE" + struct.pack("<I", time)


def failed(said: bytes) -> str:
    """The message of an answer that is one FAIL and nothing else."""
    kind, size = struct.unpack("<4sI", said[:8])
    assert (kind, size) == (b"FAIL", len(said) - 8)
    return said[8:].decode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file of ten bytes, a folder, and links: within, to the root's own file, out of it, in a circle, to nothing."""
    place = tmp_path / "root"
    (place / "folder").mkdir(parents=True)
    (place / "file").write_bytes(b"0123456789")
    os.utime(place / "file", (TIME, TIME))
    (place / "within").symlink_to("file")
    (place / "etc").symlink_to("/folder")
    (place / "absolute").symlink_to("/file")
    (place / "out").symlink_to("../../outside")
    (place / "circle").symlink_to("circle")
    (place / "dangling").symlink_to("/nowhere")
    (tmp_path / "outside").write_text("the host's")
    return place


def test_stat_of_the_first_version(root: Path) -> None:
    """mode, size, time; zeros for nothing; of a link itself."""
    kind, mode, size, time = struct.unpack("<4sIII", ask(root, request(b"STAT", "/file") + QUIT))
    assert (kind, stat.S_ISREG(mode), size, time) == (b"STAT", True, 10, TIME)
    assert ask(root, request(b"STAT", "/none") + QUIT) == b"STAT" + bytes(12)
    assert stat.S_ISLNK(struct.unpack("<4sIII", ask(root, request(b"STAT", "/absolute")))[1])


@pytest.mark.parametrize(
    ("kind", "path", "error", "size"),
    [
        (b"STA2", "/file", 0, 10),
        (b"STA2", "/absolute", 0, 10),
        (b"STA2", "/within", 0, 10),
        (b"STA2", "/etc/../file", 0, 10),
        (b"LST2", "/absolute", 0, 5),
        (b"LST2", "/etc/../within", 0, 4),
        (b"STA2", "/none", 2, 0),
        (b"STA2", "/file/below", 20, 0),
        (b"STA2", "/dangling", 2, 0),
        (b"STA2", "/circle", 40, 0),
        (b"STA2", "/out", 2, 0),
        (b"STA2", "/../../outside", 2, 0),
    ],
)
def test_stat_of_the_second_version(root: Path, kind: bytes, path: str, error: int, size: int) -> None:
    """72 bytes; a missing file's error is the number in Linux, which adb maps itself."""
    said = ask(root, request(kind, path) + QUIT)
    assert len(said) == 72
    found = struct.unpack("<4sIQQIIIIQqqq", said)
    assert (found[0], found[1], found[8]) == (kind, error, size)
    if not error and size == 10:
        assert found[10] == TIME
        assert found[4] & 0o777 == (root / "file").stat().st_mode & 0o777


def test_lists(root: Path) -> None:
    first = ask(root, request(b"LIST", "/") + QUIT)
    names, place = [], 0
    while first[place : place + 4] == b"DENT":
        *_, length = struct.unpack("<4sIIII", first[place : place + 20])
        names.append(first[place + 20 : place + 20 + length].decode())
        place += 20 + length
    assert names == ["absolute", "circle", "dangling", "etc", "file", "folder", "out", "within"]
    assert first[place:] == b"DONE" + bytes(16)
    second = ask(root, request(b"LIS2", "/") + QUIT)
    assert second.startswith(b"DNT2")
    assert second.endswith(b"DONE" + bytes(72))
    assert ask(root, request(b"LIST", "/none") + QUIT) == b"DONE" + bytes(16)
    assert ask(root, request(b"LIST", "/file") + QUIT) == b"DONE" + bytes(16)
    assert ask(root, request(b"LIST", "/out") + QUIT) == b"DONE" + bytes(16)


@pytest.mark.parametrize("second", [False, True], ids=["SEND", "SND2"])
def test_a_push(root: Path, second: bool) -> None:
    begin = request(b"SEND", "/new/a,b,33188")
    if second:
        begin = request(b"SND2", "/new/a,b") + struct.pack("<4sII", b"SND2", 33188, 0)
    watch = Untouched()
    assert ask(root, begin + data(b"first ", b"", b"second") + QUIT, watch) == b"OKAY" + bytes(4)
    pushed = root / "new" / "a,b"
    assert pushed.read_bytes() == b"first second"
    assert (int(pushed.stat().st_mtime), pushed.stat().st_mode & 0o777) == (TIME, 0o666)  # the owner's, for all
    assert watch.files == [pushed]


def test_a_push_onto_a_link_replaces_it(root: Path) -> None:
    assert ask(root, request(b"SEND", "/out,33188") + data(b"new")) == b"OKAY" + bytes(4)
    assert (root / "out").read_bytes() == b"new"
    assert not (root / "out").is_symlink()
    assert (root.parent / "outside").read_text() == "the host's"
    assert ask(root, request(b"SEND", "/etc/new,33188") + data(b"new")) == b"OKAY" + bytes(4)
    assert (root / "folder" / "new").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (request(b"SEND", "/folder,33188") + data(b"x" * 9), "Is a directory"),
        (request(b"SEND", "/file/below,33188") + data(b"x"), "Not a directory"),
        (request(b"SEND", "/circle/x,33188") + data(b"x"), "Too many levels of symbolic links"),
        (request(b"SEND", f"/{'x' * 300},33188") + data(b"x"), "File name too long"),
        (request(b"SEND", "/file"), "bad mode"),
        (request(b"SND2", "/new") + struct.pack("<4sII", b"SND2", 33188, 1), "compression is not supported"),
        (request(b"SEND", "/new,33188") + b"DATA" + struct.pack("<I", 65537), "not a chunk of data"),
        (request(b"SEND", "/new,33188") + b"OKAY" + bytes(4), "not a chunk of data"),
        (request(b"RECV", "/none"), "No such file"),
        (request(b"RECV", "/folder"), "Is a directory"),
        (request(b"RECV", "/out"), "No such file"),
        (request(b"RCV2", "/file") + struct.pack("<4sI", b"RCV2", 1), "compression is not supported"),
        (request(b"STAT", "x" * 1025), "path too long"),
        (request(b"STAT", "/\0"), "null byte"),
        (request(b"MORE", "/"), "unknown command"),
    ],
)
def test_what_is_refused(root: Path, given: bytes, why: str) -> None:
    """By one answer, whatever has come; nothing is left of it."""
    before = sorted(root.rglob("*"))
    assert why in failed(ask(root, given + QUIT))
    assert sorted(root.rglob("*")) == before
    assert (root / "file").read_bytes() == b"0123456789"


def test_a_full_phone_hears_the_push_out(root: Path) -> None:
    """All that comes is taken and the error is said behind it, once; the service goes on."""
    given = request(b"SEND", "/new,33188") + data(b"a", b"b") + request(b"STAT", "/none")
    said = ask(root, given, Untouched(full=True))
    assert "No space left on device" in failed(said[:-16])
    assert said[-16:] == b"STAT" + bytes(12)
    assert not (root / "new").exists()


def test_a_push_that_is_cut_off_leaves_nothing(root: Path) -> None:
    whole = request(b"SEND", "/file,33188") + data(b"other", b"bytes")
    for length in range(len(whole)):
        assert b"OKAY" not in ask(root, whole[:length])
        assert (root / "file").read_bytes() == b"0123456789"
        assert not list(root.glob("*.pushing"))


def test_a_pull(root: Path) -> None:
    (root / "large").write_bytes(content := os.urandom(65536 * 2 + 5))
    watch = Untouched()
    said = ask(root, request(b"RECV", "/large") + QUIT, watch)
    chunks, place = [], 0
    while said[place : place + 4] == b"DATA":
        (size,) = struct.unpack("<I", said[place + 4 : place + 8])
        chunks.append(said[place + 8 : place + 8 + size])
        place += 8 + size
    assert said[place:] == b"DONE" + bytes(4)
    assert b"".join(chunks) == content
    assert [len(one) for one in chunks] == [65536, 65536, 5]
    assert watch.pulled == len(content)
    again = ask(root, request(b"RCV2", "/absolute") + struct.pack("<4sI", b"RCV2", 0) + QUIT)
    assert again == b"DATA" + struct.pack("<I", 10) + b"0123456789" + b"DONE" + bytes(4)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from([b"STAT", b"STA2", b"LST2", b"LIST", b"LIS2", b"RECV", b"RCV2", b"SEND", b"SND2", b"QUIT"]),
    path=st.text(st.sampled_from("/.\0,0é~x"), max_size=12) | st.just("/absolute") | st.just("/circle/x"),
    rest=st.binary(max_size=40),
)
@example(kind=b"SEND", path="/../../outside,33188", rest=data(b"x"))
def test_other_bytes_harm_nothing(root: Path, kind: bytes, path: str, rest: bytes) -> None:
    """The service ends, and nothing outside of the phone has changed."""
    ask(root, request(kind, path) + rest)
    assert sorted(one.name for one in root.parent.iterdir()) == ["outside", "root"]
    assert (root.parent / "outside").read_text() == "the host's"


def test_the_phone_itself_keeps_to_its_root(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc/version")
    assert Phone(tmp_path, {}).locate("/link") == tmp_path / "proc" / "version"
    assert Phone(tmp_path, {}).locate("x") == tmp_path / "x"
