"""The operators of models as nodes of XNNPACK graphs, whose values are [tokens, width] or [patches, width].

A layer's attention reads what its step has written into the KV cache, and writing is a kernel of ExecuTorch's; so is it
with a convolution's rows. So a row of decoder layers is several graphs: one goes from one layer's attention to the next
layer's query, key and value, and a method calls them in turn (``pocketvlm.export.executorch.methods``). A state's
matrices are read and written by the graph behind its rows.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pocketvlm.export.executorch import picture
from pocketvlm.export.executorch.attention import PARTS, XnnpackAttention, rotated
from pocketvlm.export.executorch.convolution import XnnpackConvolution, convolved
from pocketvlm.export.executorch.program import Program
from pocketvlm.export.executorch.state import StateInputs, XnnpackState
from pocketvlm.export.executorch.weights import Weights
from pocketvlm.export.executorch.xnnpack import Value, XnnpackGraph
from pocketvlm.export.graph.lower import Call, lower
from pocketvlm.models.operators import (
    Attend,
    AttendLearned,
    AttendPicture,
    Blocks,
    CachedAttend,
    CausalConvolution,
    Channels,
    ChannelScale,
    ClassToken,
    Clip,
    Decay,
    Depthwise,
    DropFirst,
    GatedDelta,
    Gelu,
    Join,
    KeyRows,
    LayerNorm,
    Linear,
    MeanOfBlocks,
    MeanOfRows,
    Parameter,
    Patches,
    PositionRows,
    QuickGelu,
    Regroup,
    Relu,
    RmsNorm,
    Rotate,
    RowBehind,
    Scale,
    SharedAttend,
    Sigmoid,
    Silu,
    Softcap,
)
from pocketvlm.models.stages import Stage


class XnnpackContext:
    """An XNNPACK graph under construction and where weights come from; ``place``: where a picture's patches stand."""

    def __init__(self, graph: XnnpackGraph, weights: Weights, place: picture.PlaceValues | None = None) -> None:
        self.graph, self.weights, self.place = graph, weights, place


class CacheBuilders(NamedTuple):
    """What builds the nodes that belong to each kind of cache."""

    attention: XnnpackAttention
    convolution: XnnpackConvolution
    state: XnnpackState


@dataclass(frozen=True)
class Segment:
    """A graph of the program, and the widths of what it gives beside a query and new rows: [tokens, width] each. What
    it gives of a state comes before those."""

    graph: int
    passing: tuple[int, ...]


