"""Hostile archives: damage where the directory of a ZIP is, and archives that are made to mislead a reader."""

from __future__ import annotations

import io
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pocketvlm.bundle.archive import MAX_MEMBERS, open_archive
from pocketvlm.bundle.open import MANIFEST
from tests.soak.damage import Expectation, Ground, Kind, Mutation, archive
from tests.soak.edits import EXTREMES, edited

CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"
#: Where the numbers of a member's entry in the central directory and of the end record lie: offset, bytes.
CENTRAL_FIELDS = {
    "flags": (8, 2), "method": (10, 2), "checksum": (16, 4), "packed size": (20, 4), "size": (24, 4),
    "name length": (28, 2), "extra length": (30, 2), "comment length": (32, 2), "disk": (34, 2), "offset": (42, 4),
}  # fmt: skip
END_FIELDS = {"disk": (4, 2), "count": (8, 2), "all": (10, 2), "size": (12, 4), "offset": (16, 4), "comment": (20, 2)}
LOCAL_FIELDS = {"method": (8, 2), "size": (22, 4), "name length": (26, 2), "extra length": (28, 2)}


def _write(ground: Ground, content: bytes) -> Path:
    target = ground.folder / "bundle.zip"
    target.write_bytes(content)
    return target


def damaged_anywhere(ground: Ground) -> Mutation:
    """Any edit of the file: in weights, in padding, in the directory."""
    target = archive(ground)
    opened = open_archive(target)
    content, how = edited(target.read_bytes(), ground.random)
    changed = _changed_members(target.read_bytes(), content, opened.members)
    expect: Expectation = "unhashed" if MANIFEST in changed else "hashed"
    target.write_bytes(content)
    return Mutation(f"archive: {how}, in {', '.join(changed) or 'no member'}", target, expect, bool(changed))


def _changed_members(before: bytes, after: bytes, members: dict[str, tuple[int, int]]) -> list[str]:
    """Members whose bytes differ at their old places; nothing if the file's length changed, and the places with it."""
    if len(before) != len(after):
        return []
    return [name for name, (at, size) in members.items() if before[at : at + size] != after[at : at + size]]


def damaged_directory(ground: Ground) -> Mutation:
    """A number of the central directory, of the end record or of a local header becomes an extreme one."""
    target = archive(ground)
    content = bytearray(target.read_bytes())
    signature, fields = ground.random.choice(((CENTRAL, CENTRAL_FIELDS), (END, END_FIELDS), (LOCAL, LOCAL_FIELDS)))
    starts = _starts(content, signature)
    field, (offset, width) = ground.random.choice(list(fields.items()))
    value = ground.random.choice((*EXTREMES, len(content), 1 << 14)) & ((1 << 8 * width) - 1)
    at = ground.random.choice(starts) + offset
    content[at : at + width] = value.to_bytes(width, "little")
    target.write_bytes(content)
    what = {CENTRAL: "the directory's", LOCAL: "a header's", END: "the end's"}[signature]
    return Mutation(f"archive: {what} {field} becomes {value}", target, "hashed")


def _starts(content: bytes | bytearray, signature: bytes) -> list[int]:
    starts, at = [], content.find(signature)
    while at >= 0:
        starts.append(at)
        at = content.find(signature, at + 1)
    return starts


@dataclass(frozen=True)
class Worst:
    """A function that makes an archive out of the bundle's directory, and what load must do."""

    expect: Expectation
    make: Callable[[Ground], Path]


def one_of_the_worst(ground: Ground) -> Mutation:
    """The archives below, one after the other."""
    names = list(WORST)
    name = names[ground.turn % len(names)]
    worst = WORST[name]
    return Mutation(f"archive: {name}", worst.make(ground), worst.expect)


def _zipped(
    ground: Ground,
    *,
    compression: int = zipfile.ZIP_STORED,
    only: str | None = None,
    more: dict[str, bytes] | None = None,
    without: tuple[str, ...] = (),
    mode: int = 0o644,
    rename: Callable[[str], str] = str,
) -> Path:
    """An archive by Python's zipfile; ``only`` the file of this suffix is compressed, ``more`` is added."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as file:
        warnings.simplefilter("ignore")  # two members of one name
        for path in sorted(ground.bundle.iterdir()):
            if path.name in without:
                continue
            info = zipfile.ZipInfo(rename(path.name))
            info.external_attr = mode << 16
            info.compress_type = compression if only is None or path.suffix == only else zipfile.ZIP_STORED
            file.writestr(info, path.read_bytes())
        for name, content in (more or {}).items():
            file.writestr(name, content, compression if only == "more" else zipfile.ZIP_STORED)
    return _write(ground, buffer.getvalue())


def _bomb(ground: Ground) -> Path:
    """A quarter of a gigabyte of zeros as weights, deflated to 250 KB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.write(ground.bundle / MANIFEST, MANIFEST)
        with file.open("text.data", "w") as member:
            for _ in range(16):
                member.write(bytes(1 << 24))
    return _write(ground, buffer.getvalue())


def _patched(ground: Ground, signature: bytes, offset: int, value: bytes) -> Path:
    """Every header of a kind with a field of its own bytes."""
    target = archive(ground)
    content = bytearray(target.read_bytes())
    for at in _starts(content, signature):
        content[at + offset : at + offset + len(value)] = value
    target.write_bytes(content)
    return target


