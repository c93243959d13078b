"""The operators of models as nodes of LiteRT's graphs, whose values are [1, tokens, width] or [1, patches, width]."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pocketvlm.export.graph.lower import Call
from pocketvlm.export.litert import attention
from pocketvlm.export.litert.graph import LitertGraph, LitertTensor
from pocketvlm.export.litert.weights import LitertWeights, QuantizedMatrix
from pocketvlm.export.store.kv_layout import KvLayout
from pocketvlm.models.operators import (
    Attend,
    Blocks,
    CachedAttend,
    Channels,
    ChannelScale,
    ClassToken,
    DropFirst,
    Gelu,
    Join,
    LayerNorm,
    Linear,
    Parameter,
    Patches,
    QuickGelu,
    RmsNorm,
    Rotate,
    Scale,
    Silu,
)


@dataclass(frozen=True)
class LitertContext:
    """A graph under construction and where weights come from; ``kv`` and ``positions`` are what a decoder's attention
    reads."""

    graph: LitertGraph
    weights: LitertWeights
    kv: KvLayout | None = None
    positions: attention.LitertPositions | None = None


def _add(at: LitertContext, call: Call, left: LitertTensor, right: LitertTensor) -> LitertTensor:
    return at.graph.add(left, right)


def _multiply(at: LitertContext, call: Call, left: LitertTensor, right: LitertTensor) -> LitertTensor:
    return at.graph.multiply(left, right)


def _linear(at: LitertContext, call: Call, hidden: LitertTensor) -> LitertTensor:
    graph, name = at.graph, call.weight()
    weight = at.weights.matrix(name)
    more = weight.shape[1] - weight.columns if isinstance(weight, QuantizedMatrix) else 0
    if more:  # its last block is longer than its rows
        hidden = graph.pad(hidden, [0] * (len(hidden.shape) - 1) + [more])
    product = graph.linear(hidden, graph.matrix(name, weight), _optional(at, call, "bias"))
    return graph.scaled(product, call.factor)


def _patches(at: LitertContext, call: Call, pixels: LitertTensor) -> LitertTensor:
    """A convolution whose stride is its kernel's side: each patch times one matrix."""
    graph, (size, _), width = at.graph, call.operator.kernel_size, call.operator.out_channels
    grid = pixels.shape[-1] // size
    # [1, 3, tile, tile], without what is beyond the last whole patch
    pixels = graph.slice(graph.slice(pixels, 2, 0, grid * size), 3, 0, grid * size)
    # [1, 3, grid * size, grid * size] -> [3, grid, size, grid, size] -> [grid, grid, 3, size, size]
    patches = graph.transpose(graph.reshape(pixels, [3, grid, size, grid, size]), [1, 3, 0, 2, 4])
    patches = graph.reshape(patches, [1, grid * grid, 3 * size * size])
    # [width, 3, size, size] -> [width, 3 * size * size]
    kernel = graph.constant(call.weight(), at.weights.vector(call.weight()).reshape(width, -1))
    return graph.linear(patches, kernel, _optional(at, call, "bias"))


def _parameter(at: LitertContext, call: Call, values: LitertTensor) -> LitertTensor:
    return at.graph.add(values, _vector(at, call))


def _channel_scale(at: LitertContext, call: Call, values: LitertTensor) -> LitertTensor:
    return at.graph.multiply(values, _vector(at, call))


def _scale(at: LitertContext, call: Call, values: LitertTensor) -> LitertTensor:
    return at.graph.scaled(values, call.operator.factor)


def _layer_norm(at: LitertContext, call: Call, hidden: LitertTensor) -> LitertTensor:
    return at.graph.layer_norm(hidden, _vector(at, call), _vector(at, call, "bias"), call.operator.eps)


def _rms_norm(at: LitertContext, call: Call, hidden: LitertTensor) -> LitertTensor:
    norm, graph = call.operator, at.graph
    weight = graph.constant(call.weight(), at.weights.vector(call.weight()) * np.float32(call.factor))
    if norm.heads > 1:  # the norm of each head
        hidden = attention.by_head(graph, hidden, norm.heads)
    return graph.rms_norm(hidden, weight, norm.eps)


def _gelu(at: LitertContext, call: Call, values: LitertTensor) -> LitertTensor:
    return at.graph.gelu(values, approximate=call.operator.approximate == "tanh")


