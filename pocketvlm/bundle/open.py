"""Bundles on disk: opening one safely, checking its files, describing a directory as one.

A bundle is a directory, or the same directory as one archive (``pocketvlm.bundle.archive``). It is data: nothing in it
is executed or unpickled, and no file outside it is read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from pocketvlm.bundle.archive import Archive, is_archive, open_archive
from pocketvlm.errors import BundleError, one_line
from pocketvlm.files import read_bounded

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from pocketvlm.bundle.manifest import FileEntry, Manifest, Part

MANIFEST = "manifest.json"
#: A manifest is small: 600 tensors are some 100 KB. More is not read.
MAX_MANIFEST_BYTES = 16 << 20
#: Values in it, counted by its commas before any is looked at: 600 tensors are some 5,000.
MAX_MANIFEST_VALUES = 1 << 16
#: So is a graph, whose weights lie beside it.
MAX_GRAPH_BYTES = 256 << 20
#: Behind the first four bytes of an ExecuTorch program; two digits follow.
EXECUTORCH_MAGIC = b"ET"
SAMPLE_BYTES, SAMPLES = 4096, 16
#: From here on a file that is mostly holes is refused: a terabyte of nothing takes as long to hash as one of weights.
HOLLOW_FROM = 64 << 20


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: where it lies, its validated manifest, and its mapped archive where it is one."""

    location: Path
    manifest: Manifest
    archive: Archive | None = None

    def for_engine(self, name: str) -> Bundle:
        """The same bundle, its manifest saying what holds for the parts of one engine."""
        return replace(self, manifest=self.manifest.for_engine(name))

    def path(self, name: str) -> Path:
        """The file ``name`` of a directory's manifest; it cannot lie outside the directory."""
        return _inside(self.location, name)

    def read(self, name: str) -> bytes:
        """The content of a file: a graph or the tokenizer, not weights (``path`` or ``archive`` for those)."""
        return self.path(name).read_bytes() if self.archive is None else bytes(self.archive.view(name))

    def mapped(self, name: str) -> memoryview:
        """The same as pages of the file, which are read where they are looked at: for what holds weights."""
        if self.archive is not None:
            return self.archive.view(name)
        with self.path(name).open("rb") as stream:
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))

    @property
    def sha256(self) -> str:
        """Of its manifest, which has the digests of all its files."""
        return hashlib.sha256(self.read(MANIFEST)).hexdigest()

    @property
    def total_bytes(self) -> int:
        """Size on disk, manifest included."""
        if self.archive is not None:
            return self.location.stat().st_size
        manifest_bytes = (self.location / MANIFEST).stat().st_size
        return manifest_bytes + sum(entry.bytes for entry in self.manifest.files.values())


def open_bundle(location: str | Path, *, verify: bool = False) -> Bundle:
    """Read and check a bundle: a directory or an archive.

    Every file must be a regular file of the listed size that is on the disk, and a sample of its content (16 pages
    spread over it) must match; with ``verify`` the whole content must. All sizes are looked at before any content. A
    graph may name no file beside those that its part lists.

    :raises BundleError: naming the file or the key of the manifest that is wrong
    """
    location = Path(location)
    try:
        if is_archive(location):
            return _open_archive(location, verify=verify)
        manifest = read_manifest(location)
        bundle = Bundle(location, manifest)
        for name, entry in manifest.files.items():
            path = bundle.path(name)
            _check_size(name, entry, _size_of(path, name))
            if is_hollow(path):
                raise BundleError(f"{name} is a sparse file: most of its {entry.bytes} bytes are not on the disk")
        for name, entry in manifest.files.items():
            path = bundle.path(name)
            _check_digest(name, file_sample_sha256(path), entry.sample_sha256)
            if verify:
                _check_digest(name, file_sha256(path), entry.sha256)
        _check_graphs(bundle)
    except OSError as error:
        raise BundleError(f"{location} cannot be read: {one_line(error)}") from error
    return bundle


def read_manifest(directory: Path) -> Manifest:
    """Read and validate the ``manifest.json`` of a directory alone.

    :raises BundleError: naming the key that is wrong
    """
    path = directory / MANIFEST
    if not directory.is_dir():
        raise BundleError(f"{directory} is not a bundle: no such directory")
    if not path.is_file():
        raise BundleError(f"{directory} is not a bundle: it has no {MANIFEST}")
    if path.is_symlink():
        raise BundleError(f"{path} is a link: copy what it leads to into the bundle")
    return parse_manifest(read_bounded(path, MAX_MANIFEST_BYTES, BundleError), path)


