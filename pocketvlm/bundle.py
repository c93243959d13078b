"""Bundles on disk: opening one safely, checking its files, describing a directory as one.

A bundle is data: nothing in it is executed or unpickled, and no file outside its directory is read.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pocketvlm.errors import BundleError

if TYPE_CHECKING:
    from pocketvlm.manifest import FileEntry, Manifest

MANIFEST = "manifest.json"
#: A manifest is small: 600 tensors are some 100 KB. More is not read.
MAX_MANIFEST_BYTES = 16 << 20
SAMPLE_BYTES, SAMPLES = 4096, 16


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its directory and its validated manifest."""

    directory: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """The file ``name`` of the manifest; it cannot lie outside the directory."""
        return _inside(self.directory, name)


def open_bundle(directory: str | Path, *, verify: bool = False) -> Bundle:
    """Read and check a bundle.

    Every file must be a regular file of the listed size, and a sample of its content (16 pages spread over it) must
    match; with ``verify`` the whole content must.

    :raises BundleError: naming the file or the key of the manifest that is wrong
    """
    directory = Path(directory)
    try:
        manifest = read_manifest(directory)
        bundle = Bundle(directory, manifest)
        for name, entry in manifest.files.items():
            _check_file(bundle.path(name), name, entry, verify=verify)
    except OSError as error:
        raise BundleError(f"{directory} cannot be read: {one_line(error)}") from error
    return bundle


def read_manifest(directory: Path) -> Manifest:
    """Read and validate ``manifest.json`` alone.

    :raises BundleError: naming the key that is wrong
    """
    from pydantic import ValidationError

    from pocketvlm.manifest import FORMAT_VERSION, Manifest

    path = directory / MANIFEST
    if not directory.is_dir():
        raise BundleError(f"{directory} is not a bundle: no such directory")
    if not path.is_file():
        raise BundleError(f"{directory} is not a bundle: it has no {MANIFEST}")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path} is larger than {MAX_MANIFEST_BYTES} bytes; it is not a manifest")
    text = path.read_bytes()
    try:
        version = json.loads(text)["format_version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BundleError(f"{path} is damaged: not JSON with a format_version") from error
    if type(version) is not int:  # true and 1.0 equal 1 to a schema
        raise BundleError(f"{path} is not valid at format_version: {one_line(version, 20)} is no whole number")
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{directory} has bundle format {one_line(version, 20)}; this pocketvlm reads up to {FORMAT_VERSION}: "
            "update pocketvlm"
        )
    try:
        return Manifest.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        # Keys and values come from the file: they may hold line breaks, escape sequences or megabytes.
        raise BundleError(f"{path} is not valid at {one_line(where)}: {one_line(first['msg'])}") from error


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``, readable and stable in its order."""
    (directory / MANIFEST).write_text(manifest.model_dump_json(indent=1, exclude_none=False) + "\n", encoding="utf-8")


def describe_files(directory: Path, names: Iterable[str]) -> dict[str, FileEntry]:
    """Sizes and digests of files of a directory, as the manifest lists them."""
    from pocketvlm.manifest import FileEntry

    entries = {}
    for name in sorted(set(names)):
        path = directory / name
        entries[name] = FileEntry(
            bytes=path.stat().st_size, sha256=file_sha256(path), sample_sha256=file_sample_sha256(path)
        )
    return entries


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_sample_sha256(path: Path) -> str:
    """SHA-256 over a file's size (decimal) and 16 blocks of 4096 bytes, evenly spread from its start to its end.

    A file of at most 64 KiB is hashed whole. Cheap enough for every load, and it tells swapped or cut files apart;
    ``inspect`` checks the rest.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        if size <= SAMPLE_BYTES * SAMPLES:
            digest.update(stream.read())
        else:
            for index in range(SAMPLES):
                stream.seek((size - SAMPLE_BYTES) * index // (SAMPLES - 1))
                digest.update(_read_exactly(stream, SAMPLE_BYTES))
    return digest.hexdigest()


def one_line(message: object, most: int = 300) -> str:
    """Foreign text for an error's line: on one line, of bounded length, without control characters."""
    text = " ".join(str(message).split())
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _read_exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise BundleError(f"{stream.name} became shorter while it was read")
    return data


def _inside(directory: Path, name: str) -> Path:
    from pocketvlm.manifest import FILE_NAME

    if not FILE_NAME.fullmatch(name):
        raise BundleError(f"{directory}: {name!r} is not a file name a bundle may use")
    path = directory / name
    if path.resolve().parent != (directory.resolve() / name).parent:
        raise BundleError(f"{directory}: {name} points outside the bundle")
    return path


def _check_file(path: Path, name: str, entry: FileEntry, *, verify: bool) -> None:
    try:
        status = path.lstat()
    except OSError as error:
        raise BundleError(f"{name} is missing from {path.parent}: copy or export the bundle again") from error
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{name} is not a regular file")
    if status.st_size != entry.bytes:
        raise BundleError(f"{name} has {status.st_size} bytes, the manifest says {entry.bytes}: it was cut or replaced")
    if file_sample_sha256(path) != entry.sample_sha256 or (verify and file_sha256(path) != entry.sha256):
        raise BundleError(f"{name} does not have the content that the manifest describes: it is damaged or was swapped")