def _quick_gelu(at: LitertContext, call: Call, values: LitertTensor) -> LitertTensor:
    return at.graph.silu(values, call.operator.alpha)


def _silu(at: LitertContext, call: Call, values: LitertTensor) -> LitertTensor:
    return at.graph.silu(values)


def _attend(at: LitertContext, call: Call, query: LitertTensor, key: LitertTensor, value: LitertTensor) -> LitertTensor:
    graph, heads = at.graph, call.operator.heads
    query, key, value = (attention.by_head(graph, states, heads) for states in (query, key, value))
    scores = graph.product(graph.scaled(query, call.operator.scale), key, transposed=True)
    return attention.side_by_side(graph, graph.product(graph.softmax(scores), value))


def _rotate(at: LitertContext, call: Call, states: LitertTensor, step: None) -> LitertTensor:
    """Gives [1, heads, tokens, head size], as the attention behind it takes it."""
    assert at.positions is not None
    return attention.rotated(at.graph, attention.by_head(at.graph, states, call.operator.heads), at.positions)


def _cached_attend(
    at: LitertContext, call: Call, query: LitertTensor, key: LitertTensor, value: LitertTensor, step: None
) -> LitertTensor:
    heads: CachedAttend = call.operator
    assert at.kv is not None
    assert at.positions is not None
    states = (
        attention.by_head(at.graph, query, heads.heads),
        attention.by_head(at.graph, key, heads.kv_heads),
        attention.by_head(at.graph, value, heads.kv_heads),
    )
    return attention.attend(at.graph, heads, at.kv, call.stage.index, states, at.positions)


def _class_token(at: LitertContext, call: Call, rows: LitertTensor) -> LitertTensor:
    # [width] -> [1, 1, width], in front of [1, rows, width]
    token = at.graph.constant(call.weight(), at.weights.vector(call.weight())[None, None])
    return at.graph.concatenate([token, rows], 1)


def _drop_first(at: LitertContext, call: Call, values: LitertTensor) -> LitertTensor:
    return at.graph.slice(values, 1, 1, call.operator.rows)


def _channels(at: LitertContext, call: Call, values: LitertTensor) -> LitertTensor:
    return at.graph.slice(values, 2, call.operator.first, call.operator.size)


def _join(at: LitertContext, call: Call, left: LitertTensor, right: LitertTensor) -> LitertTensor:
    return at.graph.concatenate([left, right], 2)


def _blocks(at: LitertContext, call: Call, tokens: LitertTensor) -> LitertTensor:
    """As ``pocketvlm.models.operators.space_to_depth``: pad an odd grid, concatenate ratio x ratio tokens."""
    graph, grid, width, ratio = at.graph, call.operator.grid, call.operator.width, call.operator.ratio
    padding, side = -grid % ratio, call.operator.side
    tokens = graph.reshape(tokens, [grid, grid, width])  # [1, patches, width] -> [rows, columns, width]
    if padding:
        tokens = graph.pad(tokens, [padding, padding, 0])
    # [side, ratio, side, ratio, width] -> [side, side, ratio, ratio, width]
    order = [2, 0, 1, 3, 4] if call.operator.by_column else [0, 2, 1, 3, 4]
    blocks = graph.transpose(graph.reshape(tokens, [side, ratio, side, ratio, width]), order)
    return graph.reshape(blocks, [1, side * side, ratio * ratio * width])


def _vector(at: LitertContext, call: Call, part: str = "weight") -> LitertTensor:
    return at.graph.constant(call.weight(part), at.weights.vector(call.weight(part)))


def _optional(at: LitertContext, call: Call, part: str) -> LitertTensor | None:
    values = at.weights.optional_vector(call.weight(part))
    return None if values is None else at.graph.constant(call.weight(part), values)


TABLE: dict[Any, Callable[..., Any]] = {
    operator.add: _add,
    operator.mul: _multiply,
    Linear: _linear,
    Patches: _patches,
    Parameter: _parameter,
    ChannelScale: _channel_scale,
    Scale: _scale,
    LayerNorm: _layer_norm,
    RmsNorm: _rms_norm,
    Gelu: _gelu,
    QuickGelu: _quick_gelu,
    Silu: _silu,
    Attend: _attend,
    Rotate: _rotate,
    CachedAttend: _cached_attend,
    ClassToken: _class_token,
    DropFirst: _drop_first,
    Channels: _channels,
    Join: _join,
    Blocks: _blocks,
}
