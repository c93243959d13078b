"""Layers that keep a state in ONNX graphs: the gated delta rule, and the last rows of the convolution before it.

ONNX Runtime's LinearAttention goes through a chunk token by token, each head's matrix staying in a core's cache: of 16
heads of 128 x 128 one token takes 0.41 ms on one thread (AVX2), 128 tokens 27 ms. By chunks of 64, as products of
matrices, 128 take 55 ms in PyTorch, and a graph would have to invert what is solved there.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from pocketvlm.export.onnx.graph import MICROSOFT, GraphBuilder
from pocketvlm.models.operators import CausalConvolution, GatedDelta

#: Of a layer's cache, behind past_ and present_.
ROWS, MATRIX = "conv", "state"
END = np.iinfo(np.int64).max


def convolve(
    graph: GraphBuilder, operator: CausalConvolution, layer: int, values: ir.Value, weight: ir.Value
) -> ir.Value:
    """values [1, tokens, width], weight [width, 1, kernel] -> the values' shape. Adds the last rows of a layer as an
    input and an output of the graph."""
    width, before = operator.width, operator.kernel - 1
    past = graph.input(f"past_{ROWS}.{layer}", "float32", [1, before, width])
    known = graph.op("Concat", past, values, axis=1)  # [1, kernel - 1 + tokens, width]
    present = _rows(graph, known, -before, END)
    graph.output(present, f"present_{ROWS}.{layer}", "float32", [1, before, width])
    # [width, 1, kernel] -> [kernel, 1, width], which an engine computes once
    factors = graph.op("Transpose", weight, perm=[2, 1, 0])
    total: ir.Value | None = None
    for tap in range(operator.kernel):
        states = _rows(graph, known, tap, tap - before) if tap < before else values
        bounds = (graph.constant(f"tap_{number}", np.array([number], np.int64)) for number in (tap, tap + 1, 0))
        # [kernel, 1, width] -> [1, 1, width]
        product = graph.op("Mul", states, graph.op("Slice", factors, *bounds))
        total = product if total is None else graph.op("Add", product, total)
    assert total is not None
    return total


def _rows(graph: GraphBuilder, known: ir.Value, start: int, end: int) -> ir.Value:
    bounds = (graph.constant(f"row_{at}", np.array([at], np.int64)) for at in (start, end))
    return graph.op("Slice", known, *bounds, graph.constant("axis_1", np.array([1], np.int64)))


def decay(graph: GraphBuilder, values: ir.Value, weight: ir.Value, bias: ir.Value) -> ir.Value:
    """[1, tokens, heads] -> -exp(weight) * softplus(x + bias)"""
    speed = graph.op("Neg", graph.op("Exp", weight))  # which an engine computes once
    return graph.op("Mul", graph.op("Softplus", graph.op("Add", values, bias)), speed)


def delta(
    graph: GraphBuilder,
    operator: GatedDelta,
    layer: int,
    projected: tuple[ir.Value, ir.Value, ir.Value],
    decayed: ir.Value,
    rate: ir.Value,
) -> ir.Value:
    """Query, key and value, ``projected`` [1, tokens, heads * width] each, decay and rate [1, tokens, heads] ->
    [1, tokens, heads * value width]. Adds the layer's matrices as an input and an output of the graph."""
    shape = [1, operator.heads, operator.key_size, operator.value_size]
    past = graph.input(f"past_{MATRIX}.{layer}", "float32", shape)
    query, key, value = projected
    query, key = (_of_length_1(graph, operator, states) for states in (query, key))
    mixed, present = graph.ops(
        "LinearAttention",
        *(query, key, value, past, decayed, rate),
        names=[None, None],
        domain=MICROSOFT,
        q_num_heads=operator.heads,
        kv_num_heads=operator.heads,
        update_rule="gated_delta",
        scale=1 / math.sqrt(operator.key_size),
    )
    graph.output(present, f"present_{MATRIX}.{layer}", "float32", shape)
    return mixed


def _of_length_1(graph: GraphBuilder, operator: GatedDelta, states: ir.Value) -> ir.Value:
    """[1, tokens, key heads * key width] -> [1, tokens, heads * key width]: each head by the root of the sum of its
    squares, and once for each value head that it serves."""
    size, times = operator.key_size, operator.heads // operator.key_heads
    # [1, tokens, key heads * size] -> [1, tokens, key heads, size]
    heads = graph.op("Reshape", states, graph.shape(0, 0, operator.key_heads, size))
    # The norm divides by the root of the mean.
    one = graph.constant(f"length_1.{size}", np.full(size, size**-0.5, np.float32))
    normed = graph.op(
        "SimplifiedLayerNormalization", heads, one, axis=-1, epsilon=operator.EPSILON / size, stash_type=1
    )
    whole = normed
    for _ in range(times - 1):  # [1, tokens, key heads, so many * size]
        whole = graph.op("Concat", whole, normed, axis=3)
    # -> [1, tokens, heads * size]
    return graph.op("Reshape", whole, graph.shape(0, 0, operator.heads * size))
