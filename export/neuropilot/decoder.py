"""Layers of the decoder as one static graph of the NPU's program: as ``neuropilot.program`` has them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pocketvlm.export.neuropilot import program
from pocketvlm.export.neuropilot.graph import NpuGraph, Rounded
from pocketvlm.export.neuropilot.rounding import Scales
from pocketvlm.export.store.weights import WeightStore
from pocketvlm.models.config import DecoderConfig


@dataclass(frozen=True)
class Step:
    """The shape of a graph: tokens of a step, rows of the cache."""

    tokens: int
    length: int


def build_decoder(
    name: str, store: WeightStore, config: DecoderConfig, scales: Scales, layers: range, step: Step
) -> ir.Model:
    """hidden, mask, rope, past_key.*, past_value.* -> hidden or logits, present_key.*, present_value.*

    The order of inputs and outputs is that of MediaTek's runner. The last layers come with the head.
    """
    graph = NpuGraph(name, store, scales)
    builder, tokens = graph.builder, step.tokens
    inputs = (
        builder.input("hidden", "float32", [1, tokens, config.hidden_size]),
        builder.input("mask", "float32", [1, 1, tokens, step.length + tokens]),
        builder.input("rope", "float32", [1, 2, tokens, config.head_dim]),
    )
    shape = [1, config.num_key_value_heads, step.length, config.head_dim]
    past = {part: [builder.input(f"past_{part}.{at}", "int8", shape) for at in layers] for part in ("key", "value")}
    stream = graph.rounded(program.stream_name(layers.start), inputs[0])
    shared = graph.rounded(program.MASK, inputs[1]), graph.rounded(program.ROPE, inputs[2])
    present: dict[str, list[ir.Value]] = {"key": [], "value": []}
    for at, layer in enumerate(layers):
        before = past["key"][at], past["value"][at]
        stream, *rows = _layer(graph, config, layer, stream, shared, before, step.length + tokens)
        for part, value in zip(("key", "value"), rows, strict=True):
            present[part].append(graph.slice(value.codes, 2, tokens, step.length + tokens))
    if layers.stop == config.num_hidden_layers:
        logits = graph.rounded("logits", _tail(graph, config, stream))
        builder.output(graph.floats(logits), "logits", "float32", [1, tokens, config.vocab_size])
    else:
        builder.output(graph.floats(stream), "next_hidden", "float32", [1, tokens, config.hidden_size])
    for part, rows_of_part in present.items():
        for layer, extended in zip(layers, rows_of_part, strict=True):
            builder.output(extended, f"present_{part}.{layer}", "int8", shape)
    return builder.model()


def _layer(
    graph: NpuGraph,
    config: DecoderConfig,
    layer: int,
    stream: Rounded,
    shared: tuple[Rounded, Rounded],
    past: tuple[ir.Value, ir.Value],
    width: int,
) -> tuple[Rounded, Rounded, Rounded]:
    """The next residual stream, and keys and values with this step's rows at their end."""
    name, op = program.layer_prefix(layer), graph.builder.op
    attended, key, value = _attention(graph, config, name, stream, shared, past, width)
    stream = graph.rounded(f"{name}attention.sum", op("Add", graph.floats(stream), graph.floats(attended)))
    normed = _rms_norm(graph, config, f"{name}post_attention_layernorm", stream)
    gate, up = (graph.rounded(f"{name}mlp.{part}", graph.linear(f"{name}mlp.{part}_proj.weight", normed))
                for part in ("gate", "up"))  # fmt: skip
    floats = graph.floats(gate)
    activated = graph.rounded(f"{name}mlp.activated", op("Mul", floats, op("Sigmoid", floats)))
    inner = graph.rounded(f"{name}mlp.inner", op("Mul", graph.floats(activated), graph.floats(up)))
    output = graph.linear(f"{name}mlp.down_proj.weight", inner, config.residual_scale)
    output = graph.floats(graph.rounded(f"{name}mlp.output", output))
    return graph.rounded(program.stream_name(layer + 1), op("Add", graph.floats(stream), output)), key, value


