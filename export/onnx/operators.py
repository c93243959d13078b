"""The operators of models as nodes of ONNX graphs."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from pocketvlm.errors import ExportError
from pocketvlm.export.graph.lower import Call
from pocketvlm.export.onnx import attention, convolution, picture, state
from pocketvlm.export.onnx.graph import MICROSOFT, GraphBuilder
from pocketvlm.export.onnx.linear import linear
from pocketvlm.export.store.kv_layout import KvLayout
from pocketvlm.export.store.weights import FloatWeight, WeightStore
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


@dataclass(frozen=True)
class OnnxContext:
    """A graph under construction. ``integers``: matrices are stored for products of whole rows of integers.

    ``kv`` and ``positions`` are what a decoder's attention reads, ``steps`` its convolutions, ``place`` that of a tower
    of native resolution, ``rows`` what its patch embedding adds.
    """

    graph: GraphBuilder
    store: WeightStore
    integers: bool = False
    kv: KvLayout | None = None
    positions: attention.Positions | None = None
    steps: convolution.Rows | None = None
    place: picture.PlaceInputs | None = None
    rows: ir.Value | None = None


class Later:
    """What becomes a node when it is needed: others may take it into theirs before."""

    def __init__(self) -> None:
        self._value: ir.Value | None = None

    def value(self, graph: GraphBuilder, name: str | None = None) -> ir.Value:
        """The node's output, which gets the ``name`` when it is made here."""
        if self._value is None:
            self._value = self.make(graph, name)
        return self._value

    def make(self, graph: GraphBuilder, name: str | None) -> ir.Value:
        """Add the node."""
        raise NotImplementedError


class Sum(Later):
    """A sum, which a norm behind it computes too."""

    def __init__(self, left: ir.Value, right: ir.Value) -> None:
        super().__init__()
        self.left, self.right = left, right

    def make(self, graph: GraphBuilder, name: str | None) -> ir.Value:
        return graph.op("Add", self.left, self.right, name=name)

    def normed(self, graph: GraphBuilder, norm: ir.Value, epsilon: float) -> ir.Value:
        """The sum's RMS norm, from the node that gives the sum itself as well."""
        normed, _, _, self._value = graph.ops(
            "SkipSimplifiedLayerNormalization",
            *(self.right, self.left, norm),
            names=[None, "", "", None],
            domain=MICROSOFT,
            epsilon=epsilon,
        )
        return normed


class Activated(Later):
    """SiLU, behind all that its product waits for."""

    def __init__(self, gate: ir.Value) -> None:
        super().__init__()
        self.gate = gate

    def make(self, graph: GraphBuilder, name: str | None) -> ir.Value:
        # x * sigmoid(alpha * x) with alpha = 1 is SiLU
        return graph.op("QuickGelu", self.gate, domain=MICROSOFT, alpha=1.0, name=name)


class Joined(Later):
    """Two side by side."""

    def __init__(self, left: ir.Value, right: ir.Value) -> None:
        super().__init__()
        self.left, self.right = left, right

    def make(self, graph: GraphBuilder, name: str | None) -> ir.Value:
        return graph.op("Concat", self.left, self.right, axis=2, name=name)


class Map(Later):
    """Points of a map with their channels first, [tiles, width, side, side], which become rows where rows are needed: a
    convolution behind another takes them as they are."""

    def __init__(self, points: ir.Value, width: int) -> None:
        super().__init__()
        self.points, self.width = points, width

    def make(self, graph: GraphBuilder, name: str | None) -> ir.Value:
        # [tiles, width, side, side] -> [tiles, width, side * side] -> [tiles, side * side, width]
        flat = graph.op("Reshape", self.points, graph.shape(0, self.width, -1))
        return graph.op("Transpose", flat, perm=[0, 2, 1], name=name)


@dataclass(frozen=True)
class Rotated:
    """Query or key that the attention rotates; ``local``: at the base of layers that see a window."""

    states: ir.Value
    local: bool = False


def value_of(at: OnnxContext, given: ir.Value | Later, name: str | None = None) -> ir.Value:
    """What an operator gave, as a value of the graph, which gets the ``name``."""
    if isinstance(given, Later):
        return given.value(at.graph, name)
    return given if name is None else at.graph.call(given, name)


def _add(at: OnnxContext, call: Call, left: Any, right: Any) -> Sum:
    return Sum(value_of(at, left), value_of(at, right))


def _multiply(at: OnnxContext, call: Call, left: Any, right: Any) -> ir.Value:
    return at.graph.op("Mul", value_of(at, left), value_of(at, right))


