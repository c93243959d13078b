"""Whether an APK's native libraries start on a page of memory, also where pages have 16 KB, as Android asks for."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pocketvlm.errors import PocketVlmError

PAGE = 16 * 1024
LOAD = 1
#: Of a file in a zip file: the fixed part before its name, and where in it the lengths of name and extra field stand.
LOCAL_HEADER, LENGTHS = 30, 26


def unaligned(apk: Path) -> list[str]:
    """What is wrong with the native libraries of an APK: compressed, or not on pages, in the file or by themselves.

    Raises:
        PocketVlmError: it is no zip file, or one of its libraries is none.
    """
    try:
        with apk.open("rb") as file, zipfile.ZipFile(file) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith(".so")]
            return [
                f"{entry.filename} {wrong}"
                for entry in entries
                for wrong in (*_placed(file, entry), *in_memory(archive.read(entry)))
            ]
    except (zipfile.BadZipFile, struct.error) as error:
        raise PocketVlmError(f"{apk.name} or a library in it is damaged: {error}") from None


def _placed(file: BinaryIO, entry: zipfile.ZipInfo) -> Iterator[str]:
    """What is wrong with where a library lies in the file, from which it is mapped as it is."""
    if entry.compress_type != zipfile.ZIP_STORED:
        yield "is compressed"
        return
    file.seek(entry.header_offset + LENGTHS)
    name, extra = struct.unpack("<2H", file.read(4))
    start = entry.header_offset + LOCAL_HEADER + name + extra
    if start % PAGE:
        yield f"starts at {start}, which is no multiple of {PAGE}"


def in_memory(library: bytes) -> Iterator[str]:
    """What is wrong with the segments of an ELF file of 64 bits.

    Raises:
        struct.error: it ends too early.
        PocketVlmError: it is none.
    """
    if library[:6] != b"\x7fELF\x02\x01":
        raise PocketVlmError("a native library is no little-endian ELF file of 64 bits")
    (table,) = struct.unpack_from("<Q", library, 32)
    size, count = struct.unpack_from("<2H", library, 54)
    for index in range(count):
        at = table + index * size
        (kind,) = struct.unpack_from("<I", library, at)
        offset, address = struct.unpack_from("<2Q", library, at + 8)
        (alignment,) = struct.unpack_from("<Q", library, at + 48)
        if kind == LOAD and (alignment % PAGE or (address - offset) % PAGE):
            yield f"has a segment for pages of {alignment} bytes, not of {PAGE}"
