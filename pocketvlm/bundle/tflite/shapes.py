"""What an operator of a .tflite file gives, of what it takes; None: they do not fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pocketvlm.bundle.programs.flat import Table

Dims = tuple[int, ...]
#: Of XNNPACK's operators, the smallest.
MOST_RANK: Final = 6
#: Of TensorType.
FLOAT32, BOOL, INT8 = 0, 6, 9


@dataclass(frozen=True)
class Operand:
    """A tensor that an operator takes: its type by TensorType's name; ``numbers`` are those of a small int32 constant;
    ``kind`` says how a weight's or a bias' codes are scaled: "rows", "blocks", or "" of what has no scales of its own;
    ``step`` is what codes of one scale count in."""

    dims: Dims
    dtype: str
    is_constant: bool = False
    numbers: tuple[int, ...] | None = None
    kind: str = ""
    step: float | None = None


#: What an operator gives, dims and type; of QUANTIZE one of several.
Given = tuple[Dims, str | tuple[str, ...]] | None


def _floats(*operands: Operand) -> bool:
    return all(one.dtype == "float32" for one in operands)


def _alike(*operands: Operand) -> str | None:
    """The one type of float32 or INT16 values that they have; None where there is none."""
    (dtype,) = kinds if len(kinds := {one.dtype for one in operands}) == 1 else ("",)
    return dtype if dtype in ("float32", "int16") else None


def _same(told: Table, taken: Sequence[Operand]) -> Given:
    (value,) = taken
    return (value.dims, "float32") if _floats(value) else None


def _same_or_int16(told: Table, taken: Sequence[Operand]) -> Given:
    (value,) = taken
    dtype = _alike(value)
    return (value.dims, dtype) if dtype else None


def _together(taken: Sequence[Operand]) -> Dims | None:
    """What two broadcast to."""
    rank = max(len(one.dims) for one in taken)
    sides = [(1,) * (rank - len(one.dims)) + one.dims for one in taken]
    dims = tuple(max(one, other) if 1 in (one, other) or one == other else 0 for one, other in zip(*sides, strict=True))
    return None if 0 in dims else dims


def _broadcast(told: Table, taken: Sequence[Operand]) -> Given:
    dims, dtype = _together(taken), _alike(*taken)
    fits = not told["activation"] and not told.get("pot_scale") and dims is not None and dtype is not None
    return (dims, dtype) if fits and dims is not None and dtype is not None else None


def _broadcast_floats(told: Table, taken: Sequence[Operand]) -> Given:
    return _broadcast(told, taken) if _floats(*taken) else None


def _less(told: Table, taken: Sequence[Operand]) -> Given:
    dims = _together(taken)
    return (dims, "bool") if dims is not None and all(one.dtype == "int32" for one in taken) else None


def _maximum(told: Table, taken: Sequence[Operand]) -> Given:
    dims = _together(taken)
    return (dims, "int32") if dims is not None and all(one.dtype == "int32" for one in taken) else None


def _mean(told: Table, taken: Sequence[Operand]) -> Given:
    value, axis = taken
    fits = told["keep_dims"] and _floats(value) and axis.numbers == (len(value.dims) - 1,)
    return ((*value.dims[:-1], 1), "float32") if fits else None


def _softmax(told: Table, taken: Sequence[Operand]) -> Given:
    return _same_or_int16(told, taken) if told["beta"] == 1 else None


def _fully_connected(told: Table, taken: Sequence[Operand]) -> Given:
    """[..., columns] times the transposed [rows, columns], plus [rows] where that is not missing."""
    hidden, weight, *bias = taken
    fits = not told["activation"] and not told["format"] and not told["bias_type"] and bool(told["keep_dims"])
    fits &= len(weight.dims) == 2 and weight.is_constant and (weight.dtype == "float32" or weight.kind != "")
    fits = fits and len(hidden.dims) > 1 and hidden.dims[-1] == weight.dims[1]
    dtype = _alike(hidden)
    fits = fits and (dtype == "float32" or (dtype == "int16" and weight.kind == "rows"))
    added = {"float32": ("float32", ""), "int16": ("int64", "rows")}.get(dtype or "")
    fits = fits and all(one.is_constant and one.dims == weight.dims[:1] for one in bias)
    fits = fits and all((one.dtype, one.kind) == added for one in bias)
    return ((*hidden.dims[:-1], weight.dims[0]), dtype) if fits and dtype else None


def _product(told: Table, taken: Sequence[Operand]) -> Given:
    left, right = taken
    dtype = _alike(left, right)
    if told["left_transposed"] or dtype is None or len(left.dims) != len(right.dims) or len(left.dims) < 3:
        return None
    inner, columns = right.dims[-1:-3:-1] if told["right_transposed"] else right.dims[-2:]
    fits = left.dims[:-2] == right.dims[:-2] and left.dims[-1] == inner
    return ((*left.dims[:-1], columns), dtype) if fits else None


def _rows(told: Table, taken: Sequence[Operand]) -> Given:
    """Indices come from outside: LiteRT looks whether they lie in the table."""
    indices, table = taken
    fits = indices.dtype == "int32" and len(indices.dims) == 1 and len(table.dims) == 2 and table.is_constant
    fits &= table.dtype == "float32" or table.kind == "rows"
    return ((*indices.dims, table.dims[1]), "float32") if fits else None


def _gather(told: Table, taken: Sequence[Operand]) -> Given:
    """Rows of a table, as ``_rows``."""
    table, indices = taken
    fits = indices.dtype == "int32" and len(indices.dims) == 1 and len(table.dims) == 2 and table.is_constant
    fits &= table.dtype == "int16" and not told["axis"] and not told["batch_dims"]
    return ((*indices.dims, table.dims[1]), "int16") if fits else None


def _reshape(told: Table, taken: Sequence[Operand]) -> Given:
    value, shape = taken
    dims = tuple(told["shape"])
    fits = dims == shape.numbers and len(dims) <= MOST_RANK and min(dims, default=1) > 0
    return (dims, value.dtype) if fits and math.prod(dims) == math.prod(value.dims) else None


def _transpose(told: Table, taken: Sequence[Operand]) -> Given:
    value, order = taken
    if order.numbers is None or sorted(order.numbers) != list(range(len(value.dims))):
        return None
    return tuple(value.dims[axis] for axis in order.numbers), value.dtype


def _slice(told: Table, taken: Sequence[Operand]) -> Given:
    value, begin, size = taken
    if begin.numbers is None or size.numbers is None or not len(begin.numbers) == len(size.numbers) == len(value.dims):
        return None
    pieces = zip(begin.numbers, size.numbers, value.dims, strict=True)
    fits = all(first >= 0 and count > 0 and first + count <= most for first, count, most in pieces)
    return (size.numbers, value.dtype) if fits else None


def _concatenate(told: Table, taken: Sequence[Operand]) -> Given:
    first, axis = taken[0].dims, told["axis"]
    if told["activation"] or not 0 <= axis < len(first):
        return None
    alike = {(len(one.dims), one.dims[:axis] + one.dims[axis + 1 :], one.dtype) for one in taken}
    total = sum(one.dims[axis] for one in taken if axis < len(one.dims))
    return ((*first[:axis], total, *first[axis + 1 :]), taken[0].dtype) if len(alike) == 1 else None


def _pad(told: Table, taken: Sequence[Operand]) -> Given:
    """Zeros, behind."""
    value, pairs = taken
    if pairs.numbers is None or pairs.dims != (len(value.dims), 2) or not _floats(value):
        return None
    before, behind = pairs.numbers[0::2], pairs.numbers[1::2]
    fits = not any(before) and min(behind) >= 0
    return (tuple(size + more for size, more in zip(value.dims, behind, strict=True)), "float32") if fits else None


def _update(told: Table, taken: Sequence[Operand]) -> Given:
    """LiteRT moves a place that is out of the question to the nearest that is not."""
    cache, rows, start = taken
    fits = cache.dtype == rows.dtype and start.dtype == "int32" and start.dims == (len(cache.dims),)
    fits = fits and len(cache.dims) == len(rows.dims)
    return (cache.dims, cache.dtype) if fits and all(map(int.__le__, rows.dims, cache.dims)) else None


def _quantize(told: Table, taken: Sequence[Operand]) -> Given:
    """Numbers become codes, and codes those of another type."""
    (value,) = taken
    kinds = {"float32": ("int8", "int16"), "int16": ("int8",), "int8": ("int16",)}.get(value.dtype)
    return (value.dims, kinds) if kinds and not value.is_constant else None


def _dequantize(told: Table, taken: Sequence[Operand]) -> Given:
    (value,) = taken
    return (value.dims, "float32") if value.dtype == "int16" and not value.is_constant else None


def _cast(told: Table, taken: Sequence[Operand]) -> Given:
    """Codes of a cache, each worth its own number, and what a comparison gives."""
    (value,) = taken
    types = {"int8": (INT8, FLOAT32), "bool": (BOOL, FLOAT32)}.get(value.dtype)
    fits = not value.is_constant and (told["from"], told["to"]) == types and value.step in (None, 1.0)
    return (value.dims, "float32") if fits else None


def _norm(told: Table, taken: Sequence[Operand]) -> Given:
    """A composite: what it says beside its graph is looked at there."""
    value, weight = taken
    fits = value.dtype == weight.dtype == "int16" and weight.dims == value.dims[-1:]
    return (value.dims, "int16") if fits else None


Rule = Callable[[Table, Sequence[Operand]], Given]
#: Operators that give codes of what they take: in the same steps.
MOVING: Final = frozenset({2, 22, 36, 39, 65, 151})
#: Operators whose INT16 codes count in steps that TensorFlow Lite prescribes.
FIXED_STEPS: Final = {14: 2.0**-15, 25: 2.0**-15}
#: Operators that have a version of their own for INT16.
INT16_VERSIONS: Final = {0: 3, 9: 11, 14: 3, 18: 3, 25: 3, 65: 4, 126: 3}
COMPOSITE: Final = 206
#: Operator's number -> its versions, the options that go with it, how many tensors it takes, and its rule.
OPERATORS: Final[dict[int, tuple[tuple[int, ...], str, tuple[int, ...], Rule]]] = {
    0: ((1, 3), "Add", (2,), _broadcast),
    2: ((1,), "Concatenation", (2, 3, 4), _concatenate),
    6: ((2,), "Dequantize", (1,), _dequantize),
    7: ((1, 4), "Empty", (2,), _rows),
    9: ((1, 9, 11, 12, 13), "FullyConnected", (2, 3), _fully_connected),
    14: ((1, 3), "Empty", (1,), _same_or_int16),
    18: ((1, 3), "Mul", (2,), _broadcast),
    22: ((1,), "Reshape", (2,), _reshape),
    25: ((1, 3), "Softmax", (1,), _softmax),
    34: ((1,), "Pad", (2,), _pad),
    36: ((4,), "Gather", (2,), _gather),
    39: ((1,), "Transpose", (2,), _transpose),
    40: ((1,), "Reducer", (2,), _mean),
    41: ((1,), "Sub", (2,), _broadcast_floats),
    53: ((1,), "Cast", (1,), _cast),
    55: ((1,), "Maximum", (2,), _maximum),
    58: ((1,), "Less", (2,), _less),
    65: ((1, 4), "Slice", (3,), _slice),
    76: ((1,), "Empty", (1,), _same),
    114: ((1,), "Quantize", (1,), _quantize),
    126: ((1, 3), "BatchMatMul", (2,), _product),
    150: ((1,), "Gelu", (1,), _same),
    151: ((1, 2), "DynamicUpdateSlice", (3,), _update),
    COMPOSITE: ((1,), "Empty", (2,), _norm),
}