def _attention(
    graph: NpuGraph,
    config: DecoderConfig,
    prefix: str,
    stream: Rounded,
    shared: tuple[Rounded, Rounded],
    past: tuple[ir.Value, ir.Value],
    width: int,
) -> tuple[Rounded, Rounded, Rounded]:
    """``width``: rows of the cache and of the step."""
    op, name, size = graph.builder.op, f"{prefix}self_attn.", config.head_dim
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    normed = _rms_norm(graph, config, f"{prefix}input_layernorm", stream)
    mask, rope = shared

    def projected(part: str, count: int, factor: float = 1.0) -> Rounded:
        rows = graph.rounded(f"{name}{part}", graph.linear(f"{name}{part}_proj.weight", normed, factor))
        # [1, tokens, heads * size] -> [1, tokens, heads, size] -> [1, heads, tokens, size]
        split = graph.reshape(rows.codes, 1, -1, count, size)
        return Rounded(op("Transpose", split, perm=[0, 2, 1, 3]), rows.scale)

    def extended(part: str, before: ir.Value, new: Rounded) -> Rounded:
        rows = graph.cached(f"{name}{part}", new)
        return Rounded(op("Concat", before, rows.codes, axis=2), rows.scale)

    query = _rotated(graph, f"{name}q", projected("q", heads, 1 / math.sqrt(size)), rope, size)
    key = extended("key", past[0], _rotated(graph, f"{name}k", projected("k", kv_heads), rope, size))
    value = extended("value", past[1], projected("v", kv_heads))
    # [1, heads, tokens, size] -> [1, KV heads, rows, size]
    query = Rounded(graph.reshape(query.codes, 1, kv_heads, -1, size), query.scale)
    turned = Rounded(op("Transpose", key.codes, perm=[0, 1, 3, 2]), key.scale)
    scores = graph.rounded(f"{name}scores", graph.matmul(query, turned))
    # [1, KV heads, rows, length + tokens] -> [1, heads, tokens, length + tokens], and back
    scores = Rounded(graph.reshape(scores.codes, 1, heads, -1, width), scores.scale)
    masked = graph.rounded(f"{name}masked", op("Add", graph.floats(scores), graph.floats(mask)))
    shares = graph.probabilities(graph.softmax(graph.floats(masked)))
    shares = Rounded(graph.reshape(shares.codes, 1, kv_heads, -1, width), shares.scale)
    mixed = graph.rounded(f"{name}mixed", graph.matmul(shares, value))
    # [1, KV heads, rows, size] -> [1, heads, tokens, size] -> [1, tokens, heads * size]
    codes = op("Transpose", graph.reshape(mixed.codes, 1, heads, -1, size), perm=[0, 2, 1, 3])
    mixed = Rounded(graph.reshape(codes, 1, -1, heads * size), mixed.scale)
    output = graph.linear(f"{name}o_proj.weight", mixed, config.residual_scale)
    return graph.rounded(f"{name}output", output), key, value


def _rotated(graph: NpuGraph, name: str, states: Rounded, rope: Rounded, size: int) -> Rounded:
    """RoPE on [1, heads, tokens, size]; the halves are pairs (Llama's layout)."""
    op, values = graph.builder.op, graph.floats(states)
    cos, sin = (graph.slice(graph.floats(rope), 1, at, at + 1) for at in (0, 1))  # [1, 1, tokens, size] each
    first, second = (graph.slice(values, 3, at, at + size // 2) for at in (0, size // 2))
    swapped = op("Concat", op("Neg", second), first, axis=3)
    turned = graph.floats(graph.rounded(f"{name}.turned", op("Mul", swapped, sin)))
    kept = graph.floats(graph.rounded(f"{name}.kept", op("Mul", values, cos)))
    return graph.rounded(f"{name}.rotated", op("Add", kept, turned))


def _rms_norm(graph: NpuGraph, config: DecoderConfig, name: str, hidden: Rounded, factor: float = 1.0) -> Rounded:
    op, values = graph.builder.op, graph.floats(hidden)
    axis = graph.constant("last_axis", np.array([-1], np.int64))
    square = op("ReduceMean", op("Mul", values, values), axis, keepdims=1)
    root = op("Reciprocal", op("Sqrt", op("Add", square, graph.number(config.rms_norm_eps))))
    normed = graph.floats(graph.rounded(f"{name}.normed", op("Mul", values, root)))
    return graph.rounded(f"{name}.scaled", op("Mul", graph.vector(f"{name}.weight", factor), normed))


def _tail(graph: NpuGraph, config: DecoderConfig, stream: Rounded) -> ir.Value:
    normed = _rms_norm(graph, config, "model.norm", stream, config.logits_scale)
    return graph.linear("model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight", normed)