def parse_manifest(text: bytes, path: Path) -> Manifest:
    """Validate a manifest; ``path`` is where it came from.

    :raises BundleError: naming the key that is wrong
    """
    from pocketvlm.bundle.manifest import FORMAT_VERSION, Manifest
    from pocketvlm.strict import checked

    _check_values(text, path)
    try:
        version = json.loads(text)["format_version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BundleError(f"{path} is damaged: not JSON with a format_version") from error
    if type(version) is not int:  # true and 1.0 equal 1 to a schema
        raise BundleError(f"{path} is not valid: format_version: {one_line(version, 20)} is no whole number")
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{path} has bundle format {one_line(version, 20)}; this pocketvlm reads up to {FORMAT_VERSION}: "
            "update pocketvlm"
        )
    return checked(Manifest, text, f"{path} is not valid", BundleError, strict=True)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``, readable and stable in its order.

    :raises BundleError: it has more values than are read
    """
    text = manifest.model_dump_json(indent=1, exclude_none=False).encode() + b"\n"
    _check_values(text, directory / MANIFEST)
    (directory / MANIFEST).write_bytes(text)


def _check_values(text: bytes, path: Path) -> None:
    if text.count(b",") > MAX_MANIFEST_VALUES:
        raise BundleError(f"{path} is not valid: it has more than {MAX_MANIFEST_VALUES} values")


def describe_files(directory: Path, names: Iterable[str]) -> dict[str, FileEntry]:
    """Sizes and digests of files of a directory, as the manifest lists them."""
    from pocketvlm.bundle.manifest import FileEntry

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
    with path.open("rb") as stream:
        return _sample_sha256(path.stat().st_size, lambda offset, length: _read_exactly(stream, offset, length))


def _sample_sha256(size: int, read: Callable[[int, int], Buffer]) -> str:
    """The sample digest of ``size`` bytes that ``read(offset, length)`` gives."""
    digest = hashlib.sha256(str(size).encode())
    if size <= SAMPLE_BYTES * SAMPLES:
        digest.update(read(0, size))
    else:
        for index in range(SAMPLES):
            digest.update(read((size - SAMPLE_BYTES) * index // (SAMPLES - 1), SAMPLE_BYTES))
    return digest.hexdigest()


def _read_exactly(stream: BinaryIO, offset: int, count: int) -> bytes:
    stream.seek(offset)
    data = stream.read(count)
    if len(data) != count:
        raise BundleError(f"{stream.name} became shorter while it was read")
    return data


def _inside(directory: Path, name: str) -> Path:
    from pocketvlm.bundle.files import FILE_NAME

    if not FILE_NAME.fullmatch(name):
        raise BundleError(f"{directory}: {name!r} is not a file name a bundle may use")
    path = directory / name
    try:
        inside = path.resolve().parent == (directory.resolve() / name).parent
    except RuntimeError as error:  # before Python 3.13 links that lead to each other
        raise BundleError(f"{directory}: {name} is a link that leads to itself") from error
    if not inside:
        raise BundleError(f"{directory}: {name} points outside the bundle")
    return path


def _open_archive(location: Path, *, verify: bool) -> Bundle:
    if is_hollow(location):
        raise BundleError(f"{location} is a sparse file: most of it is not on the disk")
    archive = open_archive(location)
    text = archive.view(MANIFEST)
    if len(text) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{location}: {MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes; it is not a manifest")
    manifest = parse_manifest(bytes(text), location)
    for name, entry in manifest.files.items():
        _check_size(name, entry, len(archive.view(name)))
    for name, entry in manifest.files.items():
        _check_digest(name, _sample_of(archive.view(name)), entry.sample_sha256)
        if verify:
            _check_digest(name, hashlib.sha256(archive.view(name)).hexdigest(), entry.sha256)
    bundle = Bundle(location, manifest, archive)
    _check_graphs(bundle)
    return bundle


def _check_graphs(bundle: Bundle) -> None:
    """Refuse graphs that no export writes: before an engine sees them, which trusts them."""
    from pocketvlm.bundle.graphs import GraphError, check_graph
    from pocketvlm.bundle.programs import ProgramError, check_program
    from pocketvlm.bundle.static_programs import NPU_ENGINES, TFLITE_ENGINES

    for name, part in bundle.manifest.engines.get("executorch", {}).items():
        if part.data or _start(bundle, part.file)[4:6] != EXECUTORCH_MAGIC:
            raise BundleError(f"{part.file}, of the part {name}, is not an ExecuTorch program with its weights inside")
    for file in sorted({part.file for part in bundle.manifest.engines.get("executorch", {}).values()}):
        try:
            with bundle.mapped(file) as content:
                check_program(content)
        except ProgramError as error:
            raise BundleError(f"{file} is not a program that a bundle may have: {error}") from error
    _check_tflite(bundle)
    manifest = bundle.manifest.for_engine("onnx")  # whose prefill chunk its graphs will be given
    for engine in ("onnx", *(name for name in NPU_ENGINES if name not in TFLITE_ENGINES)):
        for name, part in manifest.engines.get(engine, {}).items():
            if bundle.manifest.files[part.file].bytes > MAX_GRAPH_BYTES:
                raise BundleError(
                    f"{part.file} is larger than {MAX_GRAPH_BYTES} bytes; it is not a graph without weights"
                )
            try:
                check_graph(bundle.read(part.file), _sizes(manifest, name), _data(bundle, part))
            except GraphError as error:
                raise BundleError(f"{part.file} is not a graph that a bundle may have: {error}") from error


def _check_tflite(bundle: Bundle) -> None:
    """Refuse .tflite files that no export writes, and parts of which the manifest says something else."""
    from pocketvlm.bundle.static_programs import TFLITE_ENGINES
    from pocketvlm.bundle.tflite import ProgramError, check_tflite

    engines = bundle.manifest.engines
    parts = [one for engine in TFLITE_ENGINES for one in engines.get(engine, {}).items()]
    for file in sorted({part.file for _, part in parts}):
        if not bundle.manifest.files[file].bytes:
            raise BundleError(f"{file} is not a .tflite file that a bundle may have: it is empty")
        try:
            with bundle.mapped(file) as content:
                signatures = check_tflite(content)
        except ProgramError as error:
            raise BundleError(f"{file} is not a .tflite file that a bundle may have: {error}") from error
        for name, part in parts:
            if part.file != file:
                continue
            if part.data or name not in signatures:
                raise BundleError(f"{file}, of the part {name}, has no such signature with its weights inside")
            for kind in ("inputs", "outputs"):
                listed = {spec.name: (spec.shape, spec.dtype) for spec in getattr(part, kind)}
                if listed != getattr(signatures[name], kind):
                    raise BundleError(f"{file}: the {kind} of {name} are not those that the manifest lists")


def _sizes(manifest: Manifest, part: str) -> dict[str, int]:
    """What the dimensions of a part's inputs that vary are at most."""
    length = manifest.kv_cache.length
    step = length if part == "token_embedding" else min(length, manifest.prefill_chunk)
    tiles = 1 if manifest.vision is None else manifest.vision.tile_batch
    sizes = {"batch": 1, "sequence": step, "kept": step, "total": length, "tiles": tiles}
    native = None if manifest.vision is None else manifest.vision.patches
    return sizes if native is None else {**sizes, **native.sizes}