def _linear(at: OnnxContext, call: Call, hidden: Any) -> ir.Value:
    weight = at.store.linear(call.weight(), call.factor, integers=at.integers)
    return linear(at.graph, value_of(at, hidden), weight, at.store.optional_vector(call.weight("bias"), call.factor))


def _patches(at: OnnxContext, call: Call, pixels: ir.Value) -> Map:
    kernel: Patches = call.operator
    return Map(_convolved(at, call, pixels, kernel), kernel.out_channels)


def _depthwise(at: OnnxContext, call: Call, rows: Any) -> Map:
    kernel: Depthwise = call.operator
    if isinstance(rows, Map):
        points = rows.points
    else:
        # [tiles, side * side, channels] -> [tiles, channels, side * side] -> [tiles, channels, side, side]
        turned = at.graph.op("Transpose", value_of(at, rows), perm=[0, 2, 1])
        points = at.graph.op("Reshape", turned, at.graph.shape(0, kernel.in_channels, kernel.side, kernel.side))
    return Map(_convolved(at, call, points, kernel), kernel.out_channels)


def _convolved(at: OnnxContext, call: Call, points: ir.Value, kernel: Patches | Depthwise) -> ir.Value:
    weights = (_vector(at, call, part) for part, _ in kernel.named_parameters())
    steps: dict[str, Any] = {"kernel_shape": list(kernel.kernel_size), "strides": list(kernel.stride)}
    padding = int(kernel.padding[0])
    if padding:
        return at.graph.op("Conv", points, *weights, **steps, pads=[padding] * 4, group=kernel.groups)
    return at.graph.op("Conv", points, *weights, **steps)


def _parameter(at: OnnxContext, call: Call, values: Any) -> ir.Value:
    return at.graph.op("Add", value_of(at, values), _vector(at, call))


def _position_rows(at: OnnxContext, call: Call, values: Any, place: None) -> ir.Value:
    assert at.rows is not None
    return at.graph.op("Add", value_of(at, values), at.rows)


def _key_rows(at: OnnxContext, call: Call, values: Any, place: None) -> ir.Value:
    assert at.place is not None and at.place.key_rows is not None
    return at.graph.op("Add", value_of(at, values), at.place.key_rows)


def _channel_scale(at: OnnxContext, call: Call, values: Any) -> ir.Value:
    return at.graph.op("Mul", value_of(at, values), _vector(at, call))


def _clip(at: OnnxContext, call: Call, values: Any) -> ir.Value:
    below = at.graph.op("Min", value_of(at, values), _vector(at, call, "high"))
    return at.graph.op("Max", below, _vector(at, call, "low"))


def _row_behind(at: OnnxContext, call: Call, values: Any) -> Joined:
    """The row once a tile: a one of each, [tiles, 1, 1], times it."""
    graph, tokens, width = at.graph, value_of(at, values), call.operator.weight.shape[0]
    zeros = graph.op("Mul", _part(graph, tokens, 2, 0, 1), graph.constant("zero", np.array(0, np.float32)))
    ones = graph.op("Add", zeros, graph.constant("one_step", np.array(1, np.float32)))
    row = graph.float_weight(at.store.vector(call.weight(), call.operator.factor))
    # [tiles, 1, 1] times [1, width] -> [tiles, 1, width]
    return Joined(tokens, graph.op("MatMul", ones, graph.op("Reshape", row, graph.shape(1, width))))


def _scale(at: OnnxContext, call: Call, values: Any) -> ir.Value:
    factor = at.graph.constant(f"{call.name}.factor", np.array(call.operator.factor, np.float32))
    return at.graph.op("Mul", value_of(at, values), factor)


def _layer_norm(at: OnnxContext, call: Call, hidden: Any) -> ir.Value:
    values, weights = value_of(at, hidden), (_vector(at, call), _vector(at, call, "bias"))
    return at.graph.op("LayerNormalization", values, *weights, axis=-1, epsilon=call.operator.eps)


def _rms_norm(at: OnnxContext, call: Call, hidden: Any) -> ir.Value:
    norm, graph = call.operator, at.graph
    if norm.weight is None:
        weight = graph.constant(f"ones_{norm.size}_{call.factor:g}", np.full(norm.size, call.factor, np.float32))
    else:
        weight = graph.float_weight(at.store.vector(call.weight(), call.factor))
    if isinstance(hidden, Sum) and norm.heads == 1:
        return hidden.normed(graph, weight, norm.eps)
    values = value_of(at, hidden)
    size = norm.size
    if norm.heads > 1:  # [1, tokens, heads * size] -> [1, tokens, heads, size]
        values = graph.op("Reshape", values, graph.shape(0, 0, norm.heads, size))
    normed = graph.op("SimplifiedLayerNormalization", values, weight, axis=-1, epsilon=norm.eps, stash_type=1)
    # and back
    return graph.op("Reshape", normed, graph.shape(0, 0, norm.heads * size)) if norm.heads > 1 else normed


