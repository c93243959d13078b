"""From which API level on Android has a class or member: Android's own list, which R8 carries.

``-Xjdk-release=1.8`` keeps out what Java 8 lacks, but Android lacks some of Java 8 too, and has some of 9 since.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from android_app.library.classfile import ClassFile, Reference
from pocketvlm.errors import PocketVlmError

DATABASE = "resources/new_api_database.ser"
#: What the platform is expected to have; anything else comes with the app.
PLATFORM = ("java/", "javax/", "android/", "dalvik/", "sun/", "jdk/", "org/json/", "org/xml/", "org/w3c/")
#: Every class has these: the list has neither Object's members nor those that repeat them.
OF_OBJECT = {
    ("toString", "()Ljava/lang/String;"), ("equals", "(Ljava/lang/Object;)Z"), ("hashCode", "()I"),
    ("getClass", "()Ljava/lang/Class;"), ("clone", "()Ljava/lang/Object;"), ("notify", "()V"), ("notifyAll", "()V"),
    ("wait", "()V"), ("wait", "(J)V"), ("wait", "(JI)V"),
}  # fmt: skip
TYPE = re.compile(r"\[*(?:L[^;]+;|[BCDFIJSZV])")
#: Hashes of strings, and of what has a level: the database's two tables.
STRINGS, ENTRIES = 1 << 17, 1 << 18
POINTER = struct.Struct(">IH")


def levels(r8: Path) -> dict[tuple[str, ...], int]:
    """API level by type descriptor, and for a member also name, parameters' types and its own type, of R8's jar.

    Raises:
        PocketVlmError: there is no such list in it.
    """
    try:
        with zipfile.ZipFile(r8) as archive:
            found = dict(_entries(archive.read(DATABASE)))
        found["Ljava/lang/String;",]  # what is no list may read as an empty one
    except (KeyError, zipfile.BadZipFile, struct.error, IndexError, UnicodeDecodeError) as error:
        raise PocketVlmError(f"{r8.name} has no list of API levels that can be read: {error}") from None
    return found


def _entries(content: bytes) -> Iterator[tuple[tuple[str, ...], int]]:
    """The list is a count of strings, where each of them lies, two tables by hash, and what they point at."""
    (count,) = struct.unpack_from(">I", content)
    table = 4 + POINTER.size * (count + STRINGS)
    start = table + POINTER.size * ENTRIES
    strings = [
        content[start + at : start + at + length].rstrip(b"\0").decode("utf-8", "surrogatepass")
        for at, length in POINTER.iter_unpack(content[4 : 4 + POINTER.size * count])
    ]
    for offset, length in POINTER.iter_unpack(content[table:start]):
        at = start + offset
        end = at + length
        while at < end:
            (size,) = struct.unpack_from(">H", content, at)
            # A byte says of which kind it is, which the count of names says as well.
            names = struct.unpack_from(f">{(size - 1) // 2}H", content, at + 3)
            yield tuple(strings[name] for name in names), content[at + 2 + size]
            at += size + 3


def missing(classes: Iterable[ClassFile], known: Mapping[tuple[str, ...], int], level: int) -> dict[Reference, int]:
    """What classes use of the platform that it does not have at an API level -> since when it has it (0: never)."""
    ours = {one.name: one for one in classes}
    found = {}
    for one in ours.values():
        for reference in one.references:
            for used in _platform(reference, ours):
                since = known.get(_key(used), 0)
                if not 0 < since <= level:
                    found[used] = since
    return found


def _platform(reference: Reference, ours: Mapping[str, ClassFile]) -> Iterator[Reference]:
    """A reference as one to the platform; a member that our class inherits is looked for where it comes from."""
    owner = reference.owner.lstrip("[").removeprefix("L" * reference.owner.startswith("[")).rstrip(";")
    if owner in ours:
        declared = (reference.name, reference.descriptor) in ours[owner].members
        if reference.name and not declared and reference.name != "<init>":
            # Interfaces have it where the class has not; that one of them does is enough, and javac saw to it.
            parent = ours[owner].supers[0]
            yield from _platform(Reference(parent, reference.name, reference.descriptor), ours)
    elif owner.startswith(PLATFORM):
        member = (reference.name, reference.descriptor)
        if owner == "java/lang/Object" or member in OF_OBJECT or reference.owner.startswith("["):
            yield Reference(owner)
        else:
            yield Reference(owner, reference.name, reference.descriptor)


def _key(reference: Reference) -> tuple[str, ...]:
    owner = f"L{reference.owner};"
    if not reference.name:
        return (owner,)
    return (owner, reference.name, *TYPE.findall(reference.descriptor))