def _overlapping(ground: Ground) -> Path:
    """All names lead to the first member."""
    target = archive(ground)
    content = bytearray(target.read_bytes())
    starts = _starts(content, CENTRAL)
    for at in starts:
        content[at + 42 : at + 46] = content[starts[0] + 42 : starts[0] + 46]
    target.write_bytes(content)
    return target


def _around(before: bytes, after: bytes) -> Callable[[Ground], Path]:
    def make(ground: Ground) -> Path:
        target = archive(ground)
        return _write(ground, before + target.read_bytes() + after)

    return make


def _other_local_name(ground: Ground) -> Path:
    """The local headers call the members otherwise than the directory does."""
    target = archive(ground)
    content = bytearray(target.read_bytes())
    for at in _starts(content, LOCAL):
        (length,) = struct.unpack_from("<H", content, at + 26)
        content[at + 30 : at + 30 + length] = b"../" + b"x" * (length - 3)
    target.write_bytes(content)
    return target


def _twice(name: str) -> Callable[[Ground], Path]:
    return lambda ground: _zipped(ground, more={name: b"{}"})


def _with(*names: str) -> Callable[[Ground], Path]:
    return lambda ground: _zipped(ground, more=dict.fromkeys(names, b"content"))


def _compressed(method: int, only: str | None = None, **more: bytes) -> Worst:
    """The files of one suffix, or all, or ``more``, are compressed."""
    return Worst("refused", lambda ground: _zipped(ground, compression=method, only=only, more=more))


def _many(count: int) -> Worst:
    return Worst("refused", lambda ground: _zipped(ground, more={f"{number}": b"" for number in range(count)}))


WORST: dict[str, Worst] = {
    "all deflated": _compressed(zipfile.ZIP_DEFLATED),
    "weights deflated": _compressed(zipfile.ZIP_DEFLATED, ".data"),
    "all by LZMA": _compressed(zipfile.ZIP_LZMA),
    "the manifest by bzip2": _compressed(zipfile.ZIP_BZIP2, ".json"),
    "a bomb": Worst("refused", _bomb),
    "a bomb that no part needs": _compressed(zipfile.ZIP_DEFLATED, "more", x=bytes(1 << 26)),
    "two manifests": Worst("refused", _twice(MANIFEST)),
    "two text.data": Worst("refused", _twice("text.data")),
    "no manifest": Worst("refused", lambda ground: _zipped(ground, without=(MANIFEST,))),
    "no tokenizer": Worst("refused", lambda ground: _zipped(ground, without=("tokenizer.json",))),
    "only a manifest": Worst("refused", lambda ground: _zipped(ground, without=tuple(
        path.name for path in ground.bundle.iterdir() if path.name != MANIFEST
    ))),
    "members that climb out": Worst("same", _with("../outside/evil", "../../evil", "a/../../evil", "..\\evil")),
    "absolute members": Worst("same", _with("/tmp/evil", "C:\\evil", "//host/evil", "/etc/cron.d/evil")),
    "odd members": Worst("same", _with("a\nb", "\x1b[2J", "é", "x" * 60_000, " ", ".")),
    "the bundle's members climb out": Worst("refused", lambda ground: _zipped(ground, rename=_climbing)),
    "members in a folder": Worst("refused", lambda ground: _zipped(ground, rename="bundle/{}".format)),
    "members in capitals": Worst("refused", lambda ground: _zipped(ground, rename=str.upper)),
    "members that are links": Worst("same", lambda ground: _zipped(ground, mode=stat.S_IFLNK | 0o777)),
    "folders": Worst("same", _with("a/", "b/c/", "text.data/")),
    "too many members": _many(MAX_MEMBERS),
    "60,000 members": _many(60_000),
    "members that overlap": Worst("refused", _overlapping),
    "encrypted members": Worst("refused", lambda ground: _patched(ground, CENTRAL, 8, b"\1\0")),
    "data descriptors": Worst("hashed", lambda ground: _patched(ground, CENTRAL, 8, b"\x08\0")),
    "wrong checksums": Worst("hashed", lambda ground: _patched(ground, CENTRAL, 16, b"\0\0\0\0")),
    "local headers without a checksum": Worst("hashed", lambda ground: _patched(ground, LOCAL, 14, b"\0\0\0\0")),
    "local headers that say deflated": Worst("hashed", lambda ground: _patched(ground, LOCAL, 8, b"\x08\0")),
    "local extra fields beyond the end": Worst("refused", lambda ground: _patched(ground, LOCAL, 28, b"\xff\xff")),
    "other names in the local headers": Worst("hashed", _other_local_name),
    "a program before it": Worst("hashed", _around(b"#!/bin/sh\nrm -rf /\n" + bytes(20_000), b"")),
    "a comment behind it": Worst("hashed", _around(b"", b"\n" * 1000)),
    "a megabyte behind it": Worst("hashed", _around(b"", bytes(1 << 20))),
    "another archive behind it": Worst("hashed", _around(b"", END + bytes(18))),
    "an empty archive": Worst("refused", lambda ground: _write(ground, END + bytes(18))),
    "an end record of ones": Worst("refused", lambda ground: _write(ground, END + b"\xff" * 18)),
    "the manifest itself": Worst("refused", lambda ground: _write(ground, (ground.bundle / MANIFEST).read_bytes())),
    "nothing": Worst("refused", lambda ground: _write(ground, b"")),
}  # fmt: skip


def _climbing(name: str) -> str:
    return name if name == MANIFEST else f"../{name}"


KINDS: tuple[Kind, ...] = (one_of_the_worst, damaged_anywhere, damaged_directory, one_of_the_worst)
