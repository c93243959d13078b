"""XNNPACK's graphs inside a program, as far as exports write them: ids, constants and shapes that fit each other."""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pocketvlm.bundle.programs.flat import FlatBuffer, ProgramError, Schema, Table, Unions
from pocketvlm.bundle.programs.shapes import MOST_RANK, MOVING, SHAPES

MAGIC: Final = b"XH00"
#: Behind four zeros: magic, bytes of the header, where the flatbuffer and constants begin and their bytes.
HEADER: Final = struct.Struct("<4x4sHIIIQ")
ROOT_MAGIC: Final = b"XN01"
NONE: Final = (1 << 32) - 1
#: The offset of a constant that lies in the program's named data.
NAMED: Final = (1 << 64) - 1
MOST_ELEMENTS: Final = 1 << 36
#: XNNDatatype: float32, INT8 of one scale, INT8 and INT4 of one a row, INT8 computed with one a row, INT4 in blocks.
FLOAT, STEPS, BY_ROW_8, BY_ROW_4, ROUNDED, BLOCKS = 1, 3, 6, 8, 9, 10
#: XNNDatatype of an argument -> ExecuTorch's ScalarType.
ARGUMENTS: Final = {FLOAT: 6, STEPS: 1}
UNARY = [("input", "u32"), ("output", "u32"), ("flags", "u32")]
BINARY = [("left", "u32"), ("right", "u32"), ("output", "u32"), ("flags", "u32")]
CONCATENATE = [
    ("axis", "u32"), ("1", "u32"), ("2", "u32"), ("3", "u32"), ("4", "u32"), ("output", "u32"), ("flags", "u32"),
    ("5", "u32"),
]  # fmt: skip
CONVOLUTION = [
    *((name, "u32") for name in (
        "pad_top", "pad_right", "pad_bottom", "pad_left", "height", "width", "step_down", "step_across",
        "dilation_down", "dilation_across", "channels", "given", "groups", "more_down", "more_across", "input",
        "filter", "bias", "output", "flags",
    )),
]  # fmt: skip
GRAPH: Final[Schema] = {
    "Graph": [
        ("version", "text"), ("nodes", "[Node]"), ("values", "[XValue]"), ("externals", "u32"), ("inputs", "[u32]"),
        ("outputs", "[u32]"), ("buffers", "[Nothing]"), ("buffer_sizes", "[u32]"), ("constants", "[Constant]"),
    ],
    "Constant": [("offset", "u64"), ("size", "u64"), ("key", "text")],
    "XValue": [("value", "<value>")],
    "Plain": [
        ("type", "i16"), ("rank", "u32"), ("dims", "[u32]"), ("constant", "u32"), ("external", "u32"), ("flags", "u32"),
        ("id", "u32"), ("dynamic_type", "i16"),
    ],
    "Quantized": [("plain", "Plain"), ("scales", "<scales>")],
    "PerChannel": [("scale", "[f32]"), ("axis", "i32"), ("constant", "u32"), ("count", "u32")],
    "PerTensor": [("scale", "f32"), ("zero", "i32")],
    "PerToken": [("axes", "i32")],
    "PerGroup": [
        ("scale", "[f32]"), ("axis", "i32"), ("group", "i32"), ("old", "[u16]"), ("constant", "u32"), ("count", "u32"),
    ],
    "Node": [("node", "<node>"), ("handle", "u32"), ("bounds", "Nothing")],
    "Nothing": [],
    "FullyConnected": [
        ("input", "u32"), ("filter", "u32"), ("bias", "u32"), ("output", "u32"), ("flags", "u32"),
    ],
    "Transpose": [("rank", "u32"), ("order", "[u32]"), ("input", "u32"), ("output", "u32"), ("flags", "u32")],
    "Pad": [
        ("before", "[u32]"), ("behind", "[u32]"), ("number", "f32"), ("input", "u32"), ("output", "u32"),
        ("flags", "u32"),
    ],
    "Reshape": [("rank", "u32"), ("shape", "[u32]"), ("input", "u32"), ("output", "u32"), ("flags", "u32")],
    "Slice": [
        ("rank", "u32"), ("offsets", "[u32]"), ("sizes", "[u32]"), ("input", "u32"), ("output", "u32"),
        ("flags", "u32"),
    ],
    **{f"Concatenate{count}": CONCATENATE for count in range(2, 6)},
    **dict.fromkeys(("Softmax", "Sigmoid", "Convert", "Square", "InverseRoot", "Log", "Gelu", "Tanh", "Exp"), UNARY),
    **dict.fromkeys(("Add", "Multiply", "Subtract", "Product", "Maximum", "Minimum"), BINARY),
    **dict.fromkeys(("Convolution", "Depthwise"), CONVOLUTION),
}  # fmt: skip
#: Of XNodeUnion, those that exports write.
NODES: Final = {
    1: "Add", 2: "FullyConnected", 3: "Softmax", 4: "Sigmoid", 5: "Transpose", 7: "Convolution", 10: "Pad",
    12: "Minimum", 13: "Depthwise", 15: "Multiply", 16: "Subtract", 18: "Convert", 20: "Reshape", 26: "Maximum",
    28: "Square", 32: "Concatenate2", 33: "Concatenate3", 34: "Concatenate4", 35: "Slice", 37: "Product",
    38: "Concatenate5", 40: "InverseRoot", 41: "Log", 42: "Gelu", 43: "Tanh", 44: "Exp",
}  # fmt: skip
UNIONS: Final[Unions] = {
    "value": {1: "Plain", 2: "Quantized"},
    "scales": {1: "PerChannel", 2: "PerTensor", 3: "PerToken", 4: "PerGroup"},
    "node": NODES,
}


