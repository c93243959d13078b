"""What a node gives of what it takes: shapes by the patterns of ``grammar.json``, and by rules where those do not do.

A dimension is a number: n for exactly n, -n for at most n (1 or more), where it hangs on what is asked. So a graph's
largest values are known before an engine computes any. What only a run tells (two dimensions of at most n that are to
be equal, an index) every kernel checks itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pocketvlm.bundle.graphs.wire import GraphError

Dims = tuple[int, ...]


@dataclass(frozen=True)
class TypedValue:
    """A value of a graph. ``constant``: it follows from weights alone. ``ints``: what a small int64 constant says.
    ``most``: no number in it is larger."""

    dtype: str
    dims: Dims
    constant: bool = False
    ints: Dims | None = None
    most: int | None = None


@dataclass
class BoundNode:
    """What a node's inputs and attributes say for the names in its patterns; ``lead`` is what ``*`` stands for."""

    attributes: Mapping[str, Any]
    inputs: Sequence[TypedValue | None]
    sizes: dict[str, int] = field(default_factory=dict)
    lead: Dims | None = None

    def size(self, name: str) -> int:
        """The most that a dimension may be."""
        return abs(self.sizes[name])

    def given(self, at: int) -> TypedValue:
        """An input that is there."""
        value = self.inputs[at]
        assert value is not None
        return value


def elements(dims: Sequence[int]) -> int:
    """At most so many numbers."""
    return math.prod(map(abs, dims))


def refuse(condition: bool, why: str) -> None:
    """:raises GraphError: where ``condition`` holds"""
    if condition:
        raise GraphError(why)


def same(one: int, other: int) -> int:
    """The dimension that two are that have to be equal.

    :raises GraphError: they are not
    """
    most = min(abs(one), abs(other))
    refuse(one > most or other > most, "its shapes do not fit")
    return max(one, other)  # the exact one, or the tighter of two bounds


def matched(pattern: Sequence[str], value: TypedValue, bound: BoundNode) -> None:
    """Bind the names of a pattern's dimensions to a value's.

    :raises GraphError: it has other dimensions
    """
    dims = value.dims
    if pattern and pattern[0] == "*":
        pattern = pattern[1:]
        count = len(dims) - len(pattern)
        refuse(count < 0, "an input has too few dimensions")
        lead, dims = dims[:count], dims[count:]
        if bound.lead is not None:
            refuse(len(lead) != len(bound.lead), "its shapes do not fit")
            lead = tuple(map(same, lead, bound.lead))
        bound.lead = lead
    refuse(len(dims) != len(pattern), "an input has other dimensions")
    for name, size in zip(pattern, dims, strict=True):
        if name.isdecimal():
            same(int(name), size)
        else:
            bound.sizes[name] = same(bound.sizes[name], size) if name in bound.sizes else size


def resolved(pattern: Sequence[str], bound: BoundNode) -> Dims:
    """The dimensions of an output."""
    dims: list[int] = []
    for name in pattern:
        if name == "*":
            dims += bound.lead or ()
        else:
            dims.append(int(name) if name.isdecimal() else bound.sizes[name])
    return tuple(dims)


def exact(dims: Sequence[int]) -> bool:
    """Whether nothing hangs on what is asked."""
    return all(size > 0 for size in dims)


def _ints(bound: BoundNode, at: int) -> Dims:
    ints = bound.given(at).ints
    if ints is None:
        raise GraphError("an input is to be a constant")
    return ints


def _axis(axis: int, rank: int) -> int:
    refuse(not -rank <= axis < rank, "its axis is none of the input's")
    return axis % rank


def _broadcast(bound: BoundNode) -> list[Dims]:
    """As ONNX does, where one side has the result's shape already: nothing grows."""
    left, right = bound.given(0).dims, bound.given(1).dims
    rank = max(len(left), len(right))
    sides = [(1,) * (rank - len(side)) + side for side in (left, right)]
    grown = [False, False]
    result = []
    for one, other in zip(*sides, strict=True):
        grown[0] |= one == 1 != other
        grown[1] |= other == 1 != one
        result.append(other if one == 1 else one if other == 1 else same(one, other))
    refuse(all(grown), "both of its inputs would grow")
    return [tuple(result)]


