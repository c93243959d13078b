"""Weights as ONNX Runtime packs them for one CPU, kept in a directory: later loads map them instead of holding a copy.

An entry is a directory with the optimized graph, its weights both as they were and packed, and a record of the two. It
is written beside its place and renamed when it is complete; what does not fit its record, or does not open, is deleted
and made anew. Whatever goes wrong with the cache, the part is still loaded, without it.

ONNX Runtime 1.29 packs once more even when it opens an entry, to look the packed weights up by their hash. An entry
therefore saves memory first (packed weights are pages of a file, not of the process), and only some of the time.
Whoever can write to the directory decides what the model computes: an entry's content is trusted as the library is.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pocketvlm.bundle.open import file_sample_sha256
from pocketvlm.errors import BundleError, PocketVlmError, one_line
from pocketvlm.machine.cpu import CPU_INFO, parse_cpu_info, read_cpu_info
from pocketvlm.scratch import abandoned, scratch

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import FileEntry, Part

Session = TypeVar("Session")

#: Of what an entry holds; part of its key.
FORMAT = 1
GRAPH, DATA, RECORD = "graph.onnx", "weights.data", "entry.json"
#: Begins the name of what is being written or deleted.
PARTIAL = ".partial-"
#: ONNX Runtime's session options that make it write an entry; part of its key.
#: Weights of less than 1 MiB stay in the graph and are packed at each load: only larger ones begin on a page of the
#: file. How MatMulNBits lays packed weights out depends on how their address is aligned; those that are mapped at
#: another alignment it reads as noise, up to NaN, without an error (seen with 1.29).
SAVING = {
    "session.save_external_prepacked_constant_initializers": "1",
    "session.optimized_model_external_initializers_file_name": DATA,
    "session.optimized_model_external_initializers_min_size_in_bytes": str(1 << 20),
}
#: Free space that must be there before an entry is written, by the size of the part's data: an entry has the weights
#: twice, once packed.
SPACE = 2.5
CPUINFO = CPU_INFO


def entry_key(part: Part, files: Mapping[str, FileEntry], version: str, machine: str) -> str:
    """The name of a part's entry, 64 hexadecimal digits: what it is made from, by what and for which machine.

    ``files`` are the manifest's, ``version`` is ONNX Runtime's, ``machine`` is ``this_machine()``. The number of
    threads is not in it: packing does not depend on it.
    """
    described = {
        "format": FORMAT,
        "graph": files[part.file].sha256,
        "data": {name: files[name].sha256 for name in part.data},
        "onnxruntime": version,
        "machine": machine,
        "options": SAVING,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def cpu_features(cpuinfo: str) -> str:
    """The features of the first processor of /proc/cpuinfo, sorted; "" where it names none."""
    return " ".join(sorted(parse_cpu_info(cpuinfo).features))


def this_machine() -> str:
    """Architecture and CPU features: ONNX Runtime chooses kernels, and how weights lie for them, by these."""
    return f"{platform.machine()} {cpu_features(read_cpu_info(CPUINFO))}"


def save_to(directory: Path, options: Any) -> None:
    """Let a session with these SessionOptions write graph and weights into ``directory`` while it is created."""
    options.optimized_model_filepath = str(directory / GRAPH)
    for name, value in SAVING.items():
        options.add_session_config_entry(name, value)


def open_through(
    entry: Path,
    data_bytes: int,
    make: Callable[[Path], Session],
    open_graph: Callable[[Path], Session],
) -> Session | None:
    """A part opened from its ``entry``, CACHE/KEY, which is made where it is missing or damaged.

    ``make(directory)`` writes graph and weights there and opens them, ``open_graph(path)`` opens those of an entry;
    both raise PocketVlmError. ``data_bytes`` is the size of the part's data in the bundle. None, and a warning with the
    reason, where nothing can be kept: a disk that is full or read-only, a part that cannot be saved.
    """
    try:
        if _is_complete(entry):
            with suppress(BundleError):
                return open_graph(entry / GRAPH)
        return _make(entry, data_bytes, make)
    except (OSError, PocketVlmError) as error:
        warnings.warn(f"{entry.parent}: no prepacked weights, loading without them: {one_line(error)}", stacklevel=2)
        return None


def _make(entry: Path, data_bytes: int, make: Callable[[Path], Session]) -> Session:
    """Write an entry beside its place and rename it; one that another process has put there meanwhile stays.

    The session keeps what it has mapped, wherever the files go.
    """
    cache = entry.parent
    cache.mkdir(parents=True, exist_ok=True)
    for left in abandoned(cache, f"{PARTIAL}*"):
        shutil.rmtree(left, ignore_errors=True)
    _discard(entry)
    free, needed = shutil.disk_usage(cache).free, int(SPACE * data_bytes)
    if free < needed:
        raise PocketVlmError(f"it takes {needed / 1e6:.1f} MB of disk, {free / 1e6:.1f} MB are free")
    with scratch(cache, PARTIAL) as partial:
        session = make(partial)
        (partial / RECORD).write_bytes(_record(partial))
        for path in partial.iterdir():
            # A rename can reach the disk before what it renames: after a power cut an entry would have holes.
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        partial.chmod(0o755)
        try:
            partial.rename(entry)
        except OSError:
            if not _is_complete(entry):
                raise
    return session


def _is_complete(entry: Path) -> bool:
    """Whether graph and weights are those that the record says, by size and sample digest."""
    try:
        return (entry / RECORD).read_bytes() == _record(entry)
    except (OSError, BundleError):
        return False


def _record(directory: Path) -> bytes:
    """Size and sample digest (``pocketvlm.bundle.open``) of each file of an entry, as JSON; always the same bytes."""
    paths = [path for path in (directory / GRAPH, directory / DATA) if path.exists()]
    files = {path.name: {"bytes": path.stat().st_size, "sample_sha256": file_sample_sha256(path)} for path in paths}
    return json.dumps(files, indent=1).encode()


def _discard(entry: Path) -> None:
    """Delete an entry, moved aside first: there is never half of one."""
    with scratch(entry.parent, PARTIAL) as aside, suppress(FileNotFoundError):
        entry.rename(aside / entry.name)