@dataclass(frozen=True)
class Tensor:
    """A value: XNNDatatype, dimensions (upper bounds where they vary), whether it is a constant."""

    type: int
    dims: tuple[int, ...]
    constant: bool


@dataclass(frozen=True)
class DelegateGraph:
    """What a call of the graph takes: its inputs, then its outputs."""

    arguments: tuple[Tensor, ...]

    def check_arguments(self, tensors: Sequence[Table]) -> None:
        """Hold the tensors of a call (tables of the program) to the graph's own: a call may have fewer rows.

        :raises ProgramError: they are others
        """
        _refuse(len(tensors) != len(self.arguments), "a graph takes other arguments")
        for wanted, given in zip(self.arguments, tensors, strict=True):
            sizes = tuple(given["sizes"])
            fits = given["type"] == ARGUMENTS.get(wanted.type) and len(sizes) == len(wanted.dims)
            fits = fits and sizes[-1:] == wanted.dims[-1:] and all(map(operator.le, sizes, wanted.dims))
            _refuse(not fits, "a graph takes other arguments")


def read_delegate(content: memoryview, named: Mapping[str, int]) -> DelegateGraph:
    """A graph, held to what exports write; ``named`` has the bytes of the program's named data.

    :raises ProgramError: it is another
    """
    raw = read_graph(content)
    _refuse(raw["version"] != "0" or bool(raw["buffers"] or raw["buffer_sizes"]), "its XNNPACK graph is another")
    constants = []
    for constant in raw["constants"]:
        empty = not constant["key"] and constant["size"] == constant["offset"] == 0
        fits = constant["offset"] == NAMED and named.get(constant["key"] or "", -1) == constant["size"]
        _refuse(not (empty or fits), "a constant lies nowhere")
        constants.append(constant["size"])
    values = [_tensor(value["value"], at, constants) for at, value in enumerate(raw["values"])]
    arguments = _arguments(raw, values)
    known = {at for at, value in enumerate(values) if value.constant} | set(raw["inputs"])
    for at, node in enumerate(raw["nodes"]):
        try:
            kind, table = node["node"]
            _check_node(kind, table, values, known)
            _refuse(node["bounds"] is not None, "it has bounds")
        except ProgramError as error:
            raise ProgramError(f"node {at} of its XNNPACK graph, {node['node'][0]}: {error}") from error
    _refuse(not known.issuperset(raw["outputs"]), "nothing gives an output of its XNNPACK graph")
    return DelegateGraph(tuple(values[at] for at in arguments))


def read_graph(content: memoryview, seen: Any = None) -> Table:
    """The tables of a delegate's payload; ``seen`` as ``FlatBuffer`` has it, positions in the flatbuffer."""
    _refuse(len(content) < HEADER.size, "its XNNPACK graph is damaged")
    magic, _, start, size, _, _ = HEADER.unpack_from(content)
    flat = content[start : start + size]
    _refuse(magic != MAGIC or len(flat) != size or bytes(flat[4:8]) != ROOT_MAGIC, "its XNNPACK graph is damaged")
    return FlatBuffer(flat, GRAPH, UNIONS, *(() if seen is None else (seen,))).root("Graph")


def _refuse(condition: bool, why: str) -> None:
    if condition:
        raise ProgramError(why)


def _tensor(value: tuple[str, Table], at: int, constants: Sequence[int]) -> Tensor:
    kind, raw = value
    plain = raw if kind == "Plain" else raw["plain"]
    scales = (None, None) if kind == "Plain" else raw["scales"]
    if plain is None:
        raise ProgramError("a value of its XNNPACK graph is none")
    dims = tuple(plain["dims"])
    fits = plain["rank"] == len(dims) <= MOST_RANK and math.prod(dims) <= MOST_ELEMENTS and min(dims, default=1) > 0
    fits &= plain["id"] == at and plain["constant"] < max(1, len(constants)) and plain["dynamic_type"] == 0
    fits &= plain["flags"] == 0 if plain["external"] == NONE else plain["flags"] in (1, 2) and plain["constant"] == 0
    _refuse(not fits, "a value of its XNNPACK graph is none that exports write")
    _check_scales(plain["type"], dims, scales, constants)
    if plain["constant"]:
        _refuse(constants[plain["constant"]] < _bytes(plain["type"], dims), "a constant is too short")
    return Tensor(plain["type"], dims, constant=plain["constant"] > 0)