def _gelu(at: OnnxContext, call: Call, values: Any) -> Any:
    """Of a map, whose next may be a convolution, before it becomes rows."""
    function = {"approximate": call.operator.approximate}
    if isinstance(values, Map):
        return Map(at.graph.op("Gelu", values.points, **function), values.width)
    return at.graph.op("Gelu", value_of(at, values), **function)


def _quick_gelu(at: OnnxContext, call: Call, values: ir.Value) -> ir.Value:
    return at.graph.op("QuickGelu", values, domain=MICROSOFT, alpha=call.operator.alpha)


def _silu(at: OnnxContext, call: Call, values: ir.Value) -> Activated:
    return Activated(values)


def _relu(at: OnnxContext, call: Call, values: ir.Value) -> ir.Value:
    return at.graph.op("Max", values, at.graph.constant("zero", np.array(0, np.float32)))


def _sigmoid(at: OnnxContext, call: Call, values: ir.Value) -> ir.Value:
    return at.graph.op("Sigmoid", values)


def _softcap(at: OnnxContext, call: Call, values: Any) -> ir.Value:
    cap = at.graph.constant(f"{call.name}.cap", np.array(call.operator.cap, np.float32))
    return at.graph.op("Mul", at.graph.op("Tanh", at.graph.op("Div", value_of(at, values), cap)), cap)


def _attend(at: OnnxContext, call: Call, query: ir.Value, key: ir.Value, value: ir.Value) -> ir.Value:
    return at.graph.op("MultiHeadAttention", query, key, value, domain=MICROSOFT, num_heads=call.operator.heads)


def _attend_picture(at: OnnxContext, call: Call, query: Any, key: Any, value: ir.Value, place: None) -> ir.Value:
    assert at.place is not None
    return picture.attend(at.graph, call.operator, at.place, query, key, value)


def _attend_learned(at: OnnxContext, call: Call, key: Any, value: Any) -> ir.Value:
    states = _vector(at, call), value_of(at, key), value_of(at, value)
    return picture.attend_learned(at.graph, call.operator, *states)


def _rotate(at: OnnxContext, call: Call, states: ir.Value, step: None) -> Rotated:
    return Rotated(states, call.operator.local)


def _cached_attend(at: OnnxContext, call: Call, query: Any, key: Any, value: ir.Value, step: None) -> ir.Value:
    rotary = isinstance(query, Rotated)
    if rotary != isinstance(key, Rotated):
        raise ExportError(f"{call.name}: attention with positions of queries or of keys alone is not lowered to ONNX")
    assert at.kv is not None and at.positions is not None
    projected = [states.states if isinstance(states, Rotated) else states for states in (query, key, value)]
    given = at.kv, call.stage.index, projected, at.positions
    return attention.attend(at.graph, call.operator, *given, rotary=rotary, local=rotary and query.local)


def _shared_attend(at: OnnxContext, call: Call, query: Any, step: None) -> ir.Value:
    assert at.kv is not None and at.positions is not None
    if not isinstance(query, Rotated) or at.positions.by_token:
        raise ExportError(f"{call.name}: queries without positions, or with three, of an earlier layer's cache")
    return attention.attend_shared(at.graph, call.operator, at.kv, query.states, at.positions, local=query.local)


def _causal_convolution(at: OnnxContext, call: Call, values: Any, step: None) -> ir.Value:
    if call.operator.of_state:
        rows = value_of(at, values)
        return state.convolve(at.graph, call.operator, call.stage.index, rows, _vector(at, call))
    assert at.kv is not None and at.steps is not None
    weights = _vector(at, call), _vector(at, call, "bias") if call.operator.bias is not None else None
    rows = value_of(at, values)
    return convolution.convolve(at.graph, call.operator, at.kv.length, call.stage.index, rows, weights, at.steps)


def _decay(at: OnnxContext, call: Call, values: Any) -> ir.Value:
    return state.decay(at.graph, value_of(at, values), _vector(at, call), _vector(at, call, "bias"))


def _gated_delta(at: OnnxContext, call: Call, query: Any, key: Any, value: Any, *gates: Any) -> ir.Value:
    projected = value_of(at, query), value_of(at, key), value_of(at, value)
    decayed, rate, _ = gates
    return state.delta(at.graph, call.operator, call.stage.index, projected, decayed, rate)


