"""Bundles as one .zip, whole and hostile, each with what Python's reader says: for a reader that unpacks them."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from pocketvlm.bundle.archive import MAX_MEMBERS, write_archive
from pocketvlm.bundle.open import file_sha256, open_bundle
from pocketvlm.errors import BundleError
from tests.support.written_bundle import write_bundle

#: Drawn changes of some bytes of headers, and of what is cut away.
DRAWN = 150
Edit = tuple[int, int]


@dataclass(frozen=True)
class ArchiveCase:
    """An archive: ``base``, with bytes changed and so many cut away at its end. ``whole``: each reader takes it."""

    name: str
    base: bytes
    edits: tuple[Edit, ...] = ()
    cut: int = 0
    whole: bool = False

    def content(self) -> bytes:
        content = bytearray(self.base)
        for at, value in self.edits:
            content[at] = value
        return bytes(content[: len(content) - self.cut])


def write_archives(folder: Path) -> None:
    """``archives.jsonl`` and the files that its lines name, in a new ``folder``."""
    folder.mkdir()
    tree = folder / "tree"
    write_bundle(tree)
    names = sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file())
    digests = {name: file_sha256(tree / name) for name in names}
    write_archive(tree, names, folder / "whole.zip")
    bases: dict[bytes, str] = {}
    with (folder / "archives.jsonl").open("w") as lines:
        for case in _cases((folder / "whole.zip").read_bytes(), tree, names):
            if case.base not in bases:
                bases[case.base] = f"{len(bases)}.zip"
                (folder / bases[case.base]).write_bytes(case.base)
            (folder / "tried.zip").write_bytes(case.content())
            line = {"name": case.name, "base": str(folder / bases[case.base]), "edits": case.edits, "cut": case.cut}
            said = {"whole": case.whole, "refused": refuses_archive(folder / "tried.zip"), "files": digests}
            lines.write(json.dumps(line | said) + "\n")


def refuses_archive(path: Path) -> bool:
    """Whether Python refuses an archive after a look at all of it."""
    try:
        open_bundle(path, verify=True)
    except BundleError:
        return True
    return False


def _cases(whole: bytes, tree: Path, names: list[str]) -> Iterator[ArchiveCase]:
    yield ArchiveCase("whole", whole, whole=True)
    yield ArchiveCase("with offsets of 64 bits", _with_large_offsets(whole), whole=True)
    zipped = _zipped(tree, names, lambda archive: archive.mkdir("folder"))
    yield ArchiveCase("of another tool, with a folder", zipped, whole=True)
    yield ArchiveCase("with a file that is not listed", _zipped(tree, [*names, *names[:1]], rename="more"), whole=True)
    yield ArchiveCase("with a comment", _zipped(tree, names, lambda one: setattr(one, "comment", b"x")), whole=True)
    yield ArchiveCase("nothing", b"")
    yield ArchiveCase("noise", b"PK\3\4" + bytes(range(256)))
    yield ArchiveCase("compressed", _zipped(tree, names, kind=zipfile.ZIP_DEFLATED))
    yield ArchiveCase("of sizes behind the members", _streamed(tree, names))
    yield ArchiveCase("behind something", b"x" * 9 + whole)
    yield ArchiveCase("before something", whole + b"x")
    yield ArchiveCase("twice", whole + whole)
    yield ArchiveCase("without a manifest", _zipped(tree, [name for name in names if name != "manifest.json"]))
    yield ArchiveCase("without a file", _zipped(tree, names[1:]))
    yield ArchiveCase("a member twice", _zipped(tree, [*names, names[0]]))
    for name in ("../outside", "/outside", "weights", "graph.onnx/x", ".hidden", "a\\b", "weights/text.data/x/y"):
        yield ArchiveCase(f"a member {name}", _zipped(tree, [*names, names[0]], rename=name))
    yield ArchiveCase("too many members", _zipped(tree, names, _crowded))
    yield from _changed(whole)
    random = Random(0)
    heads = [at for sign in (b"PK\3\4", b"PK\1\2", b"PK\5\6") for at in _places(whole, sign)]
    for index in range(DRAWN):
        edits = tuple((random.choice(heads) + random.randrange(60), random.randrange(256)) for _ in range(index % 4))
        edits = tuple(one for one in edits if one[0] < len(whole))
        yield ArchiveCase(f"drawn {index}", whole, edits, cut=0 if index % 4 else random.randrange(1, len(whole)))


def _changed(whole: bytes) -> Iterator[ArchiveCase]:
    """Changes of the headers that two readers might understand in two ways, and of content."""
    local, central = _places(whole, b"PK\3\4"), _places(whole, b"PK\1\2")
    yield ArchiveCase("of a later version", whole, ((central[0] + 6, 177),))
    yield ArchiveCase("encrypted", whole, ((local[0] + 6, 1), (central[0] + 8, 1)))
    yield ArchiveCase("all members at one place", whole, tuple(
        (at + 42 + index, byte) for at in central for index, byte in enumerate(struct.pack("<I", local[0]))
    ))  # fmt: skip
    yield ArchiveCase("another name in front", whole, ((local[0] + 30, ord("x")),))
    yield ArchiveCase("another size in front", whole, ((local[0] + 18, 1), (local[0] + 22, 1)))
    at = whole.index(bytes(range(256)) * 100) + 5000
    yield ArchiveCase("other content", whole, ((at, whole[at] ^ 1),))
    content = bytearray(whole)
    member = max(one for one in local if one < at)
    name, extra = struct.unpack_from("<HH", whole, member + 26)
    start, (size,) = member + 30 + name + extra, struct.unpack_from("<I", whole, member + 22)
    content[at] ^= 1
    crc = struct.pack("<I", zlib.crc32(content[start : start + size]))
    for place in (member + 14, central[local.index(member)] + 16):
        content[place : place + 4] = crc
    yield ArchiveCase("other content with a checksum that fits", bytes(content))


def _places(whole: bytes, sign: bytes) -> list[int]:
    places, at = [], whole.find(sign)
    while at >= 0:
        places.append(at)
        at = whole.find(sign, at + 1)
    return places


def _zipped(
    tree: Path,
    names: list[str],
    more: Callable[[zipfile.ZipFile], object] = lambda _: None,
    *,
    kind: int = zipfile.ZIP_STORED,
    rename: str = "",
) -> bytes:
    """Written by zipfile alone; the last member is called ``rename``."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", kind) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for at, name in enumerate(names):
            last = rename and at == len(names) - 1
            archive.writestr(zipfile.ZipInfo(rename if last else name), (tree / name).read_bytes(), kind)
        more(archive)
    return written.getvalue()