class Segments(XnnpackContext):
    """Decoder layers as the graphs between what reads their caches; takes at most ``tokens`` tokens."""

    def __init__(self, program: Program, weights: Weights, caches: CacheBuilders, tokens: int) -> None:
        super().__init__(XnnpackGraph(program.constants), weights)
        self._program, self._caches, self._tokens = program, caches, tokens
        self.attention = caches.attention
        self._state: StateInputs | None = None
        self._present: list[Value] = []
        self._turns: list[Value] = []
        self._cos_sin: list[Value] = []
        self._left: list[Stage] = []
        self._finished: list[Segment] = []

    def lower(self, stages: Sequence[Stage]) -> tuple[Segment, ...]:
        """The program's graphs: one a layer, and what follows the last attention."""
        config, self._left = self.attention.config, list(stages)
        width = config.stream_width(stages[0].index)
        embeds = self.graph.input([1, self._tokens, width])
        self._take_turns()
        stream = self.graph.reshape(embeds, [0, width], [self._tokens, width])
        for stage in stages:
            stream = lower(stage, TABLE, self, stream)
        self._finish([stream])
        return tuple(self._finished)

    def rotated(self, states: Value) -> Value:
        """RoPE at the tokens' positions, which are inputs of the graph."""
        if not self._cos_sin:
            tokens, half = self._turns[0].shape
            # [tokens, half] -> [tokens, 1, half]
            self._cos_sin = [self.graph.reshape(turn, [0, 1, half], [tokens, 1, half]) for turn in self._turns]
        return rotated(self.graph, states, self._cos_sin, 2 * self._turns[0].shape[1])

    def attend(
        self, layer: int, passing: Sequence[Value], query: Value, key: Value, value: Value
    ) -> tuple[list[Value], Value]:
        """End the graph with a query and new rows of a cache; gives what passes by and mixed values in the next one."""
        rows = [
            self.attention.as_rows(self.graph, layer, part, states)
            for part, states in zip(PARTS, (key, value), strict=True)
        ]
        return self._attended(layer, self._cut(passing, query, *rows))

    def attend_shared(self, layer: int, passing: Sequence[Value], query: Value) -> tuple[list[Value], Value]:
        """The same with a query alone, where an earlier layer has put its rows."""
        return self._attended(layer, self._cut(passing, query))

    def _attended(self, layer: int, passed: list[Value]) -> tuple[list[Value], Value]:
        asked = self.attention.inputs(self.graph, layer, self._tokens)
        self._take_turns()
        return passed, self.attention.attend(self.graph, layer, asked)

    def convolve(self, call: Call, passing: Sequence[Value], rows: Value) -> tuple[list[Value], Value]:
        """End the graph with new rows; gives what passes them by and the convolved rows in the next graph."""
        inner = self._cut(passing, rows)
        known = [self.graph.input(rows.shape) for _ in range(call.operator.kernel)]
        if call.operator.of_state:
            self._state = self._caches.state.inputs(self.graph, self._tokens)
        self._take_turns()
        name = call.weight()
        weights = self.weights.vector(name), self.weights.optional_vector(call.weight("bias"))
        return inner, convolved(self.graph, name, known, *weights)

    def delta(self, call: Call, projected: Sequence[Value], gates: tuple[Value, Value]) -> Value:
        """What the gated delta rule gives; the graph gives the state behind it."""
        assert self._state is not None
        mixed, present = self._caches.state.delta(self.graph, call.operator, self._state, projected, gates)
        self._present.append(present)
        return mixed

    def _cut(self, passing: Sequence[Value], *outputs: Value) -> list[Value]:
        """End the graph and begin the next; gives in it what passes by."""
        self._left.pop(0)
        self._finish(passing, *outputs)
        self.graph = XnnpackGraph(self._program.constants)
        return [self.graph.input(value.shape) for value in passing]

    def _take_turns(self) -> None:
        """The rows of RoPE that the next layer's queries and keys turn by."""
        self._turns, self._cos_sin = [], []
        if self._left:
            half = self.attention.config.head_size(self._left[0].index) // 2
            self._turns = [self.graph.input([self._tokens, half]) for _ in range(2)]

    def _finish(self, passing: Sequence[Value], *outputs: Value) -> None:
        for output in (*self._present, *passing, *outputs):
            self.graph.output(output)
        self._present = []
        widths = tuple(one.shape[-1] for one in passing)
        self._finished.append(Segment(self._program.add_graph(self.graph.serialized()), widths))


def _add(at: XnnpackContext, call: Call, left: Value, right: Value) -> Value:
    return at.graph.add(left, right)


def _multiply(at: XnnpackContext, call: Call, left: Value, right: Value) -> Value:
    return at.graph.multiply(left, right)


def _linear(at: XnnpackContext, call: Call, hidden: Value) -> Value:
    name = call.weight()
    product = at.graph.linear(name, hidden, at.weights.matrix(name), at.weights.optional_vector(call.weight("bias")))
    product = at.graph.scaled(product, call.factor)
    consumer = call.stage.traced.operator(next(iter(call.node.users))) if call.node.users else None
    if isinstance(consumer, Attend) and consumer.patches is None:
        return _by_head(at, product, consumer.heads)
    return product


