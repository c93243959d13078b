"""A .tflite file is one that exports could have written: indices lead to what they are to lead to, tensors fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from pocketvlm.bundle.programs.flat import FlatBuffer, ProgramError, Table
from pocketvlm.bundle.tflite.schema import TFLITE, UNIONS
from pocketvlm.bundle.tflite.shapes import (
    COMPOSITE,
    FIXED_STEPS,
    INT16_VERSIONS,
    MOST_RANK,
    MOVING,
    OPERATORS,
    Dims,
    Operand,
)

MAGIC: Final = b"TFL3"
VERSION: Final = 3
#: TensorType -> its name and the bits of an element.
TYPES: Final = {
    0: ("float32", 32), 1: ("float16", 16), 2: ("int32", 32), 4: ("int64", 64), 6: ("bool", 8), 7: ("int16", 16),
    9: ("int8", 8), 17: ("int4", 4),
}  # fmt: skip
#: Types of what is computed, and of those the ones that are codes.
COMPUTED: Final = ("float32", "int32", "bool", "int8", "int16")
CODES: Final = ("int8", "int16")
#: The only composite, and the flexbuffer {"epsilon": double} that goes with it, around the number.
RMS_NORM: Final = "odml.rms_norm"
BEFORE_EPSILON: Final = b"epsilon\0\1\t" + bytes(6) + b"\7" + bytes(7) + b"\1" + bytes(7) + b"\1" + bytes(7)
AFTER_EPSILON: Final = b"\x0f\t'\1"
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
    _check_attached(graphs, len(signatures))
    _refuse(wrong, "its graphs and its signatures are not the same")
    return signatures


def _check_attached(graphs: Sequence[_Graph], signatures: int) -> None:
    """Behind the graphs of signatures are those of their composites, of each its own."""
    asked = [at for graph in graphs[:signatures] for at in graph.attached]
    _refuse(sorted(asked) != list(range(signatures, len(graphs))), "its graphs and its signatures are not the same")
    for graph in graphs[:signatures]:
        for at, (taken, gives) in graph.attached.items():
            inner = graphs[at]
            inputs, outputs = ([inner.operands[one] for one in side] for side in (inner.inputs, inner.outputs))
            _refuse(bool(inner.attached), "a composite's graph has composites")
            same = [_described(one) for one in inputs] == [_described(one) for one in taken]
            _refuse(
                not same or [_described(one) for one in outputs] != [_described(gives)],
                "a composite's graph is another",
            )


def _described(operand: Operand) -> tuple[Dims, str, float | None]:
    return operand.dims, operand.dtype, operand.step


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
        #: Graphs of composites: what they take and give.
        self.attached: dict[int, tuple[Sequence[Operand], Operand]] = {}
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
            _refuse(dtype not in COMPUTED, "a tensor is none that exports write")
            _refuse(dtype not in CODES and quantization is not None, "numbers are scaled")
            return Operand(dims, dtype, step=_step(quantization) if dtype in CODES else None)
        _refuse(len(data) != _bytes_of(operand) or dtype == "bool", "a constant has another size")
        if dtype == "int16":
            return Operand(dims, dtype, True, step=_step(quantization))
        if dtype in ("int8", "int4", "int64"):
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
        composed, said = node["more_options"]
        more = bool(more) or composed != ("Composite" if number == COMPOSITE else "Empty")
        _refuse(kind != wanted or more or (composed == "Empty" and bool(said)), "it is told something else")
        inputs = node["inputs"][:-1] if wanted == "FullyConnected" and node["inputs"][-1:] == [NONE] else node["inputs"]
        _refuse(len(inputs) not in counts or len(node["outputs"]) != 1, "it takes or gives another number of tensors")
        self._check_indices(inputs, self._known)
        (output,) = node["outputs"]
        self._check_indices([output], set(range(len(self.operands))) - self._known)
        taken, gives = [self.operands[at] for at in inputs], self.operands[output]
        dims, dtypes = rule(told, taken) or ((), ())
        kinds = (dtypes,) if isinstance(dtypes, str) else dtypes
        _refuse(dims != gives.dims or gives.dtype not in kinds, "shapes do not fit")
        _check_version(number, version, taken)
        _check_steps(number, taken, gives)
        if number == COMPOSITE:
            self._attach(said, taken, gives)
        self._known.add(output)

    def _attach(self, said: Table, taken: Sequence[Operand], gives: Operand) -> None:
        """A norm of whose epsilon nothing else is said."""
        attributes = bytes(said["attributes"])
        is_epsilon = attributes.startswith(BEFORE_EPSILON) and attributes.endswith(AFTER_EPSILON)
        is_epsilon &= len(attributes) == len(BEFORE_EPSILON) + 8 + len(AFTER_EPSILON)
        known = said["name"] == RMS_NORM and said["version"] == 1 and not said["attributes_format"]
        _refuse(not known or not is_epsilon or said["graph"] in self.attached, "it is no composite that exports write")
        self.attached[said["graph"]] = taken, gives


def _check_version(number: int, version: int, taken: Sequence[Operand]) -> None:
    """Where an operator's version says of what kind its weights are."""
    kinds = {9: {1: "", 9: "rows", 11: "rows", 12: "rows", 13: "blocks"}, 7: {1: "", 4: "rows"}}
    _refuse(number in kinds and taken[1].kind != kinds[number][version], "its version is for other weights")
    is_int16 = taken[0].dtype == "int16"
    wrong = number in INT16_VERSIONS and (version == INT16_VERSIONS[number]) != is_int16
    _refuse(wrong, "its version is for other values")


