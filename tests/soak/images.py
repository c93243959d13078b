"""Part 1, mutated images: each opens and is cut into tiles, twice to the same, or is an ImageError of one line."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pocketvlm.errors import ImageError
from pocketvlm.images.open import MAX_PIXELS, MAX_SIDE, open_image
from pocketvlm.images.prepare import Preprocessing, cut_tiles, select, sequence_length
from pocketvlm.images.rules.idefics3 import grids
from pocketvlm.images.tiling import grid_candidates
from tests.soak.cases import Case, Cases, Found, Limits, Setup, refusal
from tests.soak.edits import EXTREMES, edited, extreme
from tests.soak.pictures import PNG_SIGNATURE, chunk, encode, noise, originals, png

#: Each is opened twice. The largest that is accepted takes 256 MiB decoded; it is decoded, flattened over white and
#: turned. libtiff, alone, writes why it cannot decode to stderr itself.
LIMITS = Limits(seconds=2 * 5.0, peak_bytes=4 * 4 * MAX_PIXELS, foreign=r"(?!.*[Ww]arning|Traceback).*\w: .*\.")
TILE = 24
GRIDS = grid_candidates(4, 4, 8)
PREPROCESSINGS = (
    Preprocessing(tile_size=TILE, strategy="relaxed", candidates=GRIDS),
    Preprocessing(tile_size=TILE, strategy="llava-next", candidates=GRIDS),
    Preprocessing(tile_size=TILE, strategy="internvl", candidates=GRIDS, thumbnail="last"),
    Preprocessing(tile_size=TILE, strategy="relaxed", candidates=GRIDS, thumbnail="none"),
    Preprocessing(tile_size=TILE, strategy="idefics3", candidates=grids(4), resize_filter="lanczos", thumbnail="last"),
)
#: A name that a file may have.
NAME = "x\n\x1b[2J" + "\u202e" + "y" * 200

Mutation = Callable[[str, bytes, random.Random], tuple[bytes, str]]


def cases(setup: Setup) -> Cases:
    """The first cases are the originals, which must open; then the mutations take turns."""
    names = list(originals())

    def case(index: int) -> Case:
        random_ = setup.random("images", index)
        name = names[index] if index < len(names) else random_.choice(names)
        data, how = originals()[name], "as it is"
        if index >= len(names):
            data, how = MUTATIONS[index % len(MUTATIONS)](name, data, random_)
        preprocessing = PREPROCESSINGS[index % len(PREPROCESSINGS)]
        path = setup.sandbox / "tmp" / (NAME if index % 5 == 0 else "image")

        def check() -> Found:
            found = check_image(data, path, preprocessing)
            if found.verdict == "refused" and index < len(names):
                return Found("wrong", f"an image that nothing was done to is refused: {found.line}")
            return found

        return Case(f"{name}: {how} ({len(data)} bytes, {preprocessing.strategy})", check)

    return case


def check_image(data: bytes, path: Path, preprocessing: Preprocessing) -> Found:
    """Open bytes, then the same as a file: both are refused by one line, or give the same tiles."""
    path.write_bytes(data)
    try:
        try:
            first = _tiles(data, preprocessing)
        except ImageError as error:
            return _also_refused(path, preprocessing, refusal(error, "the image's bytes"))
        try:
            again = _tiles(path, preprocessing)
        except ImageError as error:
            return Found("wrong", f"opens from memory, not from a file: {error}")
        if first[0] != again[0] or not np.array_equal(first[1], again[1]):
            return Found("wrong", "the same bytes gave other tiles")
        return Found("right")
    finally:
        path.unlink()


def _also_refused(path: Path, preprocessing: Preprocessing, found: Found) -> Found:
    try:
        _tiles(path, preprocessing)
    except ImageError as error:
        from_file = refusal(error)  # the path counts: all of the line must be short
        return from_file if from_file.verdict == "wrong" else found
    return Found("wrong", f"opens from a file, not from memory: {found.line}")


def _tiles(source: bytes | Path, preprocessing: Preprocessing) -> tuple[tuple[int, int], np.ndarray]:
    """Grid and pixels, with everything checked that holds for any image."""
    image = open_image(source)
    assert image.mode == "RGB", f"mode {image.mode}"
    assert 0 < max(image.size) <= MAX_SIDE and image.width * image.height <= MAX_PIXELS, f"size {image.size}"
    tiled = cut_tiles(image, preprocessing)
    assert tiled.grid == select(image.size, preprocessing) and tiled.grid in preprocessing.candidates
    assert tiled.pixels.dtype == np.uint8 and tiled.pixels.flags.c_contiguous
    wanted = (sequence_length(tiled.grid, preprocessing), preprocessing.tile_size, preprocessing.tile_size, 3)
    assert tiled.pixels.shape == wanted, f"shape {tiled.pixels.shape}, not {wanted}"
    return tiled.grid, tiled.pixels


# --- Mutations --------------------------------------------------------------------------------------------------------


def damaged(name: str, data: bytes, random_: random.Random) -> tuple[bytes, str]:
    """Bytes anywhere."""
    return edited(data, random_)


def damaged_chunks(name: str, data: bytes, random_: random.Random) -> tuple[bytes, str]:
    """A PNG's chunks damaged, removed, doubled or exchanged, with checksums that are right; others: a number."""
    if not data.startswith(PNG_SIGNATURE):
        return extreme(data, random_), "an extreme number"
    chunks = png_chunks(data)
    at, other = random_.randrange(len(chunks)), random_.randrange(len(chunks))
    what = random_.choice(("edit", "edit", "edit", "remove", "double", "exchange", "rename"))
    kind, content = chunks[at]
    if what == "edit":
        chunks[at] = kind, edited(content, random_)[0]
    elif what == "remove":
        del chunks[at]
    elif what == "double":
        chunks.insert(other, chunks[at])
    elif what == "exchange":
        chunks[at], chunks[other] = chunks[other], chunks[at]
    else:
        chunks[at] = random_.choice((b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", b"fdAT", b"eXIf", b"acTL")), content
    return PNG_SIGNATURE + b"".join(chunk(*item) for item in chunks), f"{what} of chunk {kind.decode('latin-1')}"


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Names and contents of a PNG's chunks."""
    chunks, at = [], len(PNG_SIGNATURE)
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return chunks


def declared(name: str, data: bytes, random_: random.Random) -> tuple[bytes, str]:
    """The size that the header declares becomes another one, often a huge one."""
    sizes = (0, 1, 2, 8000, 16384, 16385, 65535, 100_000, 0x7FFFFFFF, 0xFFFFFFFF)
    width, height = random_.choice(sizes), random_.choice(sizes)
    how = f"declares {width} x {height}"
    kind = name.split(maxsplit=1)[0]
    if kind == "png":
        (first, header), *others = png_chunks(data)
        header = struct.pack(">II", width, height) + header[8:]
        return PNG_SIGNATURE + b"".join(chunk(*item) for item in [(first, header), *others]), how
    if kind == "ppm":
        magic, _, rest = data.partition(b"\n")
        return magic + f"\n{width} {height}\n".encode() + rest.split(b"\n", 1)[-1], how
    changed = bytearray(data)
    if kind == "bmp":
        struct.pack_into("<II", changed, 18, width, height)
    elif kind == "gif":
        at = random_.choice((6, data.index(b",") + 5))
        struct.pack_into("<HH", changed, at, width & 0xFFFF, height & 0xFFFF)
    elif kind == "jpeg":
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        struct.pack_into(">HH", changed, at + 5, height & 0xFFFF, width & 0xFFFF)
    elif kind == "webp":
        extended = data[12:16] == b"VP8X"
        number = (width & 0xFFFFFF) | (height & 0xFFFFFF) << 24 if extended else (width & 0x3FFF) | height << 14
        changed[24 if extended else 26 : 30] = (number & (1 << 8 * (6 if extended else 4)) - 1).to_bytes(
            6 if extended else 4, "little"
        )
    else:
        return tiff_entries(name, data, random_)
    return bytes(changed), how


def tiff_entries(name: str, data: bytes, random_: random.Random) -> tuple[bytes, str]:
    """An entry of a TIFF's directory, or of an EXIF block: its tag, type, count or value."""
    at = max(data.find(b"II*\0"), data.find(b"MM\0*"), 0)
    order = "<" if data[at : at + 2] == b"II" else ">"
    if len(data) < at + 8 or data[at : at + 4] not in (b"II*\0", b"MM\0*"):
        return edited(data, random_)
    directory = at + struct.unpack_from(order + "I", data, at + 4)[0]
    if directory + 2 > len(data):
        return edited(data, random_)
    (count,) = struct.unpack_from(order + "H", data, directory)
    entry = directory + 2 + 12 * random_.randrange(max(count, 1))
    changed = bytearray(data)
    field, offset, width = random_.choice((("tag", 0, 2), ("type", 2, 2), ("count", 4, 4), ("value", 8, 4)))
    if entry + 12 > len(data):
        return edited(data, random_)
    value = random_.choice((random_.randrange(0x100, 0x160), random_.randrange(20), *EXTREMES)) & (1 << 8 * width) - 1
    struct.pack_into(order + ("H" if width == 2 else "I"), changed, entry + offset, value)
    return bytes(changed), f"{field} of entry {(entry - directory - 2) // 12} becomes {value}"


def joined(name: str, data: bytes, random_: random.Random) -> tuple[bytes, str]:
    """Two files one after the other, the head of one with the tail of another, or nothing at all."""
    other_name = random_.choice(list(originals()))
    other = originals()[other_name]
    how = random_.choice(("empty", "behind", "before", "head and tail", "head and tail", "repeated"))
    if how == "empty":
        return b"", how
    if how == "behind":
        return data + other, f"{other_name} behind it"
    if how == "before":
        return random_.randbytes(random_.randint(1, 64)) + data, "random bytes before it"
    if how == "repeated":
        return data * random_.randint(2, 50), how
    at, from_ = random_.randrange(len(data)), random_.randrange(len(other))
    return data[:at] + other[from_:], f"its head with the tail of {other_name}"


def bomb(name: str, data: bytes, random_: random.Random) -> tuple[bytes, str]:
    """Files of a few kilobytes that decode to as much as is allowed, or more."""
    makers = (_flat_png, _flat_png, _text_bomb, _frame_bomb, _deflated_tiff, _many_chunks)
    maker = random_.choice(makers)
    return maker(random_), maker.__name__.removeprefix("_").replace("_", " ")


def _flat_png(random_: random.Random) -> bytes:
    """Zeros of a large declared size; the rows may be fewer or more than that."""
    width, height = random_.choice(((100_000, 100_000), (30_000, 30_000), (8000, 8000), (16384, 4096), (4096, 4096)))
    bits, color, channels = random_.choice(((1, 0, 1), (8, 6, 4), (16, 0, 1), (16, 6, 4), (8, 2, 3)))
    row = (width * channels * bits + 7) // 8 + 1
    rows = min(random_.choice((1, height // 2, height)), (64 << 20) // row)
    return png(width, height, bits, color, bytes(row * rows))


def _text_bomb(random_: random.Random) -> bytes:
    """A PNG with 64 MiB of text, or of a colour profile, in 64 KB."""
    packed = zlib.compress(bytes(64 << 20), 9)
    kind = random_.choice((b"zTXt", b"iTXt", b"iCCP"))
    head = b"name\0\1\0\0\0" if kind == b"iTXt" else b"name\0\0"
    (first, *others) = png_chunks(originals()["png rgb"])
    chunks = [first, *[(kind, head + packed)] * random_.choice((1, 4)), *others]
    return PNG_SIGNATURE + b"".join(chunk(*item) for item in chunks)


def _frame_bomb(random_: random.Random) -> bytes:
    """An animation of many frames."""
    frames = [noise("P", 16, 16, seed) for seed in range(200)]
    format_name = random_.choice(("GIF", "PNG", "WEBP", "TIFF"))
    return encode(frames[0], format_name, save_all=True, append_images=frames[1:])


def _deflated_tiff(random_: random.Random) -> bytes:
    """A TIFF of one flat colour, at the limits of size and below."""
    size = random_.choice(((8192, 8192), (16384, 4096), (4000, 4000)))
    return encode(noise("1", 8, 8).resize(size), "TIFF", compression=random_.choice(("tiff_adobe_deflate", "group4")))


def _many_chunks(random_: random.Random) -> bytes:
    """A PNG or JPEG of a hundred thousand empty chunks or comments."""
    count = 100_000
    if random_.random() < 0.5:
        (first, *others) = png_chunks(originals()["png rgb"])
        kind = random_.choice((b"tEXt", b"IDAT", b"pHYs", b"fdAT"))
        return PNG_SIGNATURE + chunk(*first) + chunk(kind, b"") * count + b"".join(chunk(*item) for item in others)
    data = originals()["jpeg"]
    return data[:2] + random_.choice((b"\xff\xfe\0\2", b"\xff\xe1\0\2", b"\xff\xff")) * count + data[2:]


MUTATIONS: tuple[Mutation, ...] = (damaged, damaged_chunks, damaged, declared, tiff_entries, joined, damaged, bomb)
