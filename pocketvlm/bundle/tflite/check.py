"""A .tflite file is one that exports could have written: indices lead to what they are to lead to, tensors fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from pocketvlm.bundle.programs.flat import FlatBuffer, ProgramError, Table
from pocketvlm.bundle.tflite.schema import TFLITE, UNIONS
from pocketvlm.bundle.tflite.shapes import MOST_RANK, OPERATORS, Dims, Operand

MAGIC: Final = b"TFL3"
VERSION: Final = 3
#: TensorType -> its name and the bits of an element.
TYPES: Final = {0: ("float32", 32), 1: ("float16", 16), 2: ("int32", 32), 9: ("int8", 8), 17: ("int4", 4)}
#: Small int32 constants, which say how an operator moves numbers, are looked into.
MOST_NUMBERS: Final = 64
#: Blocks are multiples of this.
SMALLEST_BLOCK: Final = 32
#: Bytes of what one graph computes; pages that nobody writes to take none.
MOST_MEMORY: Final = 1 << 36
NONE: Final = -1


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs: shape and type by name."""

    inputs: dict[str, tuple[Dims, str]]
    outputs: dict[str, tuple[Dims, str]]


@dataclass
class _File:
    """``buffers`` are the bytes of each buffer, None of one that has none."""

    buffers: list[memoryview | None] = field(default_factory=list)
    codes: list[tuple[int, int]] = field(default_factory=list)


def check_tflite(content: memoryview) -> dict[str, Signature]:
    """The signatures of a file, by name.

    :raises ProgramError: it is another; the message says where and why, in printable characters
    """
    _refuse(bytes(content[4:8]) != MAGIC, "it is of another version")
    raw = FlatBuffer(content, TFLITE, UNIONS).root("Model")
    more = raw["metadata"] or raw["metadata_buffers"] or raw["external_groups"] or raw["external_buffers"]
    _refuse(raw["version"] != VERSION or bool(more), "it is of another version")
    file = _File([_buffer(one, content) for one in raw["buffers"]])
    _refuse(not file.buffers or file.buffers[0] is not None, "its first buffer is not empty")
    for code in raw["codes"]:
        number, version = max(code["deprecated"], code["code"]), code["version"] or 1  # what is not there is 1
        known = number in OPERATORS and version in OPERATORS[number][0] and code["custom"] is None
        _refuse(not known, f"no export calls the operator {number}, version {version}")
        file.codes.append((number, version))
    graphs = []
    for at, graph in enumerate(raw["graphs"]):
        try:
            graphs.append(_Graph(graph, file))
        except ProgramError as error:
            raise ProgramError(f"graph {at}: {error}") from error
    signatures = {one["key"]: _signature(one, graphs) for one in raw["signatures"]}
    wrong = len(signatures) != len(raw["signatures"]) or None in signatures
    _refuse(wrong or len(graphs) != len(signatures), "its graphs and its signatures are not the same")
    return signatures


def _refuse(condition: bool, why: str) -> None:
    if condition:
        raise ProgramError(why)


def _buffer(raw: Table, content: memoryview) -> memoryview | None:
    data, offset, size = raw["data"], raw["offset"], raw["size"]
    if not offset and not size:
        return data if len(data) else None
    _refuse(len(data) > 0 or size < 1 or offset < 1 or offset + size > len(content), "a buffer lies outside of it")
    return content[offset : offset + size]


