"""A program is one that exports could have written: indices lead to what they are to lead to, tensors into memory.

ExecuTorch verifies that a program is a whole flatbuffer. What is in it, it mostly takes as it is: an operator of number
-2147483648 is looked for in front of the program.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pocketvlm.bundle.programs.flat import FlatBuffer, ProgramError, Table
from pocketvlm.bundle.programs.schema import PROGRAM, UNIONS
from pocketvlm.bundle.programs.xnnpack import DelegateGraph, read_delegate

MAGIC, HEADER_MAGIC = b"ET12", b"eh00"
#: Behind eight bytes of the flatbuffer: magic, bytes of the header, of the program; where segments begin, their bytes.
HEADER: Final = struct.Struct("<4sIQQQ")
HEADER_AT: Final = 8
#: ScalarType -> bytes of an element.
TYPES: Final = {0: 1, 1: 1, 4: 8, 6: 4, 11: 1}
#: Kernels may read so many bytes past a tensor's end.
BEYOND: Final = 128
MOST_RANK: Final = 8
#: Kernels count with numbers, and do not look whether they overflow; a slice's end may be the largest of 64 bits.
MOST_INT, END = (1 << 31) - 1, (1 << 63) - 1
#: Of one method's memory; pages that nobody writes to take none.
MOST_MEMORY: Final = 1 << 36
XNNPACK: Final = "XnnpackBackend"
#: The kernels that exports call, with what they take: one that is given another kind of value ends the process.
OPERATORS: Final = {
    ("aten::_local_scalar_dense", ""): "Tensor Int",
    ("aten::add", "out"): "Tensor Tensor Int Tensor Tensor",
    ("aten::arange", "start_out"): "Int Int Int Tensor Tensor",
    ("aten::embedding", "out"): "Tensor Tensor Int Bool Bool Tensor Tensor",
    ("aten::empty", "out"): "IntList Null Tensor Tensor",
    ("aten::floor_divide", "out"): "Tensor Tensor Tensor Tensor",
    ("aten::index_put_", ""): "Tensor OptionalTensorList Tensor Bool Tensor",
    ("aten::index_select", "out"): "Tensor Int Tensor Tensor Tensor",
    ("aten::le", "Tensor_out"): "Tensor Tensor Tensor Tensor",
    ("aten::mul", "Scalar_out"): "Tensor Double Tensor Tensor",
    ("aten::mul", "out"): "Tensor Tensor Tensor Tensor",
    ("aten::slice_copy", "Tensor_out"): "Tensor Int Int Int Int Tensor Tensor",
    ("aten::sym_size", "int"): "Tensor Int Int",
    ("aten::unsqueeze_copy", "out"): "Tensor Int Tensor Tensor",
    ("aten::where", "self_out"): "Tensor Tensor Tensor Tensor Tensor",
    ("executorch_prim::add", "Scalar"): "Int Int Int",
    ("executorch_prim::et_view", "default"): "Tensor IntList Tensor",
    ("executorch_prim::mul", "Scalar"): "Int Int Int",
}


@dataclass(frozen=True)
class CheckedProgram:
    """What methods refer to: bytes of each constant, and the delegates' graphs by their segments."""

    constants: Sequence[int]
    graphs: dict[int, DelegateGraph]
    segments: Sequence[memoryview]
    named: dict[str, int]


def check_program(content: memoryview) -> None:
    """:raises ProgramError: it is another; the message says where and why, in printable characters"""
    raw, segments = read_program(content)
    _refuse(bool(raw["constants"] or raw["delegate_data"] or raw["mutable_segments"]), "it has data inside")
    _refuse(raw["version"] != 0, "it is of another version")
    named = {data["key"]: data["segment"] for data in raw["named_data"]}
    _refuse(
        len(named) != len(raw["named_data"]) or any(at >= len(segments) for at in named.values()), "a name is wrong"
    )
    program = CheckedProgram(_constants(raw["constant_segment"], segments), {}, segments, {
        key: len(segments[at]) for key, at in named.items()
    })  # fmt: skip
    names = [method["name"] for method in raw["methods"]]
    _refuse(len(set(names)) != len(names) or None in names, "it has two methods of one name")
    for method in raw["methods"]:
        try:
            _check_method(method, program)
        except ProgramError as error:
            raise ProgramError(f"{method['name'][:40]}: {error}") from error


def read_program(content: memoryview, seen: Any = None) -> tuple[Table, list[memoryview]]:
    """The tables of a program and its segments; ``seen`` as ``FlatBuffer`` has it."""
    _refuse(len(content) < HEADER_AT + HEADER.size or content[4:8] != MAGIC, "it is of another version")
    magic, _, size, base, data = HEADER.unpack_from(content, HEADER_AT)
    wrong = magic != HEADER_MAGIC or not HEADER_AT + HEADER.size <= size <= base or base + data > len(content)
    _refuse(wrong, "its header is damaged")
    more = () if seen is None else (seen,)
    raw = FlatBuffer(content[:size], PROGRAM, UNIONS, *more).root("Program")
    _refuse(any(one["offset"] + one["size"] > data for one in raw["segments"]), "a segment lies outside of it")
    return raw, [content[base + one["offset"] :][: one["size"]] for one in raw["segments"]]