def _by_head(at: XnnpackContext, states: Value, heads: int) -> Value:
    """[patches, width] -> [heads, patches, head size], right where the states are computed."""
    patches, width = states.shape
    # [patches, width] -> [patches, heads, head size] -> [heads, patches, head size]
    return at.graph.transpose(at.graph.reshape(states, [patches, heads, width // heads]), [1, 0, 2])


def _patches(at: XnnpackContext, call: Call, pixels: Value) -> Value:
    """A convolution whose stride is its kernel's side: each patch times one matrix; or one whose patches overlap."""
    if call.operator.padding != (0, 0):
        # [1, 3, tile, tile] -> [1, tile, tile, 3]
        return _convolved(at, call, at.graph.transpose(pixels, [0, 2, 3, 1]))
    graph, (size, _), width, name = at.graph, call.operator.kernel_size, call.operator.out_channels, call.weight()
    tiles, side = pixels.shape[0], pixels.shape[-1]
    grid = side // size
    # [tiles, 3, tile, tile] without what is beyond the last whole patch
    if grid * size != side:
        pixels = graph.slice(graph.slice(pixels, 2, 0, grid * size), 3, 0, grid * size)
    # -> [tiles, 3, grid, size, grid, size] -> [tiles, grid, grid, 3, size, size]
    cut = [3, grid, size, grid, size]
    patches = graph.transpose(graph.reshape(pixels, [0, *cut], [tiles, *cut]), [0, 2, 4, 1, 3, 5])
    # -> [tiles * patches, 3 * size * size]
    patches = graph.reshape(patches, [0, 3 * size * size], [tiles * grid * grid, 3 * size * size])
    # [width, 3, size, size] -> [width, 3 * size * size]
    kernel = at.weights.vector(name).reshape(width, -1)
    return graph.linear(name, patches, kernel, at.weights.optional_vector(call.weight("bias")))


def _depthwise(at: XnnpackContext, call: Call, rows: Value) -> Value:
    side, channels = call.operator.side, call.operator.in_channels
    # [side * side, channels] -> [1, side, side, channels]
    return _convolved(at, call, at.graph.reshape(rows, [1, side, side, channels]))


def _convolved(at: XnnpackContext, call: Call, points: Value) -> Value:
    kernel, (weight, bias) = call.operator, (at.weights.vector(call.weight(part)) for part in ("weight", "bias"))
    stride, _ = kernel.stride
    given = at.graph.convolution(call.weight(), points, weight, bias, stride=stride, groups=kernel.groups)
    _, down, across, width = given.shape
    # [1, side, side, width] -> [side * side, width]
    return at.graph.reshape(given, [down * across, width])


def _parameter(at: XnnpackContext, call: Call, values: Value) -> Value:
    return at.graph.add(values, at.graph.constant(call.weight(), at.weights.vector(call.weight())))


def _channel_scale(at: XnnpackContext, call: Call, values: Value) -> Value:
    return at.graph.multiply(values, at.graph.constant(call.weight(), at.weights.vector(call.weight())))


def _clip(at: XnnpackContext, call: Call, values: Value) -> Value:
    names = call.weight("low"), call.weight("high")
    low, high = (at.graph.constant(name, at.weights.vector(name)) for name in names)
    return at.graph.between(values, low, high)


def _row_behind(at: XnnpackContext, call: Call, values: Value) -> Value:
    """A one for each token, [tokens, 1], times the row."""
    graph, name = at.graph, call.weight()
    ones = graph.add(graph.scaled(graph.slice(values, 1, 0, 1), 0.0), graph.scalar(1.0))
    row = at.weights.vector(name) * np.float32(call.operator.factor)
    return graph.concatenate([values, graph.linear(name, ones, row[:, None])], 1)


def _scale(at: XnnpackContext, call: Call, values: Value) -> Value:
    return at.graph.scaled(values, call.operator.factor)


def _layer_norm(at: XnnpackContext, call: Call, hidden: Value) -> Value:
    weight, bias = at.weights.vector(call.weight()), at.weights.vector(call.weight("bias"))
    return at.graph.layer_norm(call.weight(), hidden, weight, bias, call.operator.eps)


def _rms_norm(at: XnnpackContext, call: Call, hidden: Value) -> Value:
    norm, (tokens, width) = call.operator, hidden.shape
    if norm.heads == 1:
        return _normed(at, call, hidden)
    size = width // norm.heads
    # [tokens, heads * size] -> [tokens * heads, size]
    rows = at.graph.reshape(hidden, [0, size], [tokens * norm.heads, size])
    # and back
    return at.graph.reshape(_normed(at, call, rows), [0, width], [tokens, width])


def _normed(at: XnnpackContext, call: Call, rows: Value) -> Value:
    """[rows, size] -> the same"""
    if call.operator.weight is None:
        return at.graph.scaled(at.graph.unweighted_rms_norm(rows, call.operator.eps), call.factor)
    weight = at.weights.vector(call.weight()) * np.float32(call.factor)
    return at.graph.rms_norm(call.weight(), rows, weight, call.operator.eps)


def _gelu(at: XnnpackContext, call: Call, values: Value) -> Value:
    return at.graph.gelu(values, call.operator.approximate)


def _quick_gelu(at: XnnpackContext, call: Call, values: Value) -> Value:
    return at.graph.silu(values, call.operator.alpha)


def _silu(at: XnnpackContext, call: Call, values: Value) -> Value:
    return at.graph.silu(values)


def _relu(at: XnnpackContext, call: Call, values: Value) -> Value:
    return at.graph.relu(values)


def _sigmoid(at: XnnpackContext, call: Call, values: Value) -> Value:
    return at.graph.sigmoid(values)


def _softcap(at: XnnpackContext, call: Call, values: Value) -> Value:
    cap = call.operator.cap
    return at.graph.scaled(at.graph.tanh(at.graph.scaled(values, 1 / cap)), cap)


def _mean_of_rows(at: XnnpackContext, call: Call, values: Value) -> Value:
    return at.graph.mean_of_rows(values)


def _mean_of_blocks(at: XnnpackContext, call: Call, values: Value) -> Value:
    graph, mean = at.graph, call.operator
    side, ratio, width = mean.side, mean.ratio, mean.width
    if mean.grid == ratio:
        # a tile is one block: [tiles * patches, width] -> [tiles, patches, width] -> [tiles, width, patches]
        patches, tiles = ratio * ratio, values.shape[0] // (ratio * ratio)
        by_channel = graph.transpose(graph.reshape(values, [0, patches, width], [tiles, patches, width]), [0, 2, 1])
        # -> [tiles * width, patches] -> [tiles * width, 1] -> [tiles, width]
        means = graph.mean(graph.reshape(by_channel, [0, patches], [tiles * width, patches]))
        return graph.reshape(means, [0, width], [tiles, width])
    # [grid * grid, width] -> [side, ratio, side, ratio, width] -> [side, side, width, ratio, ratio]
    blocks = graph.transpose(graph.reshape(values, [side, ratio, side, ratio, width]), [0, 2, 4, 1, 3])
    # -> [side * side * width, ratio * ratio] -> [side * side * width, 1] -> [side * side, width]
    means = graph.mean(graph.reshape(blocks, [side * side * width, ratio * ratio]))
    return graph.reshape(means, [side * side, width])


def _attend(at: XnnpackContext, call: Call, query: Value, key: Value, value: Value) -> Value:
    graph = at.graph
    if call.operator.patches is not None:
        return picture.attend_tiles(graph, call.operator, call.operator.patches, (query, key, value))
    query, key, value = (states if len(states.shape) == 3 else _by_head(at, states, call.operator.heads)
                         for states in (query, key, value))  # fmt: skip
    heads, patches, size = query.shape
    query = graph.scaled(query, 1 / math.sqrt(size))
    shares = graph.softmax(graph.matrix_product(query, key, transposed=True))
    mixed = graph.matrix_product(shares, value)
    # [heads, patches, head size] -> [patches, heads, head size] -> [patches, width]
    return graph.reshape(graph.transpose(mixed, [1, 0, 2]), [patches, heads * size])


def _rotate(at: Segments, call: Call, states: Value, step: None) -> Value:
    return at.rotated(states)


def _cached_attend(at: Segments, call: Call, query: Value, key: Value, value: Value, step: None) -> Value:
    passing, mixed = at.attend(call.stage.index, [call.values[node] for node in call.live], query, key, value)
    call.values.update(zip(call.live, passing, strict=True))
    return mixed


def _shared_attend(at: Segments, call: Call, query: Value, step: None) -> Value:
    passing, mixed = at.attend_shared(call.stage.index, [call.values[node] for node in call.live], query)
    call.values.update(zip(call.live, passing, strict=True))
    return mixed


def _attend_picture(at: XnnpackContext, call: Call, query: Value, key: Value, value: Value, place: None) -> Value:
    assert at.place is not None
    return picture.attend(at.graph, call.operator, at.place, (query, key, value))


def _position_rows(at: XnnpackContext, call: Call, values: Value, place: None) -> Value:
    assert at.place is not None and at.place.rows is not None
    return at.graph.add(values, at.place.rows)


def _key_rows(at: XnnpackContext, call: Call, values: Value, place: None) -> Value:
    assert at.place is not None and at.place.key_rows is not None
    return at.graph.add(values, at.place.key_rows)


def _attend_learned(at: XnnpackContext, call: Call, key: Value, value: Value) -> Value:
    query = call.weight(), at.weights.vector(call.weight())
    return picture.attend_learned(at.graph, call.operator, query, (key, value))


def _causal_convolution(at: Segments, call: Call, rows: Value, step: None) -> Value:
    passing, convolved = at.convolve(call, [call.values[node] for node in call.live], rows)
    call.values.update(zip(call.live, passing, strict=True))
    return convolved


def _decay(at: XnnpackContext, call: Call, values: Value) -> Value:
    graph, bias = at.graph, call.weight("bias")
    moved = graph.add(values, graph.constant(bias, at.weights.vector(bias)))
    speed = -np.exp(at.weights.vector(call.weight()))
    return graph.multiply(graph.softplus(moved), graph.constant(f"{call.weight()}.speed", speed))


def _gated_delta(
    at: Segments, call: Call, query: Value, key: Value, value: Value, decay: Value, rate: Value, step: None
) -> Value:
    return at.delta(call, (query, key, value), (decay, rate))


def _class_token(at: XnnpackContext, call: Call, rows: Value) -> Value:
    # [width] -> [1, width], in front of [rows, width]
    token = at.graph.constant(call.weight(), at.weights.vector(call.weight())[None])
    return at.graph.concatenate([token, rows], 0)


def _drop_first(at: XnnpackContext, call: Call, values: Value) -> Value:
    return at.graph.slice(values, 0, 1, call.operator.rows)


def _channels(at: XnnpackContext, call: Call, values: Value) -> Value:
    return at.graph.slice(values, 1, call.operator.first, call.operator.size)


def _regroup(at: XnnpackContext, call: Call, values: Value) -> Value:
    (rows, before), width = values.shape, call.operator.width
    # [tiles * rows, width] -> [others * other rows, other width]
    return at.graph.reshape(values, [0, width], [rows * before // width, width])


def _join(at: XnnpackContext, call: Call, left: Value, right: Value) -> Value:
    return at.graph.concatenate([left, right], 1)


def _blocks(at: XnnpackContext, call: Call, tokens: Value) -> Value:
    """As ``pocketvlm.models.operators.space_to_depth``: pad an odd grid, concatenate ratio x ratio tokens."""
    graph, grid, width, ratio = at.graph, call.operator.grid, call.operator.width, call.operator.ratio
    padding = -grid % ratio
    side = call.operator.side
    if grid == ratio:
        # a tile is one block: [tiles * patches, width] -> [tiles, patches * width]
        merged = ratio * ratio * width
        return graph.reshape(tokens, [0, merged], [tokens.shape[0] // (ratio * ratio), merged])
    if at.place is not None:
        return picture.blocks_of_tiles(graph, call.operator, tokens)
    tokens = graph.reshape(tokens, [grid, grid, width])  # [patches, width] -> [rows, columns, width]
    if padding:
        tokens = graph.pad(tokens, [padding, padding, 0])
    # [side, ratio, side, ratio, width] -> [side, side, ratio, ratio, width]
    order = [2, 0, 1, 3, 4] if call.operator.by_column else [0, 2, 1, 3, 4]
    blocks = graph.transpose(graph.reshape(tokens, [side, ratio, side, ratio, width]), order)
    return graph.reshape(blocks, [side * side, ratio * ratio * width])


TABLE: dict[Any, Callable[..., Any]] = {
    operator.add: _add,
    operator.mul: _multiply,
    Linear: _linear,
    Patches: _patches,
    Depthwise: _depthwise,
    Parameter: _parameter,
    PositionRows: _position_rows,
    KeyRows: _key_rows,
    ChannelScale: _channel_scale,
    Clip: _clip,
    RowBehind: _row_behind,
    Scale: _scale,
    LayerNorm: _layer_norm,
    RmsNorm: _rms_norm,
    Gelu: _gelu,
    QuickGelu: _quick_gelu,
    Silu: _silu,
    Relu: _relu,
    Sigmoid: _sigmoid,
    Softcap: _softcap,
    Attend: _attend,
    AttendPicture: _attend_picture,
    AttendLearned: _attend_learned,
    Rotate: _rotate,
    CachedAttend: _cached_attend,
    SharedAttend: _shared_attend,
    CausalConvolution: _causal_convolution,
    Decay: _decay,
    GatedDelta: _gated_delta,
    ClassToken: _class_token,
    DropFirst: _drop_first,
    MeanOfRows: _mean_of_rows,
    MeanOfBlocks: _mean_of_blocks,
    Channels: _channels,
    Regroup: _regroup,
    Join: _join,
    Blocks: _blocks,
}