class _Graph:
    """A graph's tensors, and what its operators make of them."""

    def __init__(self, raw: Table, file: _File) -> None:
        self._file, self._tensors = file, raw["tensors"]
        self.operands = [self._operand(tensor) for tensor in self._tensors]
        self._check_blocks()
        constants = {at for at, one in enumerate(self.operands) if one.is_constant}
        self.inputs, self.outputs = raw["inputs"], raw["outputs"]
        for indices in (self.inputs, self.outputs):
            self._check_indices(indices, set(range(len(self.operands))) - constants)
            _refuse(len(set(indices)) != len(indices), "a tensor is its input or output twice")
        self._known = constants | set(self.inputs)
        for at, node in enumerate(raw["operators"]):
            try:
                self._check_operator(node)
            except ProgramError as error:
                raise ProgramError(f"operator {at}: {error}") from error
        self._check_indices(self.outputs, self._known)
        computed = (one for at, one in enumerate(self.operands) if at not in constants)
        _refuse(sum(_bytes_of(one) for one in computed) > MOST_MEMORY, "its memory is none")

    def _operand(self, tensor: Table) -> Operand:
        dims, buffers, quantization = tuple(tensor["shape"]), self._file.buffers, tensor["quantization"]
        plain = tensor["type"] in TYPES and len(dims) <= MOST_RANK and min(dims, default=1) > 0
        other = tensor["variable"] or tensor["shape_signature"] or tensor["variants"] or tensor["external_buffer"]
        _refuse(not plain or bool(other) or tensor["sparsity"] is not None, "a tensor is none that exports write")
        _refuse(tensor["buffer"] >= len(buffers), "a tensor lies nowhere")
        (dtype, _), data = TYPES[tensor["type"]], buffers[tensor["buffer"]]
        operand = Operand(dims, dtype, data is not None)
        if data is None:
            _refuse(dtype not in ("float32", "int32", "int8"), "a tensor is none that exports write")
            _refuse(dtype == "int8" and not _is_whole_steps(quantization), "codes count in something else")
            _refuse(dtype != "int8" and quantization is not None, "numbers are scaled")
            return operand
        _refuse(len(data) != _bytes_of(operand), "a constant has another size")
        if dtype in ("int8", "int4"):
            return Operand(dims, dtype, True, None, _kind_of_scales(dims, dtype, quantization))
        _refuse(quantization is not None, "numbers are scaled")
        small = dtype == "int32" and math.prod(dims) <= MOST_NUMBERS
        return Operand(dims, dtype, True, tuple(np.frombuffer(data, "<i4").tolist()) if small else None)

    def _check_blocks(self) -> None:
        """Scales of blocks are tensors of their own, float16 [rows, blocks of a row]."""
        for tensor, operand in zip(self._tensors, self.operands, strict=True):
            if operand.kind != "blocks":
                continue
            blocks = tensor["quantization"]["details"][1]
            rows, columns = operand.dims
            size, at = blocks["size"], blocks["scales"]
            _refuse(size < 1 or size % SMALLEST_BLOCK > 0 or columns % size > 0, "a weight's blocks are none")
            _refuse(blocks["zero_points"] != NONE or bool(blocks["shape"]), "a weight's blocks are none")
            _refuse(not 0 <= at < len(self.operands), "an index leads to something else")
            scales = self.operands[at]
            fits = scales.is_constant and scales.dtype == "float16" and scales.dims == (rows, columns // size)
            _refuse(not fits, "a weight has other scales than blocks")
            data = self._file.buffers[self._tensors[at]["buffer"]]
            assert data is not None
            _check_scales(np.frombuffer(data, "<f2"))

    def _check_indices(self, indices: Sequence[int], allowed: set[int]) -> None:
        _refuse(not allowed.issuperset(indices), "an index leads to something else")

    def _check_operator(self, node: Table) -> None:
        _refuse(node["code"] >= len(self._file.codes), "it is none")
        number, version = self._file.codes[node["code"]]
        _, wanted, counts, rule = OPERATORS[number]
        kind, told = node["options"]
        more = node["custom"] or node["mutating"] or node["intermediates"] or node["large_offset"] or node["large_size"]
        _refuse(kind != wanted or bool(more) or node["more_options"][0] != "Empty" or bool(node["more_options"][1]),
                "it is told something else")  # fmt: skip
        inputs = node["inputs"][:-1] if wanted == "FullyConnected" and node["inputs"][-1:] == [NONE] else node["inputs"]
        _refuse(len(inputs) not in counts or len(node["outputs"]) != 1, "it takes or gives another number of tensors")
        self._check_indices(inputs, self._known)
        (output,) = node["outputs"]
        self._check_indices([output], set(range(len(self.operands))) - self._known)
        taken, gives = [self.operands[at] for at in inputs], self.operands[output]
        _refuse(rule(told, taken) != (gives.dims, gives.dtype), "shapes do not fit")
        _check_version(number, version, taken)
        self._known.add(output)


def _check_version(number: int, version: int, taken: Sequence[Operand]) -> None:
    """Where an operator's version says of what kind its weights are."""
    kinds = {9: {1: "", 9: "rows", 12: "rows", 13: "blocks"}, 7: {1: "", 4: "rows"}}
    _refuse(number in kinds and taken[1].kind != kinds[number][version], "its version is for other weights")


def _bytes_of(operand: Operand) -> int:
    bits = next(bits for name, bits in TYPES.values() if name == operand.dtype)
    return -(-math.prod(operand.dims) * bits // 8)


def _is_whole_steps(quantization: Table | None) -> bool:
    """Codes of a KV cache: each is worth its own number."""
    if quantization is None or quantization["details"][0] != "Empty":
        return False
    scale, zero = np.frombuffer(quantization["scale"], "<f4"), np.frombuffer(quantization["zero_point"], "<i8")
    return scale.tolist() == [1.0] and zero.tolist() == [0] and not quantization["min"] and not quantization["max"]


def _kind_of_scales(dims: Dims, dtype: str, quantization: Table | None) -> str:
    """Of a weight [rows, columns]: "rows" with a scale each and no zero points, or "blocks"."""
    _refuse(quantization is None or len(dims) != 2, "a weight has no scales")
    assert quantization is not None
    _refuse(bool(quantization["min"] or quantization["max"] or quantization["dimension"]), "a weight has other scales")
    scale, zero = np.frombuffer(quantization["scale"], "<f4"), np.frombuffer(quantization["zero_point"], "<i8")
    if quantization["details"][0] == "Blocks":
        _refuse(dtype != "int4" or scale.size > 0 or zero.size > 0, "a weight has other scales")
        return "blocks"
    _refuse(scale.size != dims[0] or zero.size != dims[0] or bool(zero.any()), "a weight has other scales than rows")
    _check_scales(scale)
    return "rows"


def _check_scales(scales: np.ndarray) -> None:
    _refuse(not (np.isfinite(scales) & (scales > 0)).all(), "a scale is no positive number")


def _signature(raw: Table, graphs: Sequence[_Graph]) -> Signature:
    _refuse(raw["graph"] >= len(graphs), "a signature leads to no graph")
    graph, sides = graphs[raw["graph"]], []
    for maps, indices in ((raw["inputs"], graph.inputs), (raw["outputs"], graph.outputs)):
        named = {one["name"]: one["tensor"] for one in maps}
        wrong = len(named) != len(maps) or None in named or sorted(named.values()) != sorted(indices)
        _refuse(wrong, "a signature has other tensors than its graph")
        sides.append({name: (graph.operands[at].dims, graph.operands[at].dtype) for name, at in named.items()})
    return Signature(*sides)
