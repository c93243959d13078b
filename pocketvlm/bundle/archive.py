"""A bundle as one ``.zip``: stored without compression, each file on a 16 KB page, so that a phone can map its parts.

Written in the order of the names with fixed dates: the same bundle gives the same bytes.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pocketvlm.errors import BundleError, one_line
from pocketvlm.files import written_whole

#: Android's largest page (and a multiple of the usual 4 KB).
PAGE = 16384
#: The extra field that Android's zipalign pads with: id, length, then the alignment and zeros.
ALIGNMENT_FIELD = 0xD935
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
LOCAL_SIGNATURE = b"PK\x03\x04"
DATE = (1980, 1, 1, 0, 0, 0)
#: Readers of mapped members everywhere; larger ones would need ZIP64's other headers.
MAX_MEMBER_BYTES = (1 << 32) - 1
MAX_MEMBERS = 4096


def is_archive(path: Path) -> bool:
    """Whether ``path`` is a file that may be a bundle's archive."""
    return path.is_file()


def write_archive(directory: Path, names: Sequence[str], target: Path) -> None:
    """Write the files ``names`` of a directory to ``target``; it appears when it is complete.

    :raises BundleError: a file is of 4 GB or more
    """
    with written_whole(target) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(names):
            _add(archive, directory / name, name)


@dataclass(frozen=True)
class Archive:
    """An opened archive: where each member's bytes lie in the file."""

    path: Path
    members: dict[str, tuple[int, int]]
    _mapping: mmap.mmap

    def view(self, name: str) -> memoryview:
        """The member's bytes, mapped.

        :raises BundleError: there is no such member
        """
        if name not in self.members:
            raise BundleError(f"{name} is missing from {self.path}: copy or export the bundle again")
        offset, size = self.members[name]
        return memoryview(self._mapping)[offset : offset + size]


def open_archive(path: Path) -> Archive:
    """Map an archive and find its members.

    :raises BundleError: it is not a ZIP file, or one that no bundle is: compressed, encrypted, with overlapping or
        repeated members
    """
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            infos = archive.infolist()
            if len(infos) > MAX_MEMBERS:
                raise BundleError(f"{path} has {len(infos)} members; it is not a bundle")
            members = {info.filename: _place(path, stream, info) for info in infos}
            if len(members) != len(infos):
                raise BundleError(f"{path} has two members of one name")
            mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise BundleError(f"{path} is not a bundle: {one_line(error)}") from error
    _check_places(path, members, len(mapping))
    return Archive(path, members, mapping)


def _add(archive: zipfile.ZipFile, source: Path, name: str) -> None:
    size = source.stat().st_size
    if size > MAX_MEMBER_BYTES:
        raise BundleError(
            f"{name} has {size / 1e9:.1f} GB; an archive takes files of less than 4 GB: use the directory"
        )
    info = zipfile.ZipInfo(name, DATE)
    info.external_attr = 0o644 << 16
    assert archive.fp is not None
    start = archive.fp.tell() + LOCAL_HEADER.size + len(name.encode())
    # id and length take 4 bytes, the alignment 2, zeros the rest
    padding = -(start + 6) % PAGE
    info.extra = struct.pack("<HHH", ALIGNMENT_FIELD, 2 + padding, PAGE) + bytes(padding)
    with source.open("rb") as stream, archive.open(info, "w") as member:
        while block := stream.read(1 << 20):
            member.write(block)


def _place(path: Path, stream: IO[bytes], info: zipfile.ZipInfo) -> tuple[int, int]:
    """Offset and size of a member's bytes; the local header has its own, longer extra field."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
        raise BundleError(f"{path}: {info.filename!a} is compressed or encrypted; a bundle's archive is neither")
    stream.seek(info.header_offset)
    header = stream.read(LOCAL_HEADER.size)
    if len(header) != LOCAL_HEADER.size or not header.startswith(LOCAL_SIGNATURE):
        raise BundleError(f"{path} is damaged: no member where its directory says {info.filename!a}")
    *_, name_length, extra_length = LOCAL_HEADER.unpack(header)
    return info.header_offset + LOCAL_HEADER.size + name_length + extra_length, info.file_size


def _check_places(path: Path, members: dict[str, tuple[int, int]], size: int) -> None:
    """Members must lie inside the file, one after another."""
    end = 0
    for offset, length in sorted(members.values()):
        if offset < end or offset + length > size:
            raise BundleError(f"{path} is damaged: its members overlap or go beyond its end")
        end = offset + length