def _bytes(kind: int, dims: Sequence[int]) -> int:
    if kind in (BY_ROW_4, BLOCKS):
        return math.prod(dims[:-1]) * -(-dims[-1] // 2)
    return math.prod(dims) * (4 if kind == FLOAT else 1)


def _check_scales(kind: int, dims: tuple[int, ...], given: tuple[str | None, Any], constants: Sequence[int]) -> None:
    name, scales = given
    if name is None:
        fits = kind == FLOAT
    elif name == "PerTensor":
        fits = kind == STEPS and 0 < scales["scale"] < 1e30 and scales["zero"] == 0
    elif name == "PerToken":
        fits = kind == ROUNDED and scales["axes"] == 1
    else:
        fits = not scales["scale"] and scales["axis"] == 0 and len(dims) == 2 and scales["constant"] < len(constants)
        fits = fits and scales["constant"] > 0
        count, width = (dims[0], 4) if fits else (0, 4)
        if name == "PerGroup" and fits:
            group = scales["group"]
            fits = kind == BLOCKS and not scales["old"] and group > 0 and group % 32 == 0 and dims[1] % group == 0
            count, width = (count * dims[1] // group, 2) if fits else (0, 2)
        elif fits:
            fits = kind in (BY_ROW_8, BY_ROW_4)
        fits = fits and scales["count"] == count and constants[scales["constant"]] >= width * count
    _refuse(not fits, "a value of its XNNPACK graph has other scales")


def _arguments(raw: Table, values: Sequence[Tensor]) -> list[int]:
    """The values that are arguments, by their places among these."""
    places: dict[int, int] = {}
    for at, value in enumerate(raw["values"]):
        kind, tensor = value["value"]
        external = (tensor if kind == "Plain" else tensor["plain"])["external"]
        if external != NONE:
            _refuse(external in places, "two values are one argument")
            places[external] = at
    wanted = [*raw["inputs"], *raw["outputs"]]
    found = [places.get(place, -1) for place in range(len(places))]
    wrong = raw["externals"] != len(places) or sorted(found) != sorted(wanted) or len(set(wanted)) != len(wanted)
    _refuse(wrong, "its XNNPACK graph has other arguments")
    return found


def _check_node(kind: str, node: Table, values: Sequence[Tensor], known: set[int]) -> None:
    """What it reads is known, and its output fits."""
    names: list[str] = [
        name for name in ("input", "left", "right", "filter", "bias", "1", "2", "3", "4", "5") if name in node
    ]
    count = int(kind[-1]) if kind.startswith("Concatenate") else len(names)
    ids = {name: node[name] for name in names}
    if kind.startswith("Concatenate"):
        _refuse(any(ids[str(at)] != NONE for at in range(count + 1, 6)), "it takes other inputs")
        ids = {name: at for name, at in ids.items() if int(name) <= count}
    if ids.get("bias") == NONE:
        del ids["bias"]
    _refuse(not known.issuperset(ids.values()), "it reads what is not there yet")
    output = node["output"]
    wrong = output >= len(values) or output in known or values[output].constant
    _refuse(wrong or node["flags"] > (kind == "Product"), "it gives something else")
    given = {name: values[at] for name, at in ids.items()}
    _refuse(not _fits(kind, node, given, values[output]), "its shapes do not fit")
    known.add(output)


def _fits(kind: str, node: Table, given: Mapping[str, Tensor], output: Tensor) -> bool:
    """Whether types and shapes are those of exports."""
    if kind == "FullyConnected":
        return _connected(given, output)
    if kind == "Convert":
        types = {given["input"].type, output.type}
        return given["input"].dims == output.dims and types in ({FLOAT, STEPS}, {FLOAT, ROUNDED}, {FLOAT})
    if not all(given[name].constant for name in ("filter", "bias") if name in given):
        return False
    types = {tensor.type for tensor in given.values()} | {output.type}
    known = types == {FLOAT} or (types == {STEPS} and kind in MOVING)
    return known and SHAPES[kind](node, [tensor.dims for tensor in given.values()]) == output.dims


def _connected(given: Mapping[str, Tensor], output: Tensor) -> bool:
    hidden, weight = given["input"], given["filter"]
    types = (hidden.type, weight.type) in ((FLOAT, FLOAT), (ROUNDED, BY_ROW_8), (ROUNDED, BY_ROW_4), (ROUNDED, BLOCKS))
    fits = types and weight.constant and output.type == FLOAT and len(weight.dims) == 2 and bool(hidden.dims)
    if "bias" in given:
        fits = fits and given["bias"].constant and (given["bias"].type, given["bias"].dims) == (FLOAT, weight.dims[:1])
    return fits and hidden.dims[-1] == weight.dims[1] and output.dims == (*hidden.dims[:-1], weight.dims[0])
