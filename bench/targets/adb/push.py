"""Files onto a phone: only what it lacks, by hash; large ones in parts, so that a push goes on where it was cut off.

A file is there under its name when its content was hashed on the phone, never before.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pocketvlm.bench.targets.adb.client import Adb, ask, push, tell
from pocketvlm.bench.targets.adb.device import WRITABLE
from pocketvlm.bench.targets.adb.parsing import parse_digests, parse_free_space, parse_size
from pocketvlm.errors import DeviceError, one_line

#: Bytes of a part: some seconds through a cable.
PART_BYTES = 64 << 20
#: What has to stay free on the phone, bytes.
MARGIN = 64 << 20
#: Bytes a second that a phone hashes and copies at least, and what a command takes besides, seconds.
SLOWEST_HASH, COMMAND_SECONDS = 20_000_000, 30.0
#: Names of one command line.
MOST_NAMES = 100
#: A file that is not complete yet, by the beginning of its digest.
PARTIAL, PART = ".partial-", ".part"
#: Said by the phone of a file that has another digest.
DAMAGED = "another digest"


@dataclass(frozen=True)
class PushedFile:
    """A file that is to be on the phone: ``name`` is its path below a directory there."""

    local: Path
    name: str
    size: int
    sha256: str
    executable: bool = False

    @property
    def partial(self) -> str:
        return f"{PARTIAL}{self.sha256[:16]}"


def synchronize(
    adb: Adb, files: Sequence[PushedFile], directory: str, watch: Callable[[str], None], part_bytes: int = PART_BYTES
) -> int:
    """Have the files in a directory on the phone, and no others; gives the bytes that were pushed.

    :raises DeviceError: there is no space for them, the phone went away, or a file changed on its way. What arrived
        until then is not pushed again.
    """
    tell(adb, f"mkdir -p {shlex.quote(directory)}", f"{directory} cannot be made there")
    there = digests(adb, files, directory)
    lacking = [file for file in files if there.get(file.name) != file.sha256]
    _tidy(adb, files, lacking, directory)
    check_space(adb, sum(file.size for file in lacking) + (part_bytes if lacking else 0))
    pushed = 0
    for index, file in enumerate(lacking, start=1):
        watch(f"pushing {file.name} ({file.size / 1e6:,.1f} MB, {index} of {len(lacking)})")
        pushed += _push_one(adb, file, directory, watch, part_bytes)
    return pushed


def digests(adb: Adb, files: Sequence[PushedFile], directory: str) -> dict[str, str]:
    """SHA-256 by name of those of the files that are there."""
    found: dict[str, str] = {}
    for first in range(0, len(files), MOST_NAMES):
        some = files[first : first + MOST_NAMES]
        seconds = COMMAND_SECONDS + sum(file.size for file in some) / SLOWEST_HASH
        names = " ".join(shlex.quote(file.name) for file in some)
        found |= parse_digests(_in(adb, directory, f"sha256sum {names} 2>/dev/null; true", seconds))
    return found


def check_space(adb: Adb, wanted: int) -> None:
    """:raises DeviceError: the phone has less space than that and a margin"""
    free = parse_free_space(ask(adb, f"df -k {WRITABLE}"))
    if free is not None and free < wanted + MARGIN:
        raise DeviceError(
            f"{adb.serial} has {free / 1e6:,.0f} MB free, and {(wanted + MARGIN) / 1e6:,.0f} MB are needed: "
            f"delete something there, or what earlier runs left (adb shell rm -r {WRITABLE}/pocketvlm)"
        )


def _tidy(adb: Adb, files: Iterable[PushedFile], lacking: Iterable[PushedFile], directory: str) -> None:
    """Remove what belongs to none of the files; of one that is not complete the parts so far stay."""
    keep = {file.name for file in files} | {file.partial for file in lacking}
    listed = _in(adb, directory, "find . -type f").splitlines()
    others = [name for name in (line.removeprefix("./") for line in listed) if name and name not in keep]
    for first in range(0, len(others), MOST_NAMES):
        names = " ".join(shlex.quote(f"./{name}") for name in others[first : first + MOST_NAMES])
        _in(adb, directory, f"rm -f {names}")


def _push_one(adb: Adb, file: PushedFile, directory: str, watch: Callable[[str], None], part_bytes: int) -> int:
    """Push what is lacking of a file, then look at the whole and give it its name."""
    seconds = COMMAND_SECONDS + file.size / SLOWEST_HASH
    start = _begin(adb, file, directory, part_bytes) if file.size > part_bytes else 0
    add = ":" if start else f": > {file.partial}"
    with tempfile.TemporaryDirectory() as scratch:
        for first in range(start, file.size, part_bytes):
            if first > start:
                watch(f"  {first / file.size:4.0%} of {file.name}")
                _in(adb, directory, add, seconds)
            part = Path(scratch) / "part"
            part.write_bytes(_slice(file.local, first, part_bytes))
            push(adb, part, f"{directory}/{PART}")
            add = f"cat {PART} {'>>' if first else '>'} {file.partial} && rm {PART}"
    if DAMAGED in _in(adb, directory, f"{add} && {_finish(file)}", seconds):
        raise DeviceError(
            f"{adb.serial}: {file.name} arrived with another digest than {one_line(file.local, 120)} should have: "
            "the file was changed here or damaged on its way. Run it again"
        )
    return file.size - start


def _begin(adb: Adb, file: PushedFile, directory: str, part_bytes: int) -> int:
    """How many bytes of the file are there in whole parts; a part that was cut off is cut off there too."""
    size = parse_size(ask(adb, f"stat -c %s {shlex.quote(f'{directory}/{file.partial}')} 2>/dev/null"))
    start = 0 if size is None or size > file.size else size // part_bytes * part_bytes
    if start:
        _in(adb, directory, f"truncate -s {start} {file.partial}")
    return start


def _finish(file: PushedFile) -> str:
    """The command that gives a file its name if it has its digest, and removes it otherwise."""
    partial, name, mode = file.partial, shlex.quote(file.name), "755" if file.executable else "644"
    return (
        f'if [ "$(sha256sum {partial} | cut -c 1-64)" = {file.sha256} ]; '
        f"then mkdir -p $(dirname {name}) && chmod {mode} {partial} && mv -f {partial} {name}; "
        f"else rm -f {partial}; echo {DAMAGED}; fi"
    )


def _slice(path: Path, first: int, count: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(first)
        return stream.read(count)


def _in(adb: Adb, directory: str, command: str, seconds: float = COMMAND_SECONDS) -> str:
    """What a command prints that runs in a directory of the phone."""
    return tell(adb, f"cd {shlex.quote(directory)} && {{ {command}; }}", "the files there cannot be handled", seconds)