def _blocks(bound: BoundNode) -> None:
    """[rows, groups, bytes of a group], scales for each group; zero points of 4 bits in pairs."""
    bits, block = bound.attributes["bits"], bound.attributes["block_size"]
    groups = -(-bound.size("K") // block)
    refuse(bound.sizes["G"] != groups or bound.sizes["B"] * 8 != bits * block, "its blocks do not fit")
    refuse("Z" in bound.sizes and bound.sizes["Z"] != -(-groups * bits // 8), "its zero points do not fit")


def _rows_of_blocks(bound: BoundNode) -> None:
    """Codes [rows, bytes] of whole groups, scales [rows, groups] -> columns."""
    bits, block, groups = bound.attributes["bits"], bound.attributes["block_size"], bound.sizes["G"]
    bound.sizes["C"] = groups * block
    columns = bound.sizes["P"] * 8 // bits
    refuse(not (groups - 1) * block < columns <= groups * block, "its blocks do not fit")
    refuse("Z" in bound.sizes and bound.sizes["Z"] != -(-groups * bits // 8), "its zero points do not fit")
    bound.sizes["C"] = columns


def _column_blocks(bound: BoundNode) -> None:
    """Codes [columns, rows] of whole groups of columns, scales [groups, rows]."""
    refuse(bound.sizes["G"] * bound.attributes["block_size"] != bound.sizes["K"], "its blocks do not fit")


def _patches(bound: BoundNode) -> list[Dims]:
    """A convolution whose kernel steps by its own size."""
    kernel = (bound.sizes["P"], bound.sizes["Q"])
    refuse(any(tuple(bound.attributes[name]) != kernel for name in ("kernel_shape", "strides")), "it has other strides")
    grid = [bound.size(axis) // step for axis, step in zip("HW", kernel, strict=True)]
    refuse(0 in grid or not exact((bound.sizes["H"], bound.sizes["W"])), "its kernel is too large")
    return [(bound.sizes["T"], bound.sizes["O"], *grid)]


def _convolved(bound: BoundNode) -> list[Dims]:
    """A convolution with zeros around what it goes over, as many as half its kernel, whose side is odd."""
    kernel, group = (bound.sizes["P"], bound.sizes["Q"]), bound.attributes["group"]
    strides, pads = (tuple(bound.attributes[name]) for name in ("strides", "pads"))
    refuse(tuple(bound.attributes["kernel_shape"]) != kernel or kernel[0] % 2 != 1, "its kernel is another")
    wrong = kernel[0] != kernel[1] or pads != (kernel[0] // 2,) * 4 or strides not in ((1, 1), (2, 2))
    refuse(wrong, "it has other strides")
    channels, given = bound.sizes["C"], bound.sizes["O"]
    refuse(channels != group * bound.size("I") or given % group != 0, "its channels do not fit")
    refuse(not exact((bound.sizes["H"], bound.sizes["W"])), "its kernel is too large")
    return [(bound.sizes["T"], given, *(-(-bound.sizes[axis] // strides[0]) for axis in "HW"))]


def _heads(bound: BoundNode) -> list[Dims]:
    """Beside the output the scores of all heads are held, of queries that may be others than the keys."""
    heads = bound.attributes["num_heads"]
    refuse(bound.sizes["W"] < 1 or bound.sizes["W"] % heads != 0, "its heads do not fit")
    queries = "Q" if "Q" in bound.sizes else "S"
    return [bound.given(0).dims, (bound.size("B"), heads, bound.size(queries), bound.size("S"))]


def _scores(bound: BoundNode) -> list[Dims]:
    refuse(bound.size("H") % bound.size("K") != 0, "its heads do not fit")
    return [bound.given(0).dims, (bound.size("B"), bound.size("H"), bound.size("S"), bound.size("L"))]


def _grouped(bound: BoundNode) -> None:
    heads, kv_heads, size = bound.attributes["num_heads"], bound.attributes["kv_num_heads"], bound.sizes["D"]
    wrong = kv_heads != bound.sizes["H"] or heads % kv_heads != 0 or size < 1 or size % 8 != 0
    wrong |= bound.sizes["Q"] != heads * size or bound.sizes["W"] != kv_heads * size
    if bound.attributes["do_rotary"]:
        wrong |= bound.sizes["C"] * 2 != size or bound.sizes["R"] < bound.sizes["L"]
    refuse(wrong, "its heads do not fit")
    last, total, length = bound.given(5).most, bound.given(6).most, bound.sizes["L"]
    fits = total is not None and last == total - 1 < length
    refuse(not fits, "it may reach beyond its cache")


def _matrices(bound: BoundNode) -> None:
    """Of each head one matrix, which a query, a key and a value belong to."""
    heads = bound.sizes["H"]
    wrong = {bound.attributes[name] for name in ("q_num_heads", "kv_num_heads")} != {heads} or heads < 1
    wrong |= bound.sizes["Q"] != heads * bound.sizes["D"] or bound.sizes["W"] != heads * bound.sizes["E"]
    refuse(wrong or not exact((bound.sizes["D"], bound.sizes["E"])), "its heads do not fit")


def _rotary(bound: BoundNode) -> None:
    refuse(bound.sizes["W"] < 1 or bound.sizes["W"] % (2 * bound.sizes["C"]) != 0, "its heads do not fit")


def _element(bound: BoundNode) -> None:
    (index,) = _ints(bound, 1)
    refuse(not 0 <= index < bound.sizes["V"], "its index is none of the input's")


def _reduced(bound: BoundNode) -> list[Dims]:
    dims, (axis,) = list(bound.given(0).dims), _ints(bound, 1)
    axis = _axis(axis, len(dims))
    dims[axis : axis + 1] = [1] * bound.attributes["keepdims"]
    return [tuple(dims)]


def _shape_of(bound: BoundNode) -> list[Dims]:
    rank = len(bound.given(0).dims)
    start, end = bound.attributes.get("start", 0), bound.attributes.get("end", rank)
    refuse(not start < end <= rank, "its axis is none of the input's")
    return [(end - start,)]


def _sliced(bound: BoundNode) -> list[Dims]:
    dims = list(bound.given(0).dims)
    axis = _axis(_ints(bound, 3)[0] if len(bound.inputs) > 3 else 0, len(dims))
    start, end = (bound.given(at).ints for at in (1, 2))
    if start is None or end is None or dims[axis] < 0:
        dims[axis] = -abs(dims[axis])
    else:
        dims[axis] = len(range(dims[axis])[start[0] : end[0]])
        refuse(dims[axis] == 0, "it leaves nothing")
    return [tuple(dims)]


def _halves(bound: BoundNode) -> list[Dims]:
    rows = bound.sizes["R"]
    refuse(rows < 1 or rows % 2 != 0, "its shapes do not fit")
    return [(*(bound.lead or ()), rows // 2, bound.sizes["N"])] * 2


def _joined(bound: BoundNode) -> list[Dims]:
    left, right = bound.given(0).dims, bound.given(1).dims
    axis = _axis(bound.attributes["axis"], len(left))
    refuse(len(left) != len(right), "its shapes do not fit")
    dims = [one if at == axis else same(one, other) for at, (one, other) in enumerate(zip(left, right, strict=True))]
    total = abs(left[axis]) + abs(right[axis])
    dims[axis] = total if exact((left[axis], right[axis])) else -total
    return [tuple(dims)]


def _reshaped(bound: BoundNode) -> list[Dims]:
    before, target = bound.given(0).dims, _ints(bound, 1)
    refuse(target.count(-1) > 1 or min(target) < -1, "its shape is none")
    copied = {at for at, size in enumerate(target) if size == 0}
    refuse(any(at >= len(before) for at in copied), "its shape is none")
    rest = [size for at, size in enumerate(before) if at not in copied]
    known = elements([size for size in target if size > 0])
    if -1 in target:
        refuse(exact(rest) and elements(rest) % known != 0, "its shapes do not fit")
        size = max(1, elements(rest) // known)
        follows = size if exact(rest) else -size
    else:
        refuse(exact(rest) and elements(rest) != known, "its shapes do not fit")
        follows = 0
    return [tuple(before[at] if at in copied else follows if size < 0 else size for at, size in enumerate(target))]


def _transposed(bound: BoundNode) -> list[Dims]:
    dims, order = bound.given(0).dims, bound.attributes["perm"]
    refuse(sorted(order) != list(range(len(dims))), "its order is none of the input's axes")
    return [tuple(dims[axis] for axis in order)]


def _last_axis(bound: BoundNode) -> None:
    refuse(_ints(bound, 1) != (1,), "its axis is none of the input's")


def _padded(bound: BoundNode) -> list[Dims]:
    """A grid's rows and columns, by less than they are."""
    dims, pads = bound.given(0).dims, _ints(bound, 1)
    refuse(len(pads) != 2 * len(dims), "its padding does not fit")
    before, behind = pads[: len(dims)], pads[len(dims) :]
    wrong = any(before) or any(more and not 0 < more < size for more, size in zip(behind, dims, strict=True))
    refuse(wrong, "its padding does not fit")
    return [tuple(size + more for size, more in zip(dims, behind, strict=True))]


def _counted(bound: BoundNode) -> list[Dims]:
    most = bound.given(1).most
    if most is None or most < 1 or _ints(bound, 0) != (0,) or _ints(bound, 2) != (1,):
        raise GraphError("nothing says how far it counts")
    return [(-most,)]


#: Rule -> the dimensions of the outputs (and, behind them, of what is held meanwhile), or None where the patterns say.
RULES: Final[dict[str, Callable[[BoundNode], list[Dims] | None]]] = {
    "broadcast": _broadcast, "blocks": _blocks, "rows_of_blocks": _rows_of_blocks, "column_blocks": _column_blocks,
    "patches": _patches, "convolved": _convolved, "heads": _heads, "scores": _scores, "grouped": _grouped,
    "matrices": _matrices, "rotary": _rotary, "element": _element, "reduced": _reduced, "shape_of": _shape_of,
    "sliced": _sliced, "halves": _halves, "joined": _joined, "reshaped": _reshaped, "transposed": _transposed,
    "last_axis": _last_axis, "padded": _padded, "counted": _counted,
}  # fmt: skip


def most_of(operator: str, bound: BoundNode) -> int | None:
    """The largest number that a node may give, where its kind says so: what counts tokens."""
    first = bound.inputs[0]
    if first is None:
        return None
    if operator == "Shape":
        return max(map(abs, first.dims))
    if operator in ("Gather", "Cast"):
        return first.most
    if operator == "ReduceSum":  # of a mask, whose ones are counted
        return None if first.most is None else first.most * elements(first.dims)
    if operator == "Sub":  # of something that is not below zero; of as many as there can be, neither is the result
        ints = bound.given(1).ints
        if first.most is not None and ints is not None and 0 <= min(ints) <= first.most:
            return first.most - min(ints)
    return None