def _data(bundle: Bundle, part: Part) -> dict[str, int]:
    """The files that a part's graph may take weights from, and their sizes.

    An engine looks for one beside the graph, and for an archive's member by its very name.
    """
    beside = "" if bundle.archive is not None else f"{PurePosixPath(part.file).parent}/".removeprefix("./")
    listed = {name: bundle.manifest.files[name].bytes for name in part.data}
    return {name.removeprefix(beside): size for name, size in listed.items() if name.startswith(beside)}


def _start(bundle: Bundle, name: str) -> bytes:
    """The first eight bytes of a file."""
    if bundle.archive is not None:
        return bytes(bundle.archive.view(name)[:8])
    with bundle.path(name).open("rb") as stream:
        return stream.read(8)


def _sample_of(content: memoryview) -> str:
    return _sample_sha256(len(content), lambda offset, length: content[offset : offset + length])


def _check_size(name: str, entry: FileEntry, size: int) -> None:
    if size != entry.bytes:
        raise BundleError(f"{name} has {size} bytes, the manifest says {entry.bytes}: it was cut or replaced")


def _check_digest(name: str, found: str, listed: str) -> None:
    if found != listed:
        raise BundleError(f"{name} does not have the content that the manifest describes: it is damaged or was swapped")


def _size_of(path: Path, name: str) -> int:
    try:
        status = path.lstat()
    except OSError as error:
        raise BundleError(f"{name} is missing from {path.parent}: copy or export the bundle again") from error
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{name} is not a regular file")
    return status.st_size


def is_hollow(path: Path) -> bool:
    """Whether most of a large file are holes, as the file system tells; one that tells nothing has none."""
    with path.open("rb") as stream:
        size, held, end = os.fstat(stream.fileno()).st_size, 0, 0
        if size < HOLLOW_FROM or not hasattr(os, "SEEK_HOLE"):
            return False
        while 2 * held < size:
            try:
                start = os.lseek(stream.fileno(), end, os.SEEK_DATA)
                end = os.lseek(stream.fileno(), start, os.SEEK_HOLE)
            except OSError as error:
                return error.errno == errno.ENXIO  # no more data
            held += end - start
    return False