def _check_steps(number: int, taken: Sequence[Operand], gives: Operand) -> None:
    """What moves codes gives them in the steps that it takes them in; softmax and sigmoid have steps of their own."""
    moved = taken if number == 2 else taken[:2] if number == 151 else taken[:1]
    wrong = number in MOVING and any(one.step != gives.step for one in moved)
    wrong |= number in FIXED_STEPS and gives.dtype == "int16" and gives.step != FIXED_STEPS[number]
    _refuse(wrong, "codes count in something else")


def _bytes_of(operand: Operand) -> int:
    bits = next(bits for name, bits in TYPES.values() if name == operand.dtype)
    return -(-math.prod(operand.dims) * bits // 8)


def _step(quantization: Table | None) -> float:
    """What codes of one scale count in, around zero."""
    _refuse(quantization is None or quantization["details"][0] != "Empty", "codes count in something else")
    assert quantization is not None
    scale, zero = np.frombuffer(quantization["scale"], "<f4"), np.frombuffer(quantization["zero_point"], "<i8")
    more = bool(quantization["min"] or quantization["max"] or quantization["dimension"])
    _refuse(scale.size != 1 or zero.tolist() != [0] or more, "codes count in something else")
    _check_scales(scale)
    return float(scale[0])


def _kind_of_scales(dims: Dims, dtype: str, quantization: Table | None) -> str:
    """Of a weight [rows, columns] or a bias [rows]: "rows" with a scale each and no zero points, or "blocks"."""
    _refuse(quantization is None or len(dims) != (1 if dtype == "int64" else 2), "a weight has no scales")
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
    """XNNPACK takes no smaller numbers than normal ones, and says so on stderr when tensors are allocated."""
    smallest = np.finfo(np.float32).smallest_normal
    _refuse(not (np.isfinite(scales) & (scales >= smallest)).all(), "a scale is no positive number")


def _signature(raw: Table, graphs: Sequence[_Graph]) -> Signature:
    _refuse(raw["graph"] >= len(graphs), "a signature leads to no graph")
    graph, sides = graphs[raw["graph"]], []
    for maps, indices in ((raw["inputs"], graph.inputs), (raw["outputs"], graph.outputs)):
        named = {one["name"]: one["tensor"] for one in maps}
        wrong = len(named) != len(maps) or None in named or sorted(named.values()) != sorted(indices)
        _refuse(wrong, "a signature has other tensors than its graph")
        sides.append({name: (graph.operands[at].dims, graph.operands[at].dtype) for name, at in named.items()})
    return Signature(*sides)
