"""The operators of models as an NPU runs them: static shapes, every value between two operators rounded to INT16.

One table for all readers, which differ in what they make of ``NpuArithmetic``: calibration looks at the largest
magnitude of each value, the check computes with the rounded ones, the ONNX graphs that the engine ``npu-emulation``
runs have them as codes, MediaTek's flow and Qualcomm's get them as operators that quantize and dequantize, and the
report counts. Roundings stand where MediaTek's quantizer puts them (``backends/mediatek/quantizer`` of ExecuTorch 1.5):
after each linear layer, matrix product, sum, product, norm and activation function, and on each float input; what only
moves values (reshape, concatenate, negate) has none. Two are ours: softmax, which that quantizer leaves open, has a
fixed scale, and keys and values become INT8 on their way into the cache. Where a vendor's NPU rounds otherwise,
``Roundings`` says so.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import fx

from pocketvlm.export.graph.lower import Call
from pocketvlm.export.npu.rounding import Roundings
from pocketvlm.models.operators import (
    Attend,
    Blocks,
    CachedAttend,
    Channels,
    ChannelScale,
    DropFirst,
    Gelu,
    Join,
    LayerNorm,
    Linear,
    QuickGelu,
    RmsNorm,
    Rotate,
    Silu,
)
from pocketvlm.models.trace import Traced

#: End the names of the values that an attention has.
KEY, VALUE, SCORES, MASKED = ".key", ".value", ".scores", ".masked"


class NpuArithmetic(Protocol):
    """What the program is computed with. A *value* is rounded; *numbers* are what it stands for, or what was not
    rounded yet. ``name`` is of a value, or of a weight in the checkpoint."""

    @property
    def roundings(self) -> Roundings:
        """What the vendor's NPU rounds otherwise."""

    def rounded(self, name: str, numbers: Any) -> Any:
        """Numbers of any shape as INT16 with the scale of ``name``."""

    def probabilities(self, numbers: Any) -> Any:
        """Numbers from 0 to 1 in 16 bits, by a fixed step."""

    def numbers(self, value: Any) -> Any:
        """What a value stands for."""

    def linear(self, name: str, hidden: Any, factor: float) -> Any:
        """Value [..., columns] times a quantized [rows, columns] weight, plus its bias if there; times ``factor``."""

    def matmul(self, left: Any, right: Any) -> Any:
        """Values [..., n, k] x [..., k, m]."""

    def vector(self, name: str, factor: float = 1.0) -> Any:
        """A float32 weight, times ``factor``."""

    # On numbers.

    def add(self, left: Any, right: Any) -> Any: ...

    def multiply(self, left: Any, right: Any) -> Any: ...

    def silu(self, numbers: Any, alpha: float = 1.0) -> Any:
        """x times sigmoid(``alpha`` x)"""

    def gelu(self, numbers: Any, approximate: str) -> Any: ...

    def softmax(self, numbers: Any) -> Any: ...

    def normed(self, numbers: Any, epsilon: float) -> Any:
        """Divided by the root of the mean of squares."""

    def rms_norm(self, numbers: Any, weight: Any, epsilon: float) -> Any:
        """The same times a weight, as one operator: where ``Roundings.norm_at_once`` says so."""

    def layer_norm(self, numbers: Any, weight: Any, bias: Any, epsilon: float) -> Any: ...

    def joined(self, left: Any, right: Any) -> Any:
        """[tiles, rows, width], [tiles, rows, other] -> [tiles, rows, width + other]"""

    def turned(self, numbers: Any, size: int) -> Any:
        """[..., size]: the second half of the last axis, negated, then the first."""

    def cos_sin(self, rope: Any) -> tuple[Any, Any]:
        """Value [1, 2, tokens, size] -> numbers [1, 1, tokens, size] each"""

    # Moving values.

    def reshape(self, value: Any, *sizes: int) -> Any:
        """0 copies an axis, -1 follows from the rest."""

    def transpose(self, value: Any, *axes: int) -> Any: ...

    def without_first(self, value: Any, rows: int) -> Any:
        """[tiles, 1 + rows, width] -> [tiles, rows, width]"""

    def channels(self, value: Any, first: int, size: int) -> Any:
        """[tiles, rows, width] -> [tiles, rows, size], those from ``first`` on"""

    def blocks(self, value: Any, blocks: Blocks, tiles: int) -> Any:
        """As ``pocketvlm.models.operators.space_to_depth``, in at most four dimensions: what NPUs move about."""

    # The cache, as MediaTek's runner has it (``examples/mediatek``): [1, KV heads, length, head size] a layer, the
    # newest token in the last row, empty rows in front; a step appends its rows at the end and drops as many in front.

    def extended(self, name: str, past: Any, value: Any) -> Any:
        """The cache with a step's rows, INT8 with the scale of ``name``, behind it."""

    def known(self, name: str, extended: Any) -> Any:
        """What attention reads of it: a value."""

    def newest(self, extended: Any, tokens: int, width: int) -> Any:
        """The cache after a step of ``tokens`` of the ``width`` rows that it was extended to."""


