"""What a graph says of its weights, inputs and outputs, held to the files and the sizes that there are."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

from pocketvlm.bundle.graphs.shapes import TypedValue, elements, refuse
from pocketvlm.bundle.graphs.table import table
from pocketvlm.bundle.graphs.wire import LIMITS, GraphError, Message

#: The names that a branch's outputs may have for a dimension that varies.
BRANCH_NAMES: Final = frozenset({"sequence", "width"})
#: The input of which each number is at most 1.
MASK: Final = "attention_mask"


def tensor_value(tensor: Message, data: Mapping[str, int], room: dict[str, int]) -> TypedValue:
    """A weight; of the files ``data`` and their sizes, ``room`` is what no tensor has taken yet.

    :raises GraphError: it lies nowhere, or nobody lists its file
    """
    dtype = table().numbers.get(tensor.get("dtype", 0), "")
    refuse(not dtype, "a tensor has another type")
    dims = tuple(tensor["dims"])
    fits = len(dims) <= LIMITS["rank"] and all(0 < size <= LIMITS["size"] for size in dims)
    refuse(not fits, "a tensor has no such shape")
    bits = table().types[dtype][1] * elements(dims)
    refuse(bits > LIMITS["value_bits"], "a tensor is too large")
    size = -(-bits // 8)
    if "location" in tensor or tensor["external"]:
        refuse(tensor.get("location") != 1 or "raw" in tensor, "a tensor lies at two places")
        _take(tensor["external"], size, data, room)
        return TypedValue(dtype, dims, constant=True)
    raw = tensor.get("raw", b"")
    refuse(len(raw) != size, "a tensor has another length than its shape")
    ints = None
    if dtype == "int64" and len(dims) < 2 and elements(dims) <= LIMITS["ints"]:
        ints = struct.unpack(f"<{elements(dims)}q", raw)
    return TypedValue(dtype, dims, constant=True, ints=ints)


def _take(entries: Sequence[Message], size: int, data: Mapping[str, int], room: dict[str, int]) -> None:
    said = {entry.get("key"): entry.get("value", "") for entry in entries}
    refuse(len(entries) != 3 or said.keys() != {"location", "offset", "length"}, "a tensor lies nowhere")
    name = said["location"]
    refuse(name not in room, f"it takes weights from '{name[:120]}', which the manifest does not list for it")
    numbers = [said[key] for key in ("offset", "length")]
    refuse(not all(text.isdecimal() and len(text) <= 15 for text in numbers), "a tensor lies nowhere")
    offset, length = map(int, numbers)
    fits = offset % LIMITS["alignment"] == 0 and length == size and offset + length <= data[name]
    refuse(not fits, "a tensor lies nowhere")
    room[name] -= length
    refuse(room[name] < 0, "its tensors take more than there is")


def input_value(described: Message, sizes: Mapping[str, int]) -> TypedValue:
    """An input; ``sizes`` says what its dimensions that vary are at most."""
    dtype, shape = _typed(described)
    refuse(shape is None, "an input has no shape")
    dims = []
    for dim in shape or ():
        if "name" in dim:
            refuse("size" in dim or dim["name"] not in sizes, "an input has another shape")
            dims.append(-sizes[dim["name"]])
        else:
            refuse(not 0 < dim.get("size", 0) <= LIMITS["size"], "an input has another shape")
            dims.append(dim["size"])
    refuse(len(dims) > LIMITS["rank"], "an input has another shape")
    return TypedValue(dtype, tuple(dims), most=1 if described["name"] == MASK else None)


def check_declared(described: Message, values: Mapping[str, TypedValue], sizes: Mapping[str, int]) -> None:
    """What is said of an output, or of a value on the way, is so.

    :raises GraphError: it is not
    """
    dtype, shape = _typed(described)
    value = values.get(described["name"])
    if value is None or value.dtype != dtype:
        raise GraphError("it describes a value otherwise than it is")
    if shape is None:
        return
    fits = len(shape) == len(value.dims)
    for dim, size in zip(shape, value.dims, strict=False):
        if "name" in dim:
            fits &= "size" not in dim and (dim["name"] in sizes or dim["name"] in BRANCH_NAMES)
        else:
            said = dim.get("size", 0)
            fits &= said == size if size > 0 else 0 < said <= -size
    refuse(not fits, "it describes a value otherwise than it is")


def _typed(described: Message) -> tuple[str, Sequence[Message] | None]:
    tensor = described.get("type", {}).get("tensor", {})
    dtype = table().numbers.get(tensor.get("dtype", 0), "")
    refuse(not dtype or not described.get("name"), "it describes a value otherwise than it is")
    return dtype, tensor["shape"]["dims"] if "shape" in tensor else None
