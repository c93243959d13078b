"""Zip files of the same bytes wherever and whenever they are written."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

#: The first that a zip file can name.
DATE = (1980, 1, 1, 0, 0, 0)


def zipped(files: Mapping[str, bytes], *, stored: bool = False) -> bytes:
    """Files by name, sorted, without times and owners; ``stored``: not compressed."""
    method = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, DATE)
            entry.compress_type = method
            entry.create_system = 3  # Unix, also where another system writes it
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, files[name], compresslevel=9)
    return target.getvalue()


def unzipped(content: bytes | Path) -> dict[str, bytes]:
    """A zip file's files by name; folders have no entry."""
    with zipfile.ZipFile(io.BytesIO(content) if isinstance(content, bytes) else content) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist() if not entry.is_dir()}


def tree(folder: Path, *suffixes: str) -> dict[str, bytes]:
    """The files below a folder by their path from there, with one of ``suffixes`` where any is given."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (not suffixes or path.suffix in suffixes)
    }