@dataclass
class NpuContext:
    """What the operators of a stage are computed with and stand at.

    Of the decoder: ``mask`` [1, 1, tokens, width] and ``rope`` [1, 2, tokens, head size] as values, each layer's keys
    and values before, and where they go.
    """

    arithmetic: NpuArithmetic
    tiles: int = 1
    mask: Any = None
    rope: Any = None
    tokens: int = 0
    width: int = 0
    past: Mapping[int, tuple[Any, Any]] = field(default_factory=dict)
    present: dict[int, tuple[Any, Any]] = field(default_factory=dict)


def stored_factor(traced: Traced, node: fx.Node) -> float:
    """What a linear layer's or a norm's weight is stored times: the scale behind it, and of a query its attention's."""
    factor, follower = traced.factor(node), _follower(node)
    if follower is not None and isinstance(traced.operator(follower), Rotate):
        node, follower = follower, _follower(follower)
    attention = None if follower is None else traced.operator(follower)
    if follower is None or follower.args[0] is not node or not isinstance(attention, Attend | CachedAttend):
        return factor
    return factor * attention.scale


def _follower(node: fx.Node) -> fx.Node | None:
    """The one node that reads this one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _add(at: NpuContext, call: Call, left: Any, right: Any) -> Any:
    one = at.arithmetic
    return one.rounded(call.name, one.add(one.numbers(left), one.numbers(right)))


def _multiply(at: NpuContext, call: Call, left: Any, right: Any) -> Any:
    one = at.arithmetic
    return one.rounded(call.name, one.multiply(one.numbers(left), one.numbers(right)))


def _linear(at: NpuContext, call: Call, hidden: Any) -> Any:
    factor = stored_factor(call.stage.traced, call.node)
    return at.arithmetic.rounded(call.name, at.arithmetic.linear(call.weight(), hidden, factor))


def _channel_scale(at: NpuContext, call: Call, values: Any) -> Any:
    one = at.arithmetic
    return one.rounded(call.name, one.multiply(one.numbers(values), one.vector(call.weight())))


def _layer_norm(at: NpuContext, call: Call, hidden: Any) -> Any:
    one = at.arithmetic
    weight, bias = one.vector(call.weight()), one.vector(call.weight("bias"))
    return one.rounded(call.name, one.layer_norm(one.numbers(hidden), weight, bias, call.operator.eps))


def _rms_norm(at: NpuContext, call: Call, hidden: Any) -> Any:
    """Two roundings, as MediaTek's pattern has it: after the division, and after the weight; or the latter alone."""
    one, norm, factor = at.arithmetic, call.operator, stored_factor(call.stage.traced, call.node)
    if norm.heads > 1:  # [1, tokens, heads * size] -> [1, tokens, heads, size]
        hidden = one.reshape(hidden, 0, 0, norm.heads, -1)
    if one.roundings.norm_at_once:
        scaled = one.rounded(call.name, one.rms_norm(one.numbers(hidden), one.vector(call.weight(), factor), norm.eps))
    else:
        normed = one.rounded(f"{call.name}.normed", one.normed(one.numbers(hidden), norm.eps))
        scaled = one.rounded(call.name, one.multiply(one.vector(call.weight(), factor), one.numbers(normed)))
    # and back
    return one.reshape(scaled, 0, 0, -1) if norm.heads > 1 else scaled


def _gelu(at: NpuContext, call: Call, inner: Any) -> Any:
    one = at.arithmetic
    return one.rounded(call.name, one.gelu(one.numbers(inner), call.operator.approximate))


def _quick_gelu(at: NpuContext, call: Call, inner: Any) -> Any:
    one = at.arithmetic
    return one.rounded(call.name, one.silu(one.numbers(inner), call.operator.alpha))


def _silu(at: NpuContext, call: Call, gate: Any) -> Any:
    return at.arithmetic.rounded(call.name, at.arithmetic.silu(at.arithmetic.numbers(gate)))


def _attend(at: NpuContext, call: Call, query: Any, key: Any, value: Any) -> Any:
    one, heads, size = at.arithmetic, call.operator.heads, call.operator.head_dim
    # [tiles, patches, width] -> [tiles, patches, heads, size]
    query, key, value = (one.reshape(states, 0, 0, heads, size) for states in (query, key, value))
    # -> [tiles, heads, patches, size], the key turned
    query, key, value = (
        one.transpose(query, 0, 2, 1, 3), one.transpose(key, 0, 2, 3, 1), one.transpose(value, 0, 2, 1, 3)
    )  # fmt: skip
    scores = one.rounded(f"{call.name}{SCORES}", one.matmul(query, key))
    shares = one.probabilities(one.softmax(one.numbers(scores)))
    mixed = one.rounded(call.name, one.matmul(shares, value))
    # [tiles, heads, patches, size] -> [tiles, patches, heads, size] -> [tiles, patches, width]
    return one.reshape(one.transpose(mixed, 0, 2, 1, 3), 0, 0, -1)


