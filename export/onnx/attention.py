"""Attention over the KV cache in ONNX graphs.

GroupQueryAttention keeps the cache, rotates and mixes. Over an INT8 cache ONNX Runtime 1.29 computes one vector
times a matrix for each token and converts every key and value each time: at 128 tokens three times what a float32 cache
takes (AVX2). So a prompt's chunk takes another branch: it writes its codes into the same buffers, makes float32 numbers
of those that the cache holds up to there once, and multiplies whole matrices. Both branches read the same codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from pocketvlm.export.onnx.graph import MICROSOFT, GraphBuilder
from pocketvlm.export.store.kv_layout import FloatArray, KvLayout
from pocketvlm.models.config import DecoderConfig
from pocketvlm.models.operators import CachedAttend
from pocketvlm.models.rope import rope_tables

#: TensorScatter, which writes into the cache in place, is of this version.
OPSET = 24
#: Up to so many tokens dequantizing 2,048 cached ones costs more than it saves (36 heads of 64, two cores with AVX2).
FEW_TOKENS = 16
#: GroupQueryAttention's inputs without an INT8 cache's scales.
FLOAT_INPUTS = 9
QUANTIZED: dict[str, str | int] = {
    "k_quant_type": "PER_CHANNEL",
    "v_quant_type": "PER_CHANNEL",
    "kv_cache_bit_width": 8,
}
PARTS = ("key", "value")
#: Inputs that say how the tokens of a step turn, where their positions are not their places in the cache.
ROWS = ("rope_cos", "rope_sin")


@dataclass(frozen=True)
class Positions:
    """Values that every layer's attention reads; ``many`` says that there are more than a few tokens (INT8 only).

    Without cos and sin there are no rotary positions. ``by_token``: they have a row of each of the step's tokens, whose
    positions are not their places in the cache. ``local``: cos and sin for layers that see a window.
    """

    last: ir.Value
    total: ir.Value
    cos: ir.Value | None
    sin: ir.Value | None
    many: ir.Value | None
    by_token: bool = False
    local: tuple[ir.Value, ir.Value] | None = None

    def turned(self, *, rotary: bool, local: bool) -> Positions:
        """As a layer's attention reads it, which may rotate at the local base or not at all."""
        if not rotary or self.by_token:
            return replace(self, cos=None, sin=None)
        return self if self.local is None or not local else replace(self, cos=self.local[0], sin=self.local[1])


def position_inputs(kv: KvLayout, *, by_token: bool = False) -> tuple[str, ...]:
    """Names of those that hang on the tokens: where a layer is cut out of a graph, they are its inputs."""
    if by_token:
        return (*position_inputs(kv), *ROWS)
    return ("last_position", "total_length", *(() if kv.ranges is None else ("many_tokens",)))


