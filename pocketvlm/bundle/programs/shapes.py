"""The shape that a node of an XNNPACK graph gives, of its table and the shapes that it takes; None: they do not fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from pocketvlm.bundle.programs.flat import Table

Dims = tuple[int, ...]
#: XNNPACK's.
MOST_RANK: Final = 6


def _same(node: Table, given: Sequence[Dims]) -> Dims | None:
    return given[0]


def _broadcast(node: Table, given: Sequence[Dims]) -> Dims | None:
    rank = max(map(len, given))
    pairs = zip(*((1,) * (rank - len(side)) + side for side in given), strict=True)
    dims = [max(one, other) if 1 in (one, other) or one == other else 0 for one, other in pairs]
    return None if 0 in dims else tuple(dims)


def _product(node: Table, given: Sequence[Dims]) -> Dims | None:
    """[batch, rows, inner] times [batch, inner, columns], or [batch, columns, inner] where the flag is 1"""
    left, right = given
    if len(left) != len(right) or len(left) != 3 or left[0] != right[0]:
        return None
    inner, columns = (right[2], right[1]) if node["flags"] == 1 else (right[1], right[2])
    return (left[0], left[1], columns) if left[2] == inner else None


def _transpose(node: Table, given: Sequence[Dims]) -> Dims | None:
    fits = node["rank"] == len(given[0]) and sorted(node["order"]) == list(range(len(given[0])))
    return tuple(given[0][axis] for axis in node["order"]) if fits else None


def _pad(node: Table, given: Sequence[Dims]) -> Dims | None:
    """Zeros, behind."""
    rank = len(given[0])
    fits = len(node["before"]) == len(node["behind"]) == rank and not any(node["before"]) and node["number"] == 0
    return tuple(size + more for size, more in zip(given[0], node["behind"], strict=True)) if fits else None


def _slice(node: Table, given: Sequence[Dims]) -> Dims | None:
    """A size of 0 is up to the end."""
    if not node["rank"] == len(given[0]) == len(node["offsets"]) == len(node["sizes"]):
        return None
    pieces = list(zip(node["offsets"], node["sizes"], given[0], strict=True))
    fits = all(start + size <= most and (size > 0 or start == 0) for start, size, most in pieces)
    return tuple(size or most for _, size, most in pieces) if fits else None


def _reshape(node: Table, given: Sequence[Dims]) -> Dims | None:
    """One 0 follows from the rest."""
    shape, total = node["shape"], math.prod(given[0])
    known = math.prod(size for size in shape if size)
    if node["rank"] != len(shape) or len(shape) > MOST_RANK or shape.count(0) > 1 or total % known:
        return None
    result = tuple(size or total // known for size in shape)
    return result if math.prod(result) == total else None


def _concatenate(node: Table, given: Sequence[Dims]) -> Dims | None:
    axis, first = node["axis"], given[0]
    rest = {one[:axis] + one[axis + 1 :] for one in given}
    if axis >= len(first) or len({len(one) for one in given}) != 1 or len(rest) != 1:
        return None
    return (*first[:axis], sum(one[axis] for one in given), *first[axis + 1 :])


def _convolved(node: Table, given: Sequence[Dims], *, depthwise: bool) -> Dims | None:
    """[1, height, width, channels], a kernel [given, side, side, channels], of one channel each [1, side, side, given],
    and [given]; steps of 1 or 2, around the map as many zeros as half the kernel, whose side is odd."""
    if len(given) != 3 or [len(one) for one in given] != [4, 4, 1]:
        return None
    (one, height, width, channels), kernel, (count,) = given
    groups, side, step = node["groups"], node["height"], node["step_down"]
    fits = one == 1 and side % 2 == 1 and node["width"] == side and step == node["step_across"] and step in (1, 2)
    fits &= all(node[edge] == side // 2 for edge in ("pad_top", "pad_right", "pad_bottom", "pad_left"))
    fits &= node["dilation_down"] == node["dilation_across"] == 1 and not (node["more_down"] or node["more_across"])
    fits &= groups == (channels if depthwise else 1) and node["channels"] * groups == channels
    fits &= node["given"] * groups == count
    fits &= kernel == ((1, side, side, count) if depthwise else (count, side, side, channels))
    return (1, -(-height // step), -(-width // step), count) if fits else None


#: Only move numbers, which may be codes.
MOVING: Final[dict[str, Callable[[Table, Sequence[Dims]], Dims | None]]] = {
    "Transpose": _transpose, "Pad": _pad, "Slice": _slice, "Reshape": _reshape,
    **{f"Concatenate{count}": _concatenate for count in range(2, 6)},
}  # fmt: skip
SHAPES: Final[dict[str, Callable[[Table, Sequence[Dims]], Dims | None]]] = {
    **MOVING,
    **dict.fromkeys(("Softmax", "Sigmoid", "Square", "InverseRoot", "Log", "Gelu", "Tanh", "Exp"), _same),
    **dict.fromkeys(("Add", "Multiply", "Subtract", "Maximum", "Minimum"), _broadcast),
    "Product": _product,
    "Convolution": partial(_convolved, depthwise=False),
    "Depthwise": partial(_convolved, depthwise=True),
}