def _class_token(at: OnnxContext, call: Call, rows: Any) -> ir.Value:
    """The row once a tile: zeros of a tile's own, [tiles, 1, width], plus [width]."""
    graph, rows = at.graph, value_of(at, rows)
    zeros = graph.op("Mul", _part(graph, rows, 1, 0, 1), graph.constant("zero", np.array(0, np.float32)))
    return graph.op("Concat", graph.op("Add", zeros, _vector(at, call)), rows, axis=1)


def _drop_first(at: OnnxContext, call: Call, values: Any) -> ir.Value:
    return _part(at.graph, value_of(at, values), 1, 1, 1 + call.operator.rows)


def _part(graph: GraphBuilder, values: ir.Value, axis: int, first: int, end: int) -> ir.Value:
    """Of an axis what lies from ``first`` to before ``end``."""
    bounds = (graph.constant(f"index_{at}", np.array([at], np.int64)) for at in (first, end, axis))
    return graph.op("Slice", values, *bounds)


def _mean_of_rows(at: OnnxContext, call: Call, values: Any) -> ir.Value:
    axis = at.graph.constant("axis_1", np.array([1], np.int64))
    return at.graph.op("ReduceMean", value_of(at, values), axis, keepdims=1)


def _mean_of_blocks(at: OnnxContext, call: Call, values: Any) -> ir.Value:
    """Down the rows of a block, then along them."""
    graph, mean = at.graph, call.operator
    grid, side, ratio, width = mean.grid, mean.side, mean.ratio, mean.width
    second, third = (graph.constant(f"axis_{axis}", np.array([axis], np.int64)) for axis in (2, 3))
    # [tiles, grid * grid, width] -> [tiles, side, ratio, grid, width] -> [tiles, side, 1, grid, width]
    down = graph.op("Reshape", value_of(at, values), graph.shape(0, side, ratio, grid, width))
    down = graph.op("ReduceMean", down, second, keepdims=1)
    # -> [tiles, side, side, ratio, width] -> [tiles, side, side, 1, width] -> [tiles, side * side, width]
    across = graph.op("Reshape", down, graph.shape(0, side, side, ratio, width))
    across = graph.op("ReduceMean", across, third, keepdims=1)
    return graph.op("Reshape", across, graph.shape(0, side * side, width))


def _channels(at: OnnxContext, call: Call, values: Any) -> Any:
    first = call.operator.first
    return _part(at.graph, value_of(at, values), 2, first, first + call.operator.size)


def _regroup(at: OnnxContext, call: Call, values: Any) -> ir.Value:
    return at.graph.op("Reshape", value_of(at, values), at.graph.shape(-1, call.operator.rows, call.operator.width))


def _join(at: OnnxContext, call: Call, left: Any, right: Any) -> Joined:
    return Joined(value_of(at, left), value_of(at, right))


def _blocks(at: OnnxContext, call: Call, tokens: Any) -> ir.Value:
    """As ``pocketvlm.models.operators.space_to_depth``: pad an odd grid, concatenate ratio x ratio tokens."""
    graph, ratio = at.graph, call.operator.ratio
    grid, width = call.operator.grid, call.operator.width
    padding = -grid % ratio
    side = call.operator.side
    tokens = graph.op(
        "Reshape", value_of(at, tokens), graph.shape(0, grid, grid, width)
    )  # [tiles, rows, columns, width]
    if padding:
        pads = graph.constant("grid_padding", np.array([0, 0, 0, 0, 0, padding, padding, 0], np.int64))
        tokens = graph.op("Pad", tokens, pads)
    # [tiles, side, ratio, side, ratio, width] -> [tiles, side, side, ratio, ratio, width]
    blocks = graph.op("Reshape", tokens, graph.shape(0, side, ratio, side, ratio, width))
    blocks = graph.op("Transpose", blocks, perm=[0, 3, 1, 2, 4, 5] if call.operator.by_column else [0, 1, 3, 2, 4, 5])
    return graph.op("Reshape", blocks, graph.shape(0, side * side, ratio * ratio * width))


def _vector(at: OnnxContext, call: Call, part: str = "weight") -> ir.Value:
    weight = at.store.vector(call.weight(part))
    assert isinstance(weight, FloatWeight)
    return at.graph.float_weight(weight)


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


def _named(prefix: str, rule: Callable[..., Any]) -> Callable[..., Any]:
    def named(at: OnnxContext, call: Call, *values: Any) -> Any:
        if str(call.node.target).startswith("vision_tower."):
            return rule(at, call, *values)
        with at.graph.named(prefix):
            return rule(at, call, *values)

    return named


#: The same with the projector's nodes named, so that a profile tells them apart from the tower's.
PROJECTOR_TABLE = {kind: _named("projector", rule) for kind, rule in TABLE.items()}
