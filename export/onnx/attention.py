"""Attention over the KV cache in ONNX graphs.

GroupQueryAttention keeps the cache, rotates and mixes. Over an INT8 cache ONNX Runtime 1.29 computes one vector
times a matrix for each token and converts every key and value each time: at 128 tokens three times what a float32 cache
takes (AVX2). So a prompt's chunk takes another branch: it writes its codes into the same buffers, makes float32 numbers
of those that the cache holds up to there once, and multiplies whole matrices. Both branches read the same codes.

That node's attention is causal. Where the tokens of a span see each other, a chunk that has some takes the other branch
too, whatever the cache holds: there is a mask, which says what each token sees (``last_seen``, an input).
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
from pocketvlm.models.operators import CachedAttend, SharedAttend
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
#: One that says what they see, where some see what is behind them.
LAST_SEEN = "last_seen"
#: A value: where a step begins.
FIRST = "first_position"


def known_names(layer: int) -> tuple[str, str]:
    """What the keys and values are called that later layers read: float32 [1, KV heads, total, head size] each."""
    return f"layers.{layer}.known.key", f"layers.{layer}.known.value"


@dataclass(frozen=True)
class Positions:
    """Values that every layer's attention reads; ``many`` says that there are more than a few tokens (INT8 only), or
    some that see what is behind them, of which ``last_seen`` is the last place in the cache.

    Without cos and sin there are no rotary positions. ``by_token``: they have a row of each of the step's tokens, whose
    positions are not their places in the cache. ``local``: cos and sin for layers that see a window. ``first``: the
    step's first place in the cache, int64 [1], where layers read another's.
    """

    last: ir.Value
    total: ir.Value
    cos: ir.Value | None
    sin: ir.Value | None
    many: ir.Value | None
    by_token: bool = False
    local: tuple[ir.Value, ir.Value] | None = None
    last_seen: ir.Value | None = None
    first: ir.Value | None = None

    def turned(self, *, rotary: bool, local: bool) -> Positions:
        """As a layer's attention reads it, which may rotate at the local base or not at all."""
        if not rotary or self.by_token:
            return replace(self, cos=None, sin=None)
        return self if self.local is None or not local else replace(self, cos=self.local[0], sin=self.local[1])


def position_inputs(kv: KvLayout, *, by_token: bool = False, spans: bool = False) -> tuple[str, ...]:
    """Names of those that hang on the tokens: where a layer is cut out of a graph, they are its inputs."""
    if by_token:
        return (*position_inputs(kv, spans=spans), *ROWS)
    branching = () if kv.ranges is None and not spans else ("many_tokens",)
    return ("last_position", "total_length", *branching, *((LAST_SEEN,) if spans else ()))


