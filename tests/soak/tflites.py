"""Part 14, changed .tflite files with digests that fit: refused in one line before LiteRT has them, or run."""

from __future__ import annotations

import os
import random
import shutil
import struct
from functools import cache
from pathlib import Path

from tests.soak.cases import Case, Cases, Limits, Setup
from tests.soak.changed import answer, check
from tests.soak.edits import EXTREMES, edited

LIMITS = Limits(seconds=30.0, peak_bytes=1 << 30, address_bytes=32 << 30)
BUNDLES = ("tflite", "tflite-int8")
FILES = ("text.tflite", "vision.tflite")


def cases(setup: Setup) -> Cases:
    """A number of the tables, or bytes of them, by turns; weights behind the tables stay as they are."""

    def case(index: int) -> Case:
        random_ = setup.random("tflites", index)
        name, file = random_.choice(BUNDLES), random_.choice(FILES)
        bundle = setup.sandbox / "case"
        shutil.rmtree(bundle, ignore_errors=True)
        shutil.copytree(setup.bundles[name], bundle, copy_function=os.link)
        content = (bundle / file).read_bytes()
        end = end_of_tables(setup.bundles[name] / file)
        tables, what = edited(content[:end], random_) if index % 3 == 2 else renumbered(content[:end], random_)
        changed = tables + content[end:]
        return Case(f"{name}/{file}: {what}", lambda: check(setup.bundles[name], bundle, bundle / file, changed, ask))

    return case


@cache
def end_of_tables(path: Path) -> int:
    """Where the flatbuffer ends: at the first of the constants that lie behind it."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    return int(min(buffer.offset for buffer in model.buffers if buffer.offset > 1))


def renumbered(tables: bytes, random_: random.Random) -> tuple[bytes, str]:
    """One word, or two, near to what it was or an extreme one: offsets, lengths, indices, shapes, types, scales."""
    changed, said = bytearray(tables), []
    for _ in range(random_.choice((1, 1, 1, 2))):
        form = random_.choice(("<i", "<i", "<h", "<b", "<q"))
        width = struct.calcsize(form)
        at = random_.randrange(len(tables) // width) * width
        top = 1 << 8 * width
        was = int.from_bytes(changed[at : at + width], "little")
        near = was + random_.choice((-2, -1, 1, 2))
        now = random_.choice((near, near, random_.choice(EXTREMES), random_.randrange(top))) % top
        changed[at : at + width] = now.to_bytes(width, "little")
        said.append(f"{width} bytes at {at} become {now} from {was}")
    return bytes(changed), ", ".join(said)


def ask(bundle: Path) -> tuple[int, ...]:
    """By LiteRT."""
    return answer(bundle, "litert")