def _refuse(condition: bool, why: str) -> None:
    if condition:
        raise ProgramError(why)


def _constants(places: Table | None, segments: Sequence[memoryview]) -> list[int]:
    """Bytes of each constant; the first stands for none."""
    if places is None or not places["offsets"]:
        return []
    _refuse(places["segment"] >= len(segments), "its constants lie nowhere")
    ends = [*places["offsets"][1:], len(segments[places["segment"]])]
    sizes = [end - start for start, end in zip(places["offsets"], ends, strict=True)]
    _refuse(min(sizes) < 0, "its constants lie nowhere")
    return sizes


def _check_method(method: Table, program: CheckedProgram) -> None:
    buffers, values = method["buffers"], [value["value"] for value in method["values"]]
    _refuse(not buffers or buffers[0] != 0 or min(buffers) < 0 or sum(buffers) > MOST_MEMORY, "its memory is none")
    _refuse(bool(method["devices"]), "it is for another device")
    kinds = [kind for kind, _ in values]
    for kind, value in values:
        if kind == "Tensor":
            _check_tensor(value, buffers, program.constants)
        elif kind == "IntList":
            _check_indices(value["items"], kinds, "Int")
        elif kind == "OptionalTensorList":
            _check_indices(value["items"], kinds, "Tensor")
        elif kind == "Int":
            _refuse(abs(value["number"]) > MOST_INT and value["number"] != END, "a number is out of the question")
    _check_indices(method["inputs"], kinds, "Tensor")
    _check_indices(method["outputs"], kinds, "Tensor", "Int", "Bool")
    graphs = [_graph_of(delegate, program) for delegate in method["delegates"]]
    _refuse(len(method["chains"]) != 1, "it has no single chain")
    (chain,) = method["chains"]
    _refuse(bool(chain["inputs"] or chain["outputs"] or chain["trace"]), "its chain is another")
    for at, instruction in enumerate(chain["instructions"]):
        kind, call = instruction["call"]
        try:
            if kind == "KernelCall":
                _check_kernel(call, method["operators"], kinds)
            else:
                _check_indices([call["delegate"]], ["graph"] * len(graphs), "graph")
                _check_indices(call["arguments"], kinds, "Tensor")
                graphs[call["delegate"]].check_arguments([values[argument][1] for argument in call["arguments"]])
        except ProgramError as error:
            raise ProgramError(f"instruction {at}: {error}") from error


def _check_indices(indices: Sequence[int], kinds: Sequence[str], *wanted: str) -> None:
    wrong = any(not 0 <= index < len(kinds) or kinds[index] not in wanted for index in indices)
    _refuse(wrong, "an index leads to something else")


def _check_tensor(tensor: Table, buffers: Sequence[int], constants: Sequence[int]) -> None:
    sizes, extra, place = tensor["sizes"], tensor["extra"], tensor["allocation"]
    plain = tensor["type"] in TYPES and len(sizes) <= MOST_RANK and tensor["order"] == list(range(len(sizes)))
    plain &= not (tensor["storage_offset"] or tensor["gradient"] or tensor["layout"]) and tensor["dynamism"] in (0, 1)
    plain &= extra is None or not (extra["mutable_segment"] or extra["location"] or extra["device_type"])
    _refuse(not plain or min(sizes, default=0) < 0, "a tensor is none that exports write")
    size = TYPES[tensor["type"]] * math.prod(sizes)
    if place is None:
        fits = 0 < tensor["buffer"] < len(constants) and size <= constants[tensor["buffer"]]
    else:
        start = place["low"] | place["high"] << 32
        fits = tensor["buffer"] == 0 and 0 < place["memory"] < len(buffers)
        fits = fits and start + size + BEYOND <= buffers[place["memory"]]
    _refuse(not fits, "a tensor lies outside of its memory")


def _check_kernel(call: Table, operators: Sequence[Table], kinds: Sequence[str]) -> None:
    _refuse(not 0 <= call["operator"] < len(operators), "its operator is none")
    operator = operators[call["operator"]]
    wanted = OPERATORS.get((operator["name"] or "", operator["overload"] or ""))
    _refuse(wanted is None, "no export calls this operator")
    arguments = call["arguments"]
    _check_indices(arguments, kinds, *set(kinds))
    _refuse([kinds[argument] for argument in arguments] != (wanted or "").split(), "an index leads to something else")


def _graph_of(delegate: Table, program: CheckedProgram) -> DelegateGraph:
    data = delegate["data"]
    wrong = delegate["id"] != XNNPACK or bool(delegate["specs"]) or data is None or data["location"] != 1
    _refuse(wrong or data["index"] >= len(program.segments), "its delegate is another")
    at = data["index"]
    if at not in program.graphs:
        program.graphs[at] = read_delegate(program.segments[at], program.named)
    return program.graphs[at]
