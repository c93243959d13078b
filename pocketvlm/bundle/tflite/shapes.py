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
FLOAT32, INT8 = 0, 9


@dataclass(frozen=True)
class Operand:
    """A tensor that an operator takes: its type by TensorType's name; ``numbers`` are those of a small int32 constant;
    ``kind`` says how a weight's codes are scaled: "rows", "blocks", or "" of what has no scales of its own."""

    dims: Dims
    dtype: str
    is_constant: bool = False
    numbers: tuple[int, ...] | None = None
    kind: str = ""


#: What an operator gives, dims and type.
Given = tuple[Dims, str] | None


def _floats(*operands: Operand) -> bool:
    return all(one.dtype == "float32" for one in operands)


def _same(told: Table, taken: Sequence[Operand]) -> Given:
    (value,) = taken
    return (value.dims, "float32") if _floats(value) else None


def _broadcast(told: Table, taken: Sequence[Operand]) -> Given:
    left, right = taken
    if told["activation"] or told.get("pot_scale") or not _floats(left, right):
        return None
    rank = max(len(left.dims), len(right.dims))
    sides = [(1,) * (rank - len(one.dims)) + one.dims for one in taken]
    dims = tuple(max(one, other) if 1 in (one, other) or one == other else 0 for one, other in zip(*sides, strict=True))
    return None if 0 in dims else (dims, "float32")


def _mean(told: Table, taken: Sequence[Operand]) -> Given:
    value, axis = taken
    fits = told["keep_dims"] and _floats(value) and axis.numbers == (len(value.dims) - 1,)
    return ((*value.dims[:-1], 1), "float32") if fits else None


def _softmax(told: Table, taken: Sequence[Operand]) -> Given:
    return _same(told, taken) if told["beta"] == 1 else None


def _fully_connected(told: Table, taken: Sequence[Operand]) -> Given:
    """[..., columns] times the transposed [rows, columns], plus [rows] where that is not missing."""
    hidden, weight, *bias = taken
    fits = not told["activation"] and not told["format"] and not told["bias_type"] and bool(told["keep_dims"])
    fits &= len(weight.dims) == 2 and weight.is_constant and (weight.dtype == "float32" or weight.kind != "")
    fits = fits and _floats(hidden) and len(hidden.dims) > 1 and hidden.dims[-1] == weight.dims[1]
    fits = fits and all(_floats(one) and one.is_constant and one.dims == weight.dims[:1] for one in bias)
    return ((*hidden.dims[:-1], weight.dims[0]), "float32") if fits else None


def _product(told: Table, taken: Sequence[Operand]) -> Given:
    left, right = taken
    if told["left_transposed"] or not _floats(left, right) or len(left.dims) != len(right.dims) or len(left.dims) < 3:
        return None
    inner, columns = right.dims[-1:-3:-1] if told["right_transposed"] else right.dims[-2:]
    fits = left.dims[:-2] == right.dims[:-2] and left.dims[-1] == inner
    return ((*left.dims[:-1], columns), "float32") if fits else None


def _rows(told: Table, taken: Sequence[Operand]) -> Given:
    """Indices come from outside: LiteRT looks whether they lie in the table."""
    indices, table = taken
    fits = indices.dtype == "int32" and len(indices.dims) == 1 and len(table.dims) == 2 and table.is_constant
    fits &= table.dtype == "float32" or table.kind == "rows"
    return ((*indices.dims, table.dims[1]), "float32") if fits else None


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
    (value,) = taken
    return (value.dims, "int8") if _floats(value) else None


def _cast(told: Table, taken: Sequence[Operand]) -> Given:
    """Codes of a cache, each worth its own number."""
    (value,) = taken
    fits = value.dtype == "int8" and not value.is_constant and (told["from"], told["to"]) == (INT8, FLOAT32)
    return (value.dims, "float32") if fits else None


Rule = Callable[[Table, Sequence[Operand]], Given]
#: Operator's number -> its versions, the options that go with it, how many tensors it takes, and its rule.
OPERATORS: Final[dict[int, tuple[tuple[int, ...], str, tuple[int, ...], Rule]]] = {
    0: ((1,), "Add", (2,), _broadcast),
    2: ((1,), "Concatenation", (2, 3, 4), _concatenate),
    7: ((1, 4), "Empty", (2,), _rows),
    9: ((1, 9, 12, 13), "FullyConnected", (2, 3), _fully_connected),
    14: ((1,), "Empty", (1,), _same),
    18: ((1,), "Mul", (2,), _broadcast),
    22: ((1,), "Reshape", (2,), _reshape),
    25: ((1,), "Softmax", (1,), _softmax),
    34: ((1,), "Pad", (2,), _pad),
    39: ((1,), "Transpose", (2,), _transpose),
    40: ((1,), "Reducer", (2,), _mean),
    41: ((1,), "Sub", (2,), _broadcast),
    53: ((1,), "Cast", (1,), _cast),
    65: ((1,), "Slice", (3,), _slice),
    76: ((1,), "Empty", (1,), _same),
    114: ((1,), "Quantize", (1,), _quantize),
    126: ((1,), "BatchMatMul", (2,), _product),
    150: ((1,), "Gelu", (1,), _same),
    151: ((1, 2), "DynamicUpdateSlice", (3,), _update),
}