def _rotate(at: NpuContext, call: Call, states: Any, step: None) -> Any:
    """Heads side by side -> heads one after the other, [1, heads, tokens, size], rotated."""
    one, size = at.arithmetic, call.operator.head_dim
    cos, sin = one.cos_sin(at.rope)
    numbers = one.numbers(_by_head(at, states, call.operator.heads, size))
    turned = one.numbers(one.rounded(f"{call.name}.turned", one.multiply(one.turned(numbers, size), sin)))
    kept = one.numbers(one.rounded(f"{call.name}.kept", one.multiply(numbers, cos)))
    return one.rounded(call.name, one.add(kept, turned))


def _by_head(at: NpuContext, states: Any, heads: int, size: int) -> Any:
    """[1, tokens, heads * size] -> [1, tokens, heads, size] -> [1, heads, tokens, size]"""
    return at.arithmetic.transpose(at.arithmetic.reshape(states, 1, -1, heads, size), 0, 2, 1, 3)


def _cached_attend(at: NpuContext, call: Call, query: Any, key: Any, value: Any, step: None) -> Any:
    one, heads, kv_heads, size = at.arithmetic, call.operator.heads, call.operator.kv_heads, call.operator.head_dim
    names, past = (f"{call.name}{KEY}", f"{call.name}{VALUE}"), at.past[call.stage.index]
    asked = call.stage.traced.operator(call.node.all_input_nodes[0])
    if not isinstance(asked, Rotate):  # which gives heads one after the other
        query, key = _by_head(at, query, heads, size), _by_head(at, key, kv_heads, size)
    extended = [
        one.extended(name, before, rows)
        for name, before, rows in zip(names, past, (key, _by_head(at, value, kv_heads, size)), strict=True)
    ]
    key, value = (one.known(name, rows) for name, rows in zip(names, extended, strict=True))
    keys, values = (one.newest(rows, at.tokens, at.width) for rows in extended)
    at.present[call.stage.index] = keys, values
    # Heads that share keys are rows of one matrix: [1, heads, tokens, size] -> [1, KV heads, rows, size]
    query = one.reshape(query, 1, kv_heads, -1, size)
    scores = one.rounded(f"{call.name}{SCORES}", one.matmul(query, one.transpose(key, 0, 1, 3, 2)))
    # [1, KV heads, rows, width] -> [1, heads, tokens, width], and back
    scores = one.reshape(scores, 1, heads, -1, at.width)
    masked = one.rounded(f"{call.name}{MASKED}", one.add(one.numbers(scores), one.numbers(at.mask)))
    shares = one.reshape(one.probabilities(one.softmax(one.numbers(masked))), 1, kv_heads, -1, at.width)
    mixed = one.rounded(call.name, one.matmul(shares, value))
    # [1, KV heads, rows, size] -> [1, heads, tokens, size] -> [1, tokens, heads, size] -> [1, tokens, heads * size]
    return one.reshape(one.transpose(one.reshape(mixed, 1, heads, -1, size), 0, 2, 1, 3), 1, -1, heads * size)


def _drop_first(at: NpuContext, call: Call, values: Any) -> Any:
    return at.arithmetic.without_first(values, call.operator.rows)


def _channels(at: NpuContext, call: Call, values: Any) -> Any:
    return at.arithmetic.channels(values, call.operator.first, call.operator.size)


def _join(at: NpuContext, call: Call, left: Any, right: Any) -> Any:
    """One scale for both, which had one each."""
    one = at.arithmetic
    return one.rounded(call.name, one.joined(one.numbers(left), one.numbers(right)))


def _blocks(at: NpuContext, call: Call, tokens: Any) -> Any:
    one, side = at.arithmetic, call.operator.side
    blocks = one.blocks(tokens, call.operator, at.tiles)
    if not call.operator.by_column:
        return blocks
    # [tiles, side * side, width] -> [tiles, side, side, width], and the first side is the columns'
    return one.reshape(one.transpose(one.reshape(blocks, 0, side, side, -1), 0, 2, 1, 3), 0, side * side, -1)


#: Patch embedding is the CPU's (``pocketvlm.export.onnx``), and a scale that no weight takes in is in no model yet.
TABLE: dict[Any, Callable[..., Any]] = {
    operator.add: _add,
    operator.mul: _multiply,
    Linear: _linear,
    ChannelScale: _channel_scale,
    LayerNorm: _layer_norm,
    RmsNorm: _rms_norm,
    Gelu: _gelu,
    QuickGelu: _quick_gelu,
    Silu: _silu,
    Attend: _attend,
    Rotate: _rotate,
    CachedAttend: _cached_attend,
    DropFirst: _drop_first,
    Channels: _channels,
    Join: _join,
    Blocks: _blocks,
}
