"""Part 7, bundles whose files are cut, grown or sparse, also with sizes and digests that say so.

A terabyte of holes costs nothing on a disk and an hour to hash: no command may begin with that.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

from pocketvlm.bundle.open import HOLLOW_FROM, MANIFEST, file_sample_sha256, is_hollow
from tests.soak import bundles
from tests.soak.cases import Case, Cases, Limits, Setup
from tests.soak.damage import Expectation, Ground, Mutation, Original, archive, ground_of

LIMITS = Limits(seconds=10.0, peak_bytes=1 << 30)
#: What a file's apparent size becomes, bytes.
SIZES = (0, 1, 4095, 4096, 65536, HOLLOW_FROM - 1, HOLLOW_FROM, 1 << 28, 1 << 32, 1 << 36, 1 << 40, 1 << 42)

Change = Callable[[Path, random.Random], str]


def _size(path: Path, random_: random.Random) -> str:
    """An end of zeros that are on no disk, or none."""
    size = random_.choice((*SIZES, path.stat().st_size + 1, max(path.stat().st_size - 1, 0)))
    os.truncate(path, size)
    return f"{path.name} has {size} bytes"


def _holes(path: Path, random_: random.Random) -> str:
    """Only the first bytes are on the disk."""
    held, size = random_.choice((0, 4096, 1 << 20)), random_.choice(SIZES)
    with path.open("rb") as stream:
        content = stream.read(held)
    path.write_bytes(content)
    os.truncate(path, max(size, len(content)))
    return f"{path.name} has {size} bytes, {len(content)} on the disk"


def _between(path: Path, random_: random.Random) -> str:
    """A hole in the middle, the old end behind it."""
    size = random_.choice(SIZES[3:])
    with path.open("r+b") as stream:
        end = stream.read(100)
        stream.seek(size)
        stream.write(end)
    return f"{path.name} has a hole up to byte {size}"


CHANGES: tuple[Change, ...] = (_size, _holes, _between)


def sized(ground: Ground, *, told: bool, archived: bool) -> Mutation:
    """``told``: the manifest has the new sizes and samples; ``archived``: the whole archive is grown instead."""
    if archived:
        path = archive(ground)
        how = _size(path, ground.random)
        before = path.stat().st_size
        expect: Expectation = "refused" if is_hollow(path) or before == 0 else "hashed"
        return Mutation(f"archive: {how}", path, expect)
    hows, changed = [], set()
    for _ in range(ground.random.choice((1, 1, 2, 3))):
        path = ground.file()
        hows.append(ground.random.choice(CHANGES)(path, ground.random))
        changed.add(path)
    raw = json.loads((ground.bundle / MANIFEST).read_text())
    if told:
        for path in changed:
            raw["files"][path.name].update(bytes=path.stat().st_size, sample_sha256=file_sample_sha256(path))
        (ground.bundle / MANIFEST).write_text(json.dumps(raw))
    differs = any(path.stat().st_size != raw["files"][path.name]["bytes"] for path in changed)
    expect = "refused" if differs or any(map(is_hollow, changed)) else "unhashed" if told else "hashed"
    return Mutation(f"{', '.join(hows)}{', told' if told else ''}", ground.bundle, expect)


def cases(setup: Setup) -> Cases:
    """Told and untold take turns, each fifth is an archive."""
    original = Original(setup.bundles["tiny"], setup.bundles["tiny"])

    def case(index: int) -> Case:
        ground = ground_of(original, setup.sandbox / "case", setup.random("sizes", index), index)
        mutation = sized(ground, told=index % 2 == 0, archived=index % 5 == 4)
        return Case(mutation.what, lambda: bundles.check(mutation, original, setup.sandbox, index))

    return case