def positions(
    graph: GraphBuilder,
    hidden: ir.Value,
    config: DecoderConfig,
    kv: KvLayout,
    *,
    by_token: bool = False,
    spans: bool = False,
) -> Positions:
    """``hidden`` [1, tokens, hidden] and the graph's input attention_mask say where the tokens stand; ``by_token``: two
    more inputs say how they turn; ``spans``: one says what they see."""
    mask = graph.input("attention_mask", "int64", [1, "total"])
    count = graph.op("ReduceSum", mask, graph.constant("axis_1", np.array([1], np.int64)), keepdims=0)
    last = graph.op("Sub", count, graph.constant("one", np.array([1], np.int64)))
    index = graph.constant("index_1", np.array(1, np.int64))
    total = graph.op("Gather", graph.op("Shape", mask), index, axis=0)
    many, last_seen = None, graph.input(LAST_SEEN, "int64", ["sequence"]) if spans else None
    if kv.ranges is not None or spans:
        many = _many(graph, hidden, total, last_seen, quantized=kv.ranges is not None)
        graph.call(many, "many_tokens", "bool")
    if by_token:
        cos, sin = (graph.input(name, "float32", ["sequence", config.head_dim // 2]) for name in ROWS)
    else:
        cos, sin = _tables(graph, "rope", config, kv, local=False)
    first = None
    if config.num_kv_shared_layers:
        tokens = graph.op("Shape", hidden, start=1, end=2)
        first = graph.call(graph.op("Sub", total, tokens), FIRST, "int64")
    return Positions(
        graph.op("Cast", last, to=ir.DataType.INT32, name="last_position", dtype="int32"),
        graph.op("Cast", total, to=ir.DataType.INT32, name="total_length", dtype="int32"),
        cos,
        sin,
        many,
        by_token,
        _tables(graph, "rope_local", config, kv, local=True) if config.has_local_rope else None,
        last_seen,
        first,
    )


def _many(
    graph: GraphBuilder, hidden: ir.Value, total: ir.Value, last_seen: ir.Value | None, *, quantized: bool
) -> ir.Value:
    """Whether a chunk takes the branch with whole matrices."""
    long = None
    if quantized:
        index = graph.constant("index_1", np.array(1, np.int64))
        tokens = graph.op("Gather", graph.op("Shape", hidden), index, axis=0)
        long = graph.op("Greater", tokens, graph.constant("few_tokens", np.array(FEW_TOKENS, np.int64)))
    if last_seen is None:
        assert long is not None
        return long
    # what tokens may see is at least themselves: where the sums are equal, no token sees more
    count = graph.op("Shape", hidden, start=1, end=2)
    first = graph.op("Sub", total, count)  # [1]
    zero, one = (graph.constant(f"scalar_{number}", np.array(number, np.int64)) for number in (0, 1))
    places = graph.op("Slice", graph.op("Range", zero, total, one), first, graph.op("Add", first, count))
    axis = graph.constant("axis_0", np.array([0], np.int64))
    sums = (graph.op("ReduceSum", values, axis, keepdims=0) for values in (last_seen, places))
    further = graph.op("Greater", *sums)
    return further if long is None else graph.op("Or", long, further)


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
    if at.many is None:
        mixed, *present = _grouped(graph, heads, [*projected, *past], at, {})
    else:
        scales = {} if kv.ranges is None else dict(zip(PARTS, kv.scales(layer), strict=True))
        branches: dict[str, Any] = {}
        ways = (("then_branch", "dequantized", _in_matrices), ("else_branch", "in_codes", _one_by_one))
        for name, said, way in ways:
            branch = graph.branch(f"layers.{layer}.{said}")
            outputs = way(branch, heads, layer, [*projected, *past], scales, at)
            branch.output(outputs[0], f"{branch.name}.mixed", "float32", [1, "sequence", "width"])
            for part, value in zip(PARTS, outputs[1:], strict=True):
                branch.output(value, f"{branch.name}.{part}", kv.dtype, shape)
            branches[name] = branch.graph()
        mixed, *present = graph.ops("If", at.many, names=[None, None, None], **branches)
    for part, state in zip(PARTS, present, strict=True):
        graph.output(state, f"present.{layer}.{part}", kv.dtype, shape)
    graph.once(("present", layer), lambda: tuple(present))
    return mixed


def attend_shared(
    graph: GraphBuilder, heads: SharedAttend, kv: KvLayout, query: ir.Value, at: Positions, *, local: bool
) -> ir.Value:
    """A query [1, tokens, heads * head size] over the cache of an earlier layer -> mixed values of its shape.

    What several layers read of one cache, and their mask, is computed once.
    """
    at = at.turned(rotary=True, local=local)
    first = at.first
    assert first is not None

    def ends() -> tuple[ir.Value, ...]:
        total = graph.op("Cast", at.total, to=ir.DataType.INT64)
        # [] -> [1]
        return graph.op("Add", total, graph.constant("first_row", np.array([0], np.int64))), total

    end, total = graph.once("where a step ends", ends)

    def known() -> tuple[ir.Value, ...]:
        caches = graph.once(("present", heads.source), lambda: ())
        scales = (None, None) if kv.ranges is None else kv.scales(heads.source)
        found = []
        for name, cache, scale in zip(known_names(heads.source), caches, scales, strict=True):
            rows = _first_rows(graph, cache, end)
            if scale is not None:
                step = graph.constant("kv_step", np.array(1, np.float32))
                # [KV heads, head size] -> [KV heads, 1, head size]
                factors = graph.constant(f"{name}_scale", scale[:, None])
                rows = graph.op("Mul", graph.op("DequantizeLinear", rows, step), factors)
            found.append(graph.call(rows, name))
        return tuple(found)

    query = graph.op("RotaryEmbedding", query, first, at.cos, at.sin, domain=MICROSOFT)
    window, seen = heads.window, at.last_seen
    (mask,) = graph.once(("shared mask", window), lambda: (_mask(graph, (first, end, total), window, seen),))
    mixed = graph.op(
        "Attention",
        _by_head(graph, query, heads.heads, heads.head_dim),
        *graph.once(("known", heads.source), known),
        mask,
        scale=heads.scale,
    )
    return _in_rows(graph, mixed)


def _in_rows(graph: GraphBuilder, mixed: ir.Value) -> ir.Value:
    """[1, heads, tokens, head size] -> [1, tokens, heads * head size]"""
    mixed = graph.op("Transpose", mixed, perm=[0, 2, 1, 3])  # [1, tokens, heads, head size]
    return graph.op("Reshape", mixed, graph.constant("all_heads", np.array([0, 0, -1], np.int64)))


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
        **_softcap(heads),
        **quantization,
    )


def _one_by_one(
    graph: GraphBuilder,
    heads: CachedAttend,
    layer: int,
    values: Sequence[ir.Value],
    scales: Mapping[str, FloatArray],
    at: Positions,
) -> Sequence[ir.Value]:
    """A few tokens: the INT8 kernel reads a quarter of what float32 would have. Without ``scales`` a float32 cache."""
    if not scales:
        return _grouped(graph, heads, values, at, {})
    # [KV heads, head size] -> [KV heads * head size]
    constants = [graph.constant(f"kv_{part}_scale.{layer}", scales[part].reshape(-1)) for part in PARTS]
    return _grouped(graph, heads, values, at, QUANTIZED, constants)


def _in_matrices(
    graph: GraphBuilder,
    heads: CachedAttend,
    layer: int,
    values: Sequence[ir.Value],
    scales: Mapping[str, FloatArray],
    at: Positions,
) -> Sequence[ir.Value]:
    """Many tokens, as ``_one_by_one`` computes them, and those that see further.

    A key's scales are multiplied into the query, a value's into what was mixed: a chunk has fewer rows than the cache.
    """
    shared = heads.heads // heads.kv_heads

    def scaled(x: ir.Value, name: str, part: str, *, inverse: bool = False, by_query: bool = False) -> ir.Value:
        if not scales:
            return x
        factors = np.reciprocal(scales[part]) if inverse else scales[part]
        # [KV heads, head size] -> [heads, head size]: those that share a KV head stand side by side
        factors = factors.repeat(shared, axis=0) if by_query else factors
        # [heads, head size] -> [heads * head size]
        return graph.op("Mul", x, graph.constant(f"kv_{name}_scale.{layer}", factors.reshape(-1)))

    query, key, value, *past = values
    tokens = graph.op("Shape", query, start=1, end=2)
    total = graph.op("Cast", at.total, to=ir.DataType.INT64)
    first = graph.op("Sub", total, tokens)  # [1]
    end = graph.op("Add", first, tokens)  # [1]
    if at.cos is not None:
        query, key = (graph.op("RotaryEmbedding", x, first, at.cos, at.sin, domain=MICROSOFT) for x in (query, key))
    step = graph.constant("kv_step", np.array(1, np.float32)) if scales else None
    present, known = [], []
    for part, projected, before in zip(PARTS, (key, value), past, strict=True):
        # ONNX Runtime multiplies by the inverse as well, so that both branches round the same numbers.
        steps = scaled(projected, f"inverse_{part}", part, inverse=True)
        rows = _by_head(graph, steps, heads.kv_heads, heads.head_dim)
        rows = graph.op("QuantizeLinear", rows, step, output_dtype=ir.DataType.INT8) if scales else rows
        present.append(graph.op("TensorScatter", before, rows, first, axis=2))
        up_to_here = _first_rows(graph, present[-1], end)
        known.append(graph.op("DequantizeLinear", up_to_here, step) if scales else up_to_here)
    mixed = graph.op(
        "Attention",
        _by_head(graph, scaled(query, "query", "key", by_query=True), heads.heads, heads.head_dim),
        *known,
        _mask(graph, (first, end, total), heads.window, at.last_seen),
        scale=heads.scale,
        **_softcap(heads),
    )
    return scaled(_in_rows(graph, mixed), "mixed", "value", by_query=True), *present


def _softcap(heads: CachedAttend) -> dict[str, Any]:
    """The attribute of both nodes; what is masked stays so (ONNX Runtime bounds the scores before it masks them)."""
    return {} if heads.softcap is None else {"softcap": heads.softcap}


def _by_head(graph: GraphBuilder, projected: ir.Value, heads: int, head_dim: int) -> ir.Value:
    shape = graph.constant(f"heads_{heads}_{head_dim}", np.array([0, 0, heads, head_dim], np.int64))
    # [1, tokens, heads * head size] -> [1, tokens, heads, head size] -> [1, heads, tokens, head size]
    return graph.op("Transpose", graph.op("Reshape", projected, shape), perm=[0, 2, 1, 3])


def _first_rows(graph: GraphBuilder, cache: ir.Value, end: ir.Value) -> ir.Value:
    """[1, KV heads, length, head size] -> [1, KV heads, end, head size]"""
    start = graph.constant("first_row", np.array([0], np.int64))
    axis = graph.constant("axis_2", np.array([2], np.int64))
    return graph.op("Slice", cache, start, end, axis)


def _mask(
    graph: GraphBuilder, bounds: tuple[ir.Value, ir.Value, ir.Value], window: int | None, last_seen: ir.Value | None
) -> ir.Value:
    """bool [tokens, total]: a token sees itself and those before it, of a window so many with itself; with
    ``last_seen`` up to there. ``bounds``: the first token's place, and twice how many are known."""
    first, end, total = bounds
    zero, one = (graph.constant(f"scalar_{number}", np.array(number, np.int64)) for number in (0, 1))
    columns = graph.op("Range", zero, total, one)
    rows = graph.op("Slice", columns, first, end)
    axis = graph.constant("axis_1", np.array([1], np.int64))
    # [tokens] -> [tokens, 1]
    rows = graph.op("Unsqueeze", rows, axis)
    bound = rows if last_seen is None else graph.op("Unsqueeze", last_seen, axis)
    seen = graph.op("LessOrEqual", columns, bound)
    if window is None:
        return seen
    behind = graph.op("Sub", rows, graph.constant("kv_window", np.array(window, np.int64)))
    return graph.op("And", seen, graph.op("Less", behind, columns))


def without_quantized_cache(model: ir.Model) -> ir.Model:
    """Make an INT8 KV cache a float32 one, whose attention has no branches but where some tokens see further."""
    has_spans = any(value.name == LAST_SEEN for value in model.graph.inputs)
    for node in list(model.graph):
        if node.op_type != "If" or "else_branch" not in node.attributes:
            continue
        branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
        (grouped,) = branches[1]
        caches = grouped.inputs[3:5]
        if has_spans:
            for branch in branches:
                _make_float(branch)
            caches = [*caches, *node.outputs[1:3], *(value for branch in branches for value in branch.outputs[1:3])]
        else:
            floating = _floating(grouped)
            model.graph.insert_before(node, floating)
            _take_place(node, floating)
            caches = [*caches, *floating.outputs[1:3]]
            model.graph.remove(node, safe=True)
        for value in caches:
            assert value is not None
            value.dtype = ir.DataType.FLOAT
    for node in list(model.graph):
        if node.op_type == "DequantizeLinear":
            _leave_as_it_is(model.graph, node)
    return model


def _leave_as_it_is(graph: ir.Graph, node: ir.Node) -> None:
    """What later layers read of a float32 cache: neither dequantized nor scaled."""
    (scaled,) = (use.node for use in node.outputs[0].uses())
    plain = ir.Node("", "Identity", node.inputs[:1])
    graph.insert_before(node, plain)
    _take_place(scaled, plain)
    graph.remove([node, scaled], safe=True)


def _floating(grouped: ir.Node) -> ir.Node:
    """The same attention over a float32 cache."""
    attributes = [value for name, value in grouped.attributes.items() if name not in QUANTIZED]
    inputs = grouped.inputs[:FLOAT_INPUTS]
    return ir.Node(MICROSOFT, grouped.op_type, inputs, attributes, num_outputs=len(grouped.outputs))


def _make_float(branch: ir.Graph) -> None:
    """Let nothing in a branch be rounded: what is scaled before and behind stays so."""
    for node in list(branch):
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear", "GroupQueryAttention"):
            continue
        is_attention = node.op_type == "GroupQueryAttention"
        plain = _floating(node) if is_attention else ir.Node("", "Identity", node.inputs[:1])
        branch.insert_before(node, plain)
        _take_place(node, plain)
        branch.remove(node, safe=True)


def _take_place(node: ir.Node, other: ir.Node) -> None:
    """Let what a node gives be given by another one."""
    for old, new in zip(node.outputs, other.outputs, strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
