"""Files of arrays: what a KV cache holds, and pictures, with a description before them and a digest behind.

``MAGIC``, the description's length (8 bytes, little-endian), the description (JSON), the arrays one after the other
(C order, little-endian), the SHA-256 of all that. Nothing is unpickled, and a file that was changed or cut is refused.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pocketvlm.errors import PocketVlmError
from pocketvlm.files import label, read_bounded, reason, written_whole
from pocketvlm.strict import Strict, checked

Array = npt.NDArray[Any]
#: The digit is the format's.
MAGIC = b"pocketvlm-rows-1\n"
LENGTH_BYTES, DIGEST_BYTES = 8, 32
#: Of a description: a conversation's messages are in it.
MOST_DESCRIBED = 64 << 20
MOST_ARRAYS = 1 << 16
TYPES = {"float32": "<f4", "int64": "<i8", "int8": "|i1", "uint8": "|u1"}

Text = Annotated[str, Field(max_length=200)]


class ArrayOf(Strict):
    """An array of a file."""

    name: Text
    dtype: Literal["float32", "int64", "int8", "uint8"]
    shape: Annotated[tuple[Annotated[int, Field(ge=0, le=1 << 40)], ...], Field(max_length=8)]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(TYPES[self.dtype]).itemsize


class Described(Strict):
    """Base of descriptions."""

    arrays: Annotated[tuple[ArrayOf, ...], Field(max_length=MOST_ARRAYS)] = ()


Description = TypeVar("Description", bound=Described)


def write_arrays(path: Path, description: Described, arrays: Mapping[str, Array], *, lasting: bool = True) -> None:
    """Write a file that appears when it is complete, and where it shall be ``lasting`` is on the disk then; for its
    owner alone.

    :raises PocketVlmError: it cannot be written
    """
    listed = tuple(ArrayOf(name=name, dtype=array.dtype.name, shape=array.shape) for name, array in arrays.items())
    text = description.model_copy(update={"arrays": listed}).model_dump_json().encode()
    digest = hashlib.sha256()
    try:
        with written_whole(path) as partial, partial.open("xb") as stream:
            os.fchmod(stream.fileno(), 0o600)  # what was said can be told from it
            for block in (MAGIC, len(text).to_bytes(LENGTH_BYTES, "little"), text, *_blocks(arrays)):
                digest.update(block)
                stream.write(block)
            stream.write(digest.digest())
            if lasting:
                stream.flush()
                os.fsync(stream.fileno())
    except (OSError, RuntimeError) as error:  # before Python 3.13 links that lead to each other are the latter
        raise PocketVlmError(f"{label(path)}: cannot be written ({reason(error)})") from error


def read_arrays(path: Path, schema: type[Description], most: int) -> tuple[Description, dict[str, Array]]:
    """The description and the arrays of a file of at most ``most`` bytes beside its description.

    :raises PocketVlmError: it cannot be read, is of another format, or damaged
    """
    content = memoryview(read_bounded(path, most + MOST_DESCRIBED))
    before = len(MAGIC) + LENGTH_BYTES
    if content[: len(MAGIC)] != MAGIC:
        raise PocketVlmError(f"{label(path)}: is not a file of this format, which begins with {MAGIC.decode().strip()}")
    length = int.from_bytes(content[len(MAGIC) : before], "little")
    if length > min(MOST_DESCRIBED, len(content) - before - DIGEST_BYTES):
        raise PocketVlmError(f"{label(path)}: is damaged: it ends too early")
    if hashlib.sha256(content[:-DIGEST_BYTES]).digest() != content[-DIGEST_BYTES:]:
        raise PocketVlmError(f"{label(path)}: is damaged: its content is not what was written")
    start = before + length
    description = checked(schema, bytes(content[before:start]), label(path))
    if start + sum(array.bytes for array in description.arrays) != len(content) - DIGEST_BYTES:
        raise PocketVlmError(f"{label(path)}: is damaged: its arrays are not those that it lists")
    arrays: dict[str, Array] = {}
    for array in description.arrays:
        part = content[start : start + array.bytes]
        arrays[array.name] = np.frombuffer(part, TYPES[array.dtype]).reshape(array.shape)
        start += array.bytes
    if len(arrays) != len(description.arrays):
        raise PocketVlmError(f"{label(path)}: is damaged: two of its arrays have one name")
    return description, arrays


def _blocks(arrays: Mapping[str, Array]) -> Iterator[bytes]:
    return (array.astype(TYPES[array.dtype.name], copy=False).tobytes() for array in arrays.values())
