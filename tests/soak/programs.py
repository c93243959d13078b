"""Part 8, changed ExecuTorch programs with digests that fit: refused in one line before they are loaded, or run.

Every number of the program and of the XNNPACK graphs in it has a place, which is changed there.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
from functools import cache
from pathlib import Path

from pocketvlm.bundle.programs.check import read_program
from pocketvlm.bundle.programs.xnnpack import HEADER, read_graph
from pocketvlm.runtime.engines.executorch_library import load_library
from tests.soak.cases import Case, Cases, Limits, Setup
from tests.soak.changed import answer, check
from tests.soak.edits import flip

LIMITS = Limits(seconds=30.0, peak_bytes=1 << 30, address_bytes=16 << 30)
BUNDLES = ("program", "program-int8")
PROGRAM = "model.pte"
#: Where a number stands, how it is packed, and what it is.
Place = tuple[int, str, str]


def cases(setup: Setup) -> Cases:
    """Numbers of programs, of their graphs, and bits anywhere in their tables by turns."""
    load_library()  # which a new home has to compile

    def case(index: int) -> Case:
        random_ = setup.random("programs", index)
        name = random_.choice(BUNDLES)
        bundle = setup.sandbox / "case"
        shutil.rmtree(bundle, ignore_errors=True)
        shutil.copytree(setup.bundles[name], bundle, copy_function=os.link)
        content = bytearray((bundle / PROGRAM).read_bytes())
        outer, inner = places(setup.bundles[name] / PROGRAM)
        if index % 8 == 7:
            end = read_end(content)
            content[:end] = flip(bytes(content[:end]), random_)
            what = "bits"
        else:
            count = random_.choice((1, 1, 1, 2))
            what = ", ".join(
                changed(content, random_.choice(inner if index % 2 else outer), random_) for _ in range(count)
            )
        return Case(
            f"{name}: {what}", lambda: check(setup.bundles[name], bundle, bundle / PROGRAM, bytes(content), ask)
        )

    return case


@cache
def places(path: Path) -> tuple[list[Place], list[Place]]:
    """Of the program's numbers, and of those of its graphs."""
    content = memoryview(path.read_bytes())
    outer: list[Place] = []
    inner: list[Place] = []
    raw, segments = read_program(content, lambda at, form, name: outer.append((at, form, name)))
    indices = {delegate["data"]["index"] for method in raw["methods"] for delegate in method["delegates"]}
    (base,) = struct.unpack_from("<Q", content, 24)
    for index in sorted(indices):
        segment = segments[index]
        start = base + raw["segments"][index]["offset"] + HEADER.unpack_from(segment)[2]
        read_graph(segment, lambda at, form, name, start=start: inner.append((start + at, form, name)))
    return outer, inner


def read_end(content: bytearray) -> int:
    """Where the program's tables end."""
    return int(struct.unpack_from("<Q", content, 16)[0])


def changed(content: bytearray, place: Place, random_: random.Random) -> str:
    """Another number at a place: an extreme one, or one near to what is there."""
    at, form, name = place
    width = struct.calcsize(form)
    (was,) = struct.unpack_from(form, content, at)
    top = 1 << 8 * width
    near = int(was) + random_.choice((-2, -1, 1, 2)) if form not in ("<f", "<d") else random_.randrange(top)
    value = random_.choice((near, near, 0, 1, 7, top - 1, top >> 1, (top >> 1) - 1, random_.randrange(top))) % top
    content[at : at + width] = value.to_bytes(width, "little")
    (now,) = struct.unpack_from(form, content, at)
    return f"{name} becomes {now} from {was}"


def ask(bundle: Path) -> tuple[int, ...]:
    """Logits of all positions are asked for as well."""
    return answer(bundle, "executorch", lambda vlm: vlm.logits([1, 2, 3]))
