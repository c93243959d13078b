"""Causal convolutions over cached rows in ONNX graphs.

A few rows times a factor a channel each, added: for one token as for a chunk that is less than ONNX Runtime 1.29's Conv
with as many groups as channels, or its CausalConvWithState, makes of them, and it needs no channels in front of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from pocketvlm.export.onnx.graph import GraphBuilder
from pocketvlm.models.operators import CausalConvolution

#: TensorScatter is of this version.
OPSET = 24


@dataclass(frozen=True)
class Rows:
    """Where a step's rows lie in the caches of convolutions: ``place`` is the first new one's, and ``starts`` and
    ``ends`` bound what the factors before the last are of. All are int64 [1]."""

    place: ir.Value
    starts: tuple[ir.Value, ...]
    ends: tuple[ir.Value, ...]


def row_inputs(kernel: int) -> tuple[str, ...]:
    """Names of those values: where a layer is cut out of a graph, they are its inputs."""
    return "row_place", *(f"row_{side}.{tap}" for side in ("start", "end") for tap in range(kernel - 1))


def row_feeds(kernel: int, tokens: int) -> Mapping[str, np.ndarray[Any, Any]]:
    """What they are for the first tokens."""
    taps = range(kernel - 1)
    numbers = [kernel - 1, *taps, *(tap + tokens for tap in taps)]
    return {name: np.array([number], np.int64) for name, number in zip(row_inputs(kernel), numbers, strict=True)}


def rows(graph: GraphBuilder, hidden: ir.Value, total: ir.Value, kernel: int) -> Rows:
    """``hidden`` [1, tokens, hidden], the last of ``total`` tokens, int32 []"""
    tokens = graph.op("Shape", hidden, start=1, end=2)
    first = graph.op("Sub", graph.op("Cast", total, to=ir.DataType.INT64), tokens)  # [1]
    place, *bounds = row_inputs(kernel)

    def moved(value: ir.Value, by: int, name: str) -> ir.Value:
        constant = graph.constant(f"rows_{by}", np.array([by], np.int64))
        return graph.op("Add", value, constant, name=name, dtype="int64")

    starts = tuple(moved(first, tap, name) for tap, name in enumerate(bounds[: kernel - 1]))
    ends = tuple(
        graph.op("Add", start, tokens, name=name, dtype="int64")
        for start, name in zip(starts, bounds[kernel - 1 :], strict=True)
    )
    return Rows(moved(first, kernel - 1, place), starts, ends)


def convolve(
    graph: GraphBuilder,
    operator: CausalConvolution,
    length: int,
    layer: int,
    values: ir.Value,
    weights: tuple[ir.Value, ir.Value | None],
    at: Rows,
) -> ir.Value:
    """values [1, tokens, width] -> the same shape. Adds the layer's rows as an input and an output of the graph."""
    width, kernel = operator.width, operator.kernel
    shape = [1, kernel - 1 + length, width]
    past = graph.input(f"past_conv.{layer}", "float32", shape)
    present = graph.op("TensorScatter", past, values, at.place, axis=1)
    graph.output(present, f"present_conv.{layer}", "float32", shape)
    weight, bias = weights
    # [width, 1, kernel] -> [kernel, 1, width], which an engine computes once
    factors = graph.op("Transpose", weight, perm=[2, 1, 0])
    axis = graph.constant("axis_1", np.array([1], np.int64))
    known = [graph.op("Slice", present, start, end, axis) for start, end in zip(at.starts, at.ends, strict=True)]
    total: ir.Value | None = bias
    for tap, states in enumerate((*known, values)):
        bounds = (graph.constant(f"tap_{number}", np.array([number], np.int64)) for number in (tap, tap + 1, 0))
        # [kernel, 1, width] -> [1, 1, width]
        product = graph.op("Mul", states, graph.op("Slice", factors, *bounds))
        total = product if total is None else graph.op("Add", product, total)
    assert total is not None
    return total