def _crowded(archive: zipfile.ZipFile) -> None:
    for index in range(MAX_MEMBERS):
        archive.writestr(f"m{index}", b"")


def _streamed(tree: Path, names: list[str]) -> bytes:
    """To a file that cannot go back: sizes stand behind the members."""

    class Forwards(io.BytesIO):
        def seek(self, *_: int) -> int:
            raise OSError

        def tell(self) -> int:
            raise OSError

    written = Forwards()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            archive.writestr(name, (tree / name).read_bytes())
    return written.getvalue()


def _with_large_offsets(whole: bytes) -> bytes:
    """As of more than 4 GB: the directory has its offsets in fields of ZIP64, and its end one before it."""
    central, (end,) = _places(whole, b"PK\1\2"), _places(whole, b"PK\5\6")
    made = bytearray(whole[: central[0]])
    for at, behind in zip(central, [*central[1:], end], strict=True):
        entry = bytearray(whole[at:behind])
        name, extra = struct.unpack_from("<HH", entry, 28)
        (offset,) = struct.unpack_from("<I", entry, 42)
        field = struct.pack("<HHQ", 1, 8, offset)
        struct.pack_into("<H", entry, 30, extra + len(field))
        struct.pack_into("<I", entry, 42, 0xFFFFFFFF)
        made += entry[: 46 + name] + field + entry[46 + name :]
    size, start, count = len(made) - central[0], central[0], len(central)
    place = len(made)
    made += struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
    made += struct.pack("<4sIQI", b"PK\6\7", 0, place, 1)
    return bytes(made + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))
