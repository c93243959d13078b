"""Attention over the KV cache of an ExecuTorch program.

A layer's keys are one buffer, [KV heads, length, head size], and so are its values. What is in use of a head lies at
its start: XNNPACK reads it where it is, a head at a time, so that it stays in a core's cache. A step's new rows are put
into all heads at once. An INT8 cache holds codes with one scale a channel, those of the ONNX graphs. XNNPACK's
conversions have one for all, so codes are whole steps of 1: new rows are divided by their scales before, a key's are
multiplied into the query, a value's into what was mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch

from pocketvlm.export.executorch.program import Method, Slot
from pocketvlm.export.executorch.xnnpack import Value, XnnpackGraph
from pocketvlm.export.store.kv_layout import FloatArray, KvLayout
from pocketvlm.models.config import DecoderConfig
from pocketvlm.models.rope import rope_tables

#: What is added to the scores of tokens that a token does not see.
UNSEEN = -1e9
PARTS = ("key", "value")
#: What a code of an INT8 cache counts in.
STEP = 1.0


@dataclass(frozen=True)
class MethodStep:
    """What all layers of a method read: where tokens stand, cache rows to write, rows of RoPE (cos and sin), the mask,
    the number of tokens known; ``local``: RoPE and mask of layers that see a window."""

    positions: Slot
    rows: Slot
    turns: tuple[Slot, Slot]
    mask: Slot
    total: int
    local: tuple[tuple[Slot, Slot], Slot] | None = None

    def of_layer(self, *, local: bool) -> tuple[tuple[Slot, Slot], Slot]:
        """RoPE and mask of a layer."""
        return (self.turns, self.mask) if self.local is None or not local else self.local


class AttentionInputs(NamedTuple):
    """query [tokens, heads * head size]; keys and values [1, total, head size] a head; mask [tokens * shared, total]"""

    query: Value
    keys: Sequence[Value]
    values: Sequence[Value]
    mask: Value


@dataclass
class XnnpackAttention:
    """Builds what belongs to the cache: in methods the calls of kernels, in XNNPACK graphs the nodes."""

    config: DecoderConfig
    kv: KvLayout
    _scales: dict[int, tuple[FloatArray, FloatArray]] = field(default_factory=dict)

    @property
    def shared(self) -> int:
        """Query heads of a KV head."""
        return self.config.num_attention_heads // self.config.num_key_value_heads

    @property
    def _quantized(self) -> bool:
        return self.kv.ranges is not None

    # In a method.

    def step(
        self,
        method: Method,
        embeds: Slot,
        position: Slot,
        turns: tuple[Slot, Slot] | None = None,
        last_seen: Slot | None = None,
    ) -> MethodStep:
        """What follows from the number of tokens in ``embeds`` [1, tokens, width] and from their first place in the
        cache; ``turns``: cos and sin of each token, where these do not follow from it; ``last_seen``: the last place
        that each may see, int64 [tokens], where that is not its own."""
        tokens, length, shared = embeds.shape[1], self.kv.length, self.shared
        first, count, total = (method.computed_number() for _ in range(3))
        zero, one = method.number(0), method.number(1)
        method.call("aten::_local_scalar_dense", position, first)
        method.call("aten::sym_size.int", embeds, one, count)
        method.call("executorch_prim::add.Scalar", first, count, total)
        positions = method.tensor([tokens], "int64")
        method.call("aten::arange.start_out", first, total, one, positions)
        # Query heads that share a KV head stand below each other: row r of the scores is token r // shared.
        repeated, end = method.computed_number(), method.computed_number()
        method.call("executorch_prim::mul.Scalar", first, method.number(shared), repeated)
        method.call("executorch_prim::mul.Scalar", total, method.number(shared), end)
        known = method.tensor([length], "int64")
        method.call("aten::arange.start_out", zero, total, one, known)
        if last_seen is None:
            reached = self._by_row(method, tokens, (repeated, end))
        else:
            reached = self._of_rows(method, tokens, count, last_seen)
        seen = self._up_to(method, known, reached)
        mask = method.tensor([tokens * shared, length])
        unseen = method.constant(f"level_{UNSEEN:g}", np.array(UNSEEN, np.float32))
        method.call("aten::where.self_out", seen, method.constant("level_0", np.array(0.0, np.float32)), unseen, mask)
        rows, turns = self._rows_of_heads(method, positions), turns or self._turns(method, "rope", positions)
        step = MethodStep(positions, rows, turns, mask, total)
        if not self.config.has_local:
            return step
        assert self.config.sliding_window is not None
        before = method.number(-self.config.sliding_window * shared)
        bounds = method.computed_number(), method.computed_number()
        for bound, shifted in zip((repeated, end), bounds, strict=True):
            method.call("executorch_prim::add.Scalar", bound, before, shifted)
        forgotten = self._up_to(method, known, self._by_row(method, tokens, bounds))
        local = method.tensor([tokens * shared, length])
        method.call("aten::where.self_out", forgotten, unseen, mask, local)
        turns = self._turns(method, "rope_local", positions) if self.config.has_local_rope else step.turns
        return replace(step, local=(turns, local))

    def _turns(self, method: Method, name: str, positions: Slot) -> tuple[Slot, Slot]:
        """cos and sin at ``positions`` [tokens], [tokens, half a head] each"""
        tables = rope_tables(self.config, torch.arange(self.kv.length), local=name == "rope_local")
        cos, sin = (
            _rows_at(method, f"{name}.{part}", table.numpy(), positions)
            for part, table in zip(("cos", "sin"), tables, strict=True)
        )
        return cos, sin

    def _by_row(self, method: Method, tokens: int, bounds: tuple[int, int]) -> Slot:
        """The numbers from the first of ``bounds`` to before the second by the heads that share a KV head: one for each
        row of the scores, int64 [tokens * shared]."""
        shared = self.shared
        rows = method.tensor([tokens * shared], "int64")
        method.call("aten::arange.start_out", *bounds, method.number(1), rows)
        token_of_row = method.tensor([tokens * shared], "int64")
        method.call("aten::floor_divide.out", rows, method.constant("shared", np.array(shared)), token_of_row)
        return token_of_row

    def _of_rows(self, method: Method, tokens: int, count: int, each: Slot) -> Slot:
        """What stands in ``each`` for each token, int64 [tokens], for each row of the scores."""
        end = method.computed_number()
        method.call("executorch_prim::mul.Scalar", count, method.number(self.shared), end)
        places = self._by_row(method, tokens, (method.number(0), end))
        output = method.tensor([tokens * self.shared], "int64")
        method.call("aten::index_select.out", each, method.number(0), places, output)
        return output

    def _up_to(self, method: Method, known: Slot, bound: Slot) -> Slot:
        """Which of the ``known`` [total] are up to each row's ``bound`` [rows], bool [rows, total]"""
        (rows,) = bound.shape
        column = method.tensor([rows, 1], "int64")
        method.call("aten::unsqueeze_copy.out", bound, method.number(1), column)
        seen = method.tensor([rows, self.kv.length], "bool")
        method.call("aten::le.Tensor_out", known, column, seen)
        return seen

    def _rows_of_heads(self, method: Method, positions: Slot) -> Slot:
        """positions int64 [tokens] -> the rows that they are in a cache's heads, [KV heads * tokens]"""
        tokens, heads = positions.shape[0], self.config.num_key_value_heads
        starts = method.constant("first_rows", np.arange(heads, dtype=np.int64)[:, None] * self.kv.length)
        rows = method.tensor([heads, tokens], "int64")
        method.call("aten::add.out", starts, positions, method.number(1), rows)
        flat = method.same_memory(rows, [heads * tokens], "int64")
        # [KV heads, tokens] -> [KV heads * tokens]
        method.call("executorch_prim::et_view.default", rows, method.integers([method.number(-1)]), flat)
        return flat

    def new_rows(self, method: Method, tokens: int, part: str, layer: int) -> Slot:
        """Where a graph puts a step's keys or values; layers take turns in two places of memory."""
        size = self.config.head_size(layer)
        shape = [self.config.num_key_value_heads * tokens, size]
        return method.tensor(shape, self.kv.dtype, place=f"{part}.{layer % 2}.{size}")

    def put(self, method: Method, layer: int, part: str, rows: Slot, step: MethodStep) -> list[Slot]:
        """Write new rows into a cache; gives each head up to them, [1, total, head size]."""
        name, heads, size = f"kv_cache.{layer}.{part}", self.config.num_key_value_heads, self.config.head_size(layer)
        cache = method.state(name, [heads * self.kv.length, size], self.kv.dtype)
        method.update("aten::index_put_", cache, method.tensors([step.rows]), rows, method.number(False))
        known = method.integers([method.number(1), step.total, method.number(size)])
        views = []
        for head in range(heads):
            view = method.piece_of(name, head, [1, self.kv.length, size], self.kv.dtype)
            # ``empty`` gives its output another size and leaves its memory, the cache's, as it is.
            method.call("aten::empty.out", known, method.nothing(), view)
            views.append(view)
        return views

    # In an XNNPACK graph.

    def inputs(self, graph: XnnpackGraph, layer: int, tokens: int) -> AttentionInputs:
        """Those of the attention of ``layer``."""
        heads, size = self.config.num_key_value_heads, self.config.head_size(layer)
        query = graph.input((tokens, self.config.num_attention_heads * size))
        keys, values = (
            [graph.input((1, self.kv.length, size), STEP if self._quantized else None) for _ in range(heads)]
            for _ in PARTS
        )
        return AttentionInputs(query, keys, values, graph.input((tokens * self.shared, self.kv.length)))

    def as_rows(self, graph: XnnpackGraph, layer: int, part: str, states: Value) -> Value:
        """Keys or values [tokens, KV heads * head size] -> rows of the cache, [KV heads * tokens, head size]"""
        tokens, heads, size = states.shape[0], self.config.num_key_value_heads, self.config.head_size(layer)
        # [tokens, KV heads * head size] -> [tokens, KV heads, head size] -> [KV heads, tokens, head size]
        by_head = graph.transpose(graph.reshape(states, [0, heads, size], [tokens, heads, size]), [1, 0, 2])
        by_head = self._scaled(graph, by_head, layer, part, inverse=True)
        # [KV heads, tokens, head size] -> [KV heads * tokens, head size]
        rows = graph.reshape(by_head, [0, size], [heads * tokens, size])
        return graph.quantized(rows, STEP) if self._quantized else rows

    def attend(self, graph: XnnpackGraph, layer: int, inputs: AttentionInputs) -> Value:
        """Mixed values, of the query's shape."""
        heads, size, shared = self.config.num_key_value_heads, self.config.head_size(layer), self.shared
        cap, tokens = self.config.attn_logit_softcapping, inputs.query.shape[0]
        query = graph.scaled(inputs.query, self.config.attention_scale / (cap or 1.0))
        # [tokens, heads * head size] -> [tokens, KV heads, shared, head size] -> [KV heads, tokens, shared, head size]
        query = graph.reshape(query, [0, heads, shared, size], [tokens, heads, shared, size])
        query = graph.transpose(query, [1, 0, 2, 3])
        # -> [KV heads, tokens * shared, head size]
        query = graph.reshape(query, [heads, 0, size], [heads, tokens * shared, size])
        query = self._scaled(graph, query, layer, "key")
        mixed = []
        for head, (key, value) in enumerate(zip(inputs.keys, inputs.values, strict=True)):
            asked = graph.slice(query, 0, head, 1)
            scores = graph.matrix_product(asked, self._numbers(graph, key), transposed=True)
            scores = scores if cap is None else graph.scaled(graph.tanh(scores), cap)
            shares = graph.softmax(graph.add(scores, inputs.mask))
            mixed.append(graph.matrix_product(shares, self._numbers(graph, value)))
        joined = self._scaled(graph, graph.concatenate(mixed, 0), layer, "value")
        # [KV heads, tokens * shared, head size] -> [KV heads, tokens, shared, head size]
        joined = graph.reshape(joined, [heads, 0, shared, size], [heads, tokens, shared, size])
        joined = graph.transpose(joined, [1, 0, 2, 3])
        # [tokens, KV heads, shared, head size] -> [tokens, heads * head size]
        width = self.config.num_attention_heads * size
        return graph.reshape(joined, [0, width], [tokens, width])

    def _numbers(self, graph: XnnpackGraph, known: Value) -> Value:
        """A head's keys or values as float32."""
        return graph.dequantized(known) if self._quantized else known

    def _scaled(self, graph: XnnpackGraph, rows: Value, layer: int, part: str, *, inverse: bool = False) -> Value:
        """rows [KV heads, rows, head size] times the scales of the INT8 cache that a layer reads, or their inverses"""
        if not self._quantized:
            return rows
        source = self.config.source(layer)
        layer = layer if source is None else source
        if layer not in self._scales:
            self._scales[layer] = self.kv.scales(layer)
        # [KV heads, head size] -> [KV heads, 1, head size]
        scales = self._scales[layer][PARTS.index(part)][:, None]
        if inverse:
            return graph.multiply(rows, graph.constant(f"kv_inverse_scale.{layer}.{part}", np.reciprocal(scales)))
        return graph.multiply(rows, graph.constant(f"kv_scale.{layer}.{part}", scales))


def rotated(graph: XnnpackGraph, states: Value, turns: Sequence[Value], size: int) -> Value:
    """[tokens, heads * size] -> the same, each head turned by cos and sin [tokens, 1, size / 2]"""
    tokens = states.shape[0]
    cos, sin = turns
    # [tokens, heads * size] -> [tokens, heads, size]
    shape = [tokens, states.shape[1] // size, size]
    shaped = graph.reshape(states, [0, *shape[1:]], shape)
    first, second = (graph.slice(shaped, 2, start, size // 2) for start in (0, size // 2))
    turned = graph.concatenate(
        [
            graph.subtract(graph.multiply(first, cos), graph.multiply(second, sin)),
            graph.add(graph.multiply(second, cos), graph.multiply(first, sin)),
        ]
    )
    # [tokens, heads, size] -> [tokens, heads * size]
    return graph.reshape(turned, [0, states.shape[1]], states.shape)


def _rows_at(method: Method, name: str, table: np.ndarray, positions: Slot) -> Slot:
    """table [length, size] -> the rows at ``positions``, [tokens, size]"""
    output = method.tensor([positions.shape[0], table.shape[1]])
    method.call("aten::index_select.out", method.constant(name, table), method.number(0), positions, output)
    return output
