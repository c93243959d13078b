"""Weights that a checkpoint has in 4 bits already, as words of eight codes.

GPTQ and AWQ store a linear layer [rows, columns] transposed, as int32 that hold eight codes each, the first in the
lowest bits: GPTQ (IST-DASLab/gptq, AutoGPTQ's QuantLinear) ``qweight`` [columns / 8, rows], eight columns in one;
AWQ (mit-han-lab/llm-awq, AutoAWQ's WQLinear_GEMM) [columns, rows / 8], eight rows in one, in the order 0 2 4 6 1 3 5 7.
``qzeros`` [groups, rows / 8] are zero points, eight rows in one in the same orders, less 1 in GPTQ's first format;
``scales`` are [groups, rows]. weight = (code - zero point) * scale. No PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.files import label, readable
from pocketvlm.models.directory import Packed, Stored
from pocketvlm.models.quantized import Packing

Words = npt.NDArray[np.uint32]
Codes = npt.NDArray[np.uint8]

#: Where the nibbles of an AWQ word belong.
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
MIDDLE, TOP = 8, 15


def with_packed(tensors: Mapping[str, Stored], packing: Packing | None) -> dict[str, Stored]:
    """Tensors by their key, each packed matrix as one, named and shaped like the weight that it is.

    :raises CheckpointError: one lacks a part, has a part of another shape, or has its columns in another order
    """
    if packing is None:
        return dict(tensors)
    joined = dict(tensors)
    for key in [key for key in tensors if key.endswith(".qweight")]:
        module = key.removesuffix(".qweight")
        parts = {part: joined.pop(f"{module}.{part}", None) for part in ("qweight", "qzeros", "scales", "g_idx")}
        joined[f"{module}.weight"] = _matrix(module, parts, packing)
    if joined.keys() == tensors.keys():
        raise CheckpointError(
            f"config.json says {packing.layout}, and no weight is packed; take quantization_config out"
        )
    return joined


def _matrix(module: str, parts: Mapping[str, Stored | None], packing: Packing) -> Stored:
    words, zeros, scales, order = (parts[name] for name in ("qweight", "qzeros", "scales", "g_idx"))
    shown = one_line(module, 120)
    if words is None or zeros is None or scales is None:
        lacking = next(name for name in ("qzeros", "scales") if parts[name] is None)
        raise CheckpointError(f"{shown}.{lacking} is missing from the weights")
    down, across = words.shape if len(words.shape) == 2 else (0, 0)
    columns, rows = (8 * down, across) if packing.layout == "gptq" else (down, 8 * across)
    groups = 1 if packing.group_size == -1 else -(-columns // packing.group_size)
    for tensor, shape, kinds in (
        (words, words.shape[:2], ("I32",)),
        (zeros, (groups, -(-rows // 8)), ("I32",)),
        (scales, (groups, rows), ("F16", "BF16", "F32")),
    ):
        if tensor.shape != shape or tensor.dtype not in kinds or not rows * columns:
            found = f"{one_line(tensor.dtype, 20)} {one_line(list(tensor.shape), 80)}"
            raise CheckpointError(
                f"{one_line(tensor.key, 120)} is {found}; {packing.layout} in groups of {packing.group_size} has "
                f"{kinds[0]} {list(shape)}"
            )
    if order is not None:
        _check_order(order, columns, packing)
    packed = Packed(packing.layout, packing.group_size, packing.symmetric, packing.offset, zeros, scales)
    return replace(words, shape=(rows, columns), packed=packed)


def _check_order(order: Stored, columns: int, packing: Packing) -> None:
    """That each column's group is the one it stands in."""
    size = columns if packing.group_size == -1 else packing.group_size
    with readable(order.file, CheckpointError):
        found = np.fromfile(order.file, "<i4", min(columns, (order.end - order.start) // 4), offset=order.start)
    if order.dtype != "I32" or order.shape != (columns,) or not np.array_equal(found, np.arange(columns) // size):
        raise CheckpointError(
            f"{label(order.file)}: {one_line(order.key, 120)} orders columns by activation (desc_act), which no back "
            "end has; export the original model"
        )


# --- Codes ------------------------------------------------------------------------------------------------------------


def codes_of(packed: Packed, words: Words) -> Codes:
    """``qweight`` -> uint8 [rows, columns]"""
    if packed.layout == "awq":
        return np.ascontiguousarray(_nibbles(words, AWQ_ORDER).reshape(len(words), -1).T)
    # [columns / 8, rows, 8] -> [rows, columns / 8, 8] -> [rows, columns]
    return _nibbles(words, range(8)).transpose(1, 0, 2).reshape(words.shape[1], -1)


def zero_points_of(packed: Packed, words: Words) -> Codes:
    """``qzeros`` -> uint8 [rows, groups]

    :raises CheckpointError: one is beyond 4 bits, or is none of a symmetric matrix
    """
    order = AWQ_ORDER if packed.layout == "awq" else range(8)
    # [groups, rows / 8, 8] -> [groups, rows] -> [rows, groups]
    found = _nibbles(words, order).reshape(len(words), -1)[:, : packed.scales.shape[1]].T
    found = np.ascontiguousarray(found + np.uint8(packed.offset))
    name = one_line(packed.zeros.key, 120)
    if packed.symmetric and (found != MIDDLE).any():
        raise CheckpointError(f"{name}: quantization_config says sym, and it has zero points other than {MIDDLE}")
    if (found > TOP).any():
        raise CheckpointError(f"{name} has zero points of 16, which 4 bits do not hold; export the original model")
    return found


def _nibbles(words: Words, order: Sequence[int]) -> Codes:
    """uint32 [n, m] -> uint8 [n, m, 8], the nibbles of each word in ``order``; one place after the other, since all at
    once take eight times the memory."""
    codes = np.empty((*words.shape, 8), np.uint8)
    for place, nibble in enumerate(order):
        codes[..., place] = (words >> np.uint32(4 * nibble)) & np.uint32(TOP)
    return codes