def positions(
    graph: GraphBuilder, hidden: ir.Value, config: DecoderConfig, kv: KvLayout, *, by_token: bool = False
) -> Positions:
    """``hidden`` [1, tokens, hidden] and the graph's input attention_mask say where the tokens stand; ``by_token``: two
    more inputs say how they turn."""
    mask = graph.input("attention_mask", "int64", [1, "total"])
    count = graph.op("ReduceSum", mask, graph.constant("axis_1", np.array([1], np.int64)), keepdims=0)
    last = graph.op("Sub", count, graph.constant("one", np.array([1], np.int64)))
    index = graph.constant("index_1", np.array(1, np.int64))
    total = graph.op("Gather", graph.op("Shape", mask), index, axis=0)
    many = None
    if kv.ranges is not None:
        tokens = graph.op("Gather", graph.op("Shape", hidden), index, axis=0)
        few = graph.constant("few_tokens", np.array(FEW_TOKENS, np.int64))
        many = graph.op("Greater", tokens, few, name="many_tokens", dtype="bool")
    if by_token:
        cos, sin = (graph.input(name, "float32", ["sequence", config.head_dim // 2]) for name in ROWS)
    else:
        cos, sin = _tables(graph, "rope", config, kv, local=False)
    return Positions(
        graph.op("Cast", last, to=ir.DataType.INT32, name="last_position", dtype="int32"),
        graph.op("Cast", total, to=ir.DataType.INT32, name="total_length", dtype="int32"),
        cos,
        sin,
        many,
        by_token,
        _tables(graph, "rope_local", config, kv, local=True) if config.has_local else None,
    )


def _tables(
    graph: GraphBuilder, name: str, config: DecoderConfig, kv: KvLayout, *, local: bool
) -> tuple[ir.Value, ir.Value]:
    cos, sin = rope_tables(config, torch.arange(kv.length), local=local)
    return graph.constant(f"{name}.cos", cos.numpy()), graph.constant(f"{name}.sin", sin.numpy())


def attend(
    graph: GraphBuilder,
    heads: CachedAttend,
    kv: KvLayout,
    layer: int,
    projected: Sequence[ir.Value],
    at: Positions,
    *,
    rotary: bool,
    local: bool = False,
) -> ir.Value:
    """Query, key and value, ``projected`` [1, tokens, heads * head size] each -> mixed values of the query's shape.

    ``rotary``: query and key get their positions here, at the base of layers that see a window if ``local``. Adds
    the layer's KV cache as inputs and outputs of the graph.
    """
    if rotary and at.by_token:
        first, (query, key, value) = graph.constant("first_row", np.array([0], np.int64)), projected
        projected = [
            *(graph.op("RotaryEmbedding", x, first, at.cos, at.sin, domain=MICROSOFT) for x in (query, key)),
            value,
        ]
    at = at.turned(rotary=rotary, local=local)
    shape = [1, heads.kv_heads, kv.length, heads.head_dim]
    past = [graph.input(f"past_key_values.{layer}.{part}", kv.dtype, shape) for part in PARTS]
    if kv.ranges is None:
        mixed, *present = _grouped(graph, heads, [*projected, *past], at, {})
    else:
        assert at.many is not None
        scales = dict(zip(PARTS, kv.scales(layer), strict=True))
        branches: dict[str, Any] = {}
        for name, way in (("then_branch", _dequantized), ("else_branch", _in_codes)):
            branch = graph.branch(f"layers.{layer}.{way.__name__.strip('_')}")
            outputs = way(branch, heads, layer, [*projected, *past], scales, at)
            branch.output(outputs[0], f"{branch.name}.mixed", "float32", [1, "sequence", "width"])
            for part, value in zip(PARTS, outputs[1:], strict=True):
                branch.output(value, f"{branch.name}.{part}", kv.dtype, shape)
            branches[name] = branch.graph()
        mixed, *present = graph.ops("If", at.many, names=[None, None, None], **branches)
    for part, state in zip(PARTS, present, strict=True):
        graph.output(state, f"present.{layer}.{part}", kv.dtype, shape)
    return mixed


def _grouped(
    graph: GraphBuilder,
    heads: CachedAttend,
    values: Sequence[ir.Value | None],
    at: Positions,
    quantization: Mapping[str, str | int],
    scales: Sequence[ir.Value] = (),
) -> Sequence[ir.Value]:
    """One node -> mixed, key and value cache. ``values``: query, key, value, past key, past value."""
    # position_ids, attention_bias and head_sink are not used; the scales come after them.
    return graph.ops(
        "GroupQueryAttention",
        *(*values, at.last, at.total, at.cos, at.sin),
        *((None, None, None, *scales) if scales else ()),
        names=[None, None, None],
        domain=MICROSOFT,
        num_heads=heads.heads,
        kv_num_heads=heads.kv_heads,
        scale=heads.scale,
        do_rotary=int(at.cos is not None),
        **({} if heads.window is None else {"local_window_size": heads.window}),
        **quantization,
    )


def _in_codes(
    graph: GraphBuilder,
    heads: CachedAttend,
    layer: int,
    values: Sequence[ir.Value],
    scales: Mapping[str, FloatArray],
    at: Positions,
) -> Sequence[ir.Value]:
    """A few tokens: the INT8 kernel reads a quarter of what float32 would have."""
    # [KV heads, head size] -> [KV heads * head size]
    constants = [graph.constant(f"kv_{part}_scale.{layer}", scales[part].reshape(-1)) for part in PARTS]
    return _grouped(graph, heads, values, at, QUANTIZED, constants)


def _dequantized(
    graph: GraphBuilder,
    heads: CachedAttend,
    layer: int,
    values: Sequence[ir.Value],
    scales: Mapping[str, FloatArray],
    at: Positions,
) -> Sequence[ir.Value]:
    """Many tokens, as ``_in_codes`` computes them.

    A key's scales are multiplied into the query, a value's into what was mixed: a chunk has fewer rows than the cache.
    """

    def scaled(x: ir.Value, name: str, factors: FloatArray) -> ir.Value:
        # [heads, head size] -> [heads * head size]
        return graph.op("Mul", x, graph.constant(f"kv_{name}_scale.{layer}", factors.reshape(-1)))

    query, key, value, *past = values
    tokens = graph.op("Shape", query, start=1, end=2)
    total = graph.op("Cast", at.total, to=ir.DataType.INT64)
    first = graph.op("Sub", total, tokens)  # [1]
    end = graph.op("Add", first, tokens)  # [1]
    if at.cos is not None:
        query, key = (graph.op("RotaryEmbedding", x, first, at.cos, at.sin, domain=MICROSOFT) for x in (query, key))
    step = graph.constant("kv_step", np.array(1, np.float32))
    present, known = [], []
    for part, projected, before in zip(PARTS, (key, value), past, strict=True):
        # ONNX Runtime multiplies by the inverse as well, so that both branches round the same numbers.
        steps = scaled(projected, f"inverse_{part}", np.reciprocal(scales[part]))
        rows = _by_head(graph, steps, heads.kv_heads, heads.head_dim)
        codes = graph.op("QuantizeLinear", rows, step, output_dtype=ir.DataType.INT8)
        present.append(graph.op("TensorScatter", before, codes, first, axis=2))
        known.append(graph.op("DequantizeLinear", _first_rows(graph, present[-1], end), step))
    # [KV heads, head size] -> [heads, head size]: those that share a KV head stand side by side
    by_query = {part: scales[part].repeat(heads.heads // heads.kv_heads, axis=0) for part in PARTS}
    mixed = graph.op(
        "Attention",
        _by_head(graph, scaled(query, "query", by_query["key"]), heads.heads, heads.head_dim),
        *known,
        _mask(graph, first, end, total, heads.window),
        scale=heads.scale,
    )
    # [1, heads, tokens, head size] -> [1, tokens, heads, head size] -> [1, tokens, heads * head size]
    mixed = graph.op("Transpose", mixed, perm=[0, 2, 1, 3])
    mixed = graph.op("Reshape", mixed, graph.constant("all_heads", np.array([0, 0, -1], np.int64)))
    return scaled(mixed, "mixed", by_query["value"]), *present


def _by_head(graph: GraphBuilder, projected: ir.Value, heads: int, head_dim: int) -> ir.Value:
    shape = graph.constant(f"heads_{heads}", np.array([0, 0, heads, head_dim], np.int64))
    # [1, tokens, heads * head size] -> [1, tokens, heads, head size] -> [1, heads, tokens, head size]
    return graph.op("Transpose", graph.op("Reshape", projected, shape), perm=[0, 2, 1, 3])


def _first_rows(graph: GraphBuilder, cache: ir.Value, end: ir.Value) -> ir.Value:
    """[1, KV heads, length, head size] -> [1, KV heads, end, head size]"""
    start = graph.constant("first_row", np.array([0], np.int64))
    axis = graph.constant("axis_2", np.array([2], np.int64))
    return graph.op("Slice", cache, start, end, axis)


def _mask(graph: GraphBuilder, first: ir.Value, end: ir.Value, total: ir.Value, window: int | None) -> ir.Value:
    """bool [tokens, total]: a token sees itself and those before it, of a window so many with itself."""
    zero, one = (graph.constant(f"scalar_{number}", np.array(number, np.int64)) for number in (0, 1))
    columns = graph.op("Range", zero, total, one)
    rows = graph.op("Slice", columns, first, end)
    # [tokens] -> [tokens, 1]
    rows = graph.op("Unsqueeze", rows, graph.constant("axis_1", np.array([1], np.int64)))
    seen = graph.op("LessOrEqual", columns, rows)
    if window is None:
        return seen
    behind = graph.op("Sub", rows, graph.constant("kv_window", np.array(window, np.int64)))
    return graph.op("And", seen, graph.op("Less", behind, columns))


def without_quantized_cache(model: ir.Model) -> ir.Model:
    """Make an INT8 KV cache a float32 one, whose attention has no branches."""
    for node in list(model.graph):
        if node.op_type != "If" or "else_branch" not in node.attributes:
            continue
        (quantized,) = node.attributes["else_branch"].as_graph()
        attributes = [value for name, value in quantized.attributes.items() if name not in QUANTIZED]
        floating = ir.Node(
            MICROSOFT, quantized.op_type, quantized.inputs[:FLOAT_INPUTS], attributes, num_outputs=len(node.outputs)
        )
        model.graph.insert_before(node, floating)
        for old, new in zip(node.outputs, floating.outputs, strict=True):
            new.name, new.type, new.shape = old.name, old.type, old.shape
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        for value in (*floating.inputs[3:5], *floating.outputs[1:3]):
            assert value is not None
            value.dtype = ir.DataType.FLOAT
        model.graph.remove(node, safe=True)
    return model
