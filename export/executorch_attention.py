"""Attention over the KV cache of an ExecuTorch program.

A layer's keys are one buffer of pieces, [pieces, length, heads of a piece * head size], and so are its values: what is
in use of a piece lies at its start, so that XNNPACK reads it where it is. A step's new rows are put into all pieces at
once. An INT8 cache holds codes with one scale a layer for keys and one for values, those of the ONNX graphs; XNNPACK
converts on both ways.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from pocketvlm.export.executorch_program import Method, Slot
from pocketvlm.export.kv_cache import KvLayout
from pocketvlm.export.xnnpack_graph import Value, XnnpackGraph
from pocketvlm.models.config import DecoderConfig
from pocketvlm.models.decoder import rope_tables

#: What is added to the scores of tokens that a token does not see.
UNSEEN = -1e9
#: A piece of one head needs no transposing, and each piece costs some calls.
MOST_PIECES = 6
PARTS = ("key", "value")


@dataclass(frozen=True)
class Step:
    """What all layers of a method read: cache rows to write, rows of RoPE, the mask, the number of tokens known."""

    rows: Slot
    cos: Slot
    sin: Slot
    mask: Slot
    total: int


class AttentionInputs(NamedTuple):
    """query [tokens, heads * head size]; pieces of keys and of values; mask [tokens * shared, total]"""

    query: Value
    keys: Sequence[Value]
    values: Sequence[Value]
    mask: Value


@dataclass
class Attention:
    """Builds what belongs to the cache: in methods the calls of kernels, in XNNPACK graphs the nodes."""

    config: DecoderConfig
    kv: KvLayout
    _scales: dict[int, tuple[float | None, float | None]] = field(default_factory=dict)

    @property
    def pieces(self) -> int:
        heads = self.config.num_key_value_heads
        return max(count for count in range(1, MOST_PIECES + 1) if heads % count == 0)

    @property
    def shared(self) -> int:
        """Query heads of a KV head."""
        return self.config.num_attention_heads // self.config.num_key_value_heads

    @property
    def _heads(self) -> int:
        """KV heads of a piece."""
        return self.config.num_key_value_heads // self.pieces

    @property
    def _width(self) -> int:
        return self._heads * self.config.head_dim

    def _scales_of(self, layer: int) -> tuple[float | None, float | None]:
        """The scales of keys and values; none in a float32 cache."""
        if layer not in self._scales:
            self._scales[layer] = (None, None) if self.kv.ranges is None else self.kv.scales(layer)
        return self._scales[layer]

    # In a method.

    def step(self, method: Method, embeds: Slot, position: Slot) -> Step:
        """What follows from the number of tokens in ``embeds`` [1, tokens, hidden] and from their first position."""
        tokens, length, shared = embeds.shape[1], self.kv.length, self.shared
        first, count, total = (method.computed_number() for _ in range(3))
        zero, one = method.number(0), method.number(1)
        method.call("aten::_local_scalar_dense", position, first)
        method.call("aten::sym_size.int", embeds, one, count)
        method.call("executorch_prim::add.Scalar", first, count, total)
        positions = method.tensor([tokens], "int64")
        method.call("aten::arange.start_out", first, total, one, positions)
        cos, sin = (
            _rows_at(method, f"rope.{name}", table.numpy(), positions)
            for name, table in zip(("cos", "sin"), rope_tables(self.config, torch.arange(length)), strict=True)
        )
        # Query heads that share a KV head stand below each other: row r of the scores is token r // shared.
        repeated, end = method.computed_number(), method.computed_number()
        method.call("executorch_prim::mul.Scalar", first, method.number(shared), repeated)
        method.call("executorch_prim::mul.Scalar", total, method.number(shared), end)
        rows = method.tensor([tokens * shared], "int64")
        method.call("aten::arange.start_out", repeated, end, one, rows)
        token_of_row = method.tensor([tokens * shared], "int64")
        method.call("aten::floor_divide.out", rows, method.constant("shared", np.array(shared)), token_of_row)
        column = method.tensor([tokens * shared, 1], "int64")
        method.call("aten::unsqueeze_copy.out", token_of_row, one, column)
        known = method.tensor([length], "int64")
        method.call("aten::arange.start_out", zero, total, one, known)
        seen = method.tensor([tokens * shared, length], "bool")
        method.call("aten::le.Tensor_out", known, column, seen)
        mask = method.tensor([tokens * shared, length])
        levels = [method.constant(f"level_{level:g}", np.array(level, np.float32)) for level in (0.0, UNSEEN)]
        method.call("aten::where.self_out", seen, *levels, mask)
        return Step(self._rows_of_pieces(method, positions), cos, sin, mask, total)

    def _rows_of_pieces(self, method: Method, positions: Slot) -> Slot:
        """positions int64 [tokens] -> the rows that they are in a cache's pieces, [pieces * tokens]"""
        tokens, pieces = positions.shape[0], self.pieces
        if pieces == 1:
            return positions
        starts = method.constant("first_rows", np.arange(pieces, dtype=np.int64)[:, None] * self.kv.length)
        rows = method.tensor([pieces, tokens], "int64")
        method.call("aten::add.out", starts, positions, method.number(1), rows)
        flat = method.same_memory(rows, [pieces * tokens], "int64")
        # [pieces, tokens] -> [pieces * tokens]
        method.call("executorch_prim::et_view.default", rows, method.integers([method.number(-1)]), flat)
        return flat

    def new_rows(self, method: Method, tokens: int, part: str, layer: int) -> Slot:
        """Where a graph puts a step's keys or values; layers take turns in two places of memory."""
        shape = [self.pieces * tokens, self._width]
        return method.tensor(shape, self.kv.dtype, place=f"{part}.{layer % 2}")

    def put(self, method: Method, layer: int, part: str, rows: Slot, step: Step) -> list[Slot]:
        """Write new rows into a cache; gives its pieces up to them, each of ``_piece_shape``."""
        name, length = f"kv_cache.{layer}.{part}", self.kv.length
        cache = method.state(name, [self.pieces * length, self._width], self.kv.dtype)
        method.update("aten::index_put_", cache, method.tensors([step.rows]), rows, method.number(False))
        views = []
        for piece in range(self.pieces):
            view = method.piece_of(name, piece, self._piece_shape, self.kv.dtype)
            # ``empty`` gives its output another size and leaves its memory, the cache's, as it is.
            sizes = [
                step.total if axis == self._token_axis else method.number(size)
                for axis, size in enumerate(self._piece_shape)
            ]
            method.call("aten::empty.out", method.integers(sizes), method.nothing(), view)
            views.append(view)
        return views

    @property
    def _piece_shape(self) -> list[int]:
        """[1, length, head size] where a piece is one head, else [length, heads, head size]"""
        length, size = self.kv.length, self.config.head_dim
        return [1, length, size] if self._heads == 1 else [length, self._heads, size]

    @property
    def _token_axis(self) -> int:
        return 1 if self._heads == 1 else 0

    # In an XNNPACK graph.

    def inputs(self, graph: XnnpackGraph, layer: int, tokens: int) -> AttentionInputs:
        """Those of the attention of ``layer``."""
        query = graph.input((tokens, self.config.num_attention_heads * self.config.head_dim))
        keys, values = (
            [graph.input(self._piece_shape, scale) for _ in range(self.pieces)] for scale in self._scales_of(layer)
        )
        return AttentionInputs(query, keys, values, graph.input((tokens * self.shared, self.kv.length)))

    def rotated(self, graph: XnnpackGraph, states: Value, turns: Sequence[Value]) -> Value:
        """[tokens, heads * head size] -> the same, turned by cos and sin [tokens, 1, half a head]"""
        tokens, size = states.shape[0], self.config.head_dim
        cos, sin = turns
        # [tokens, heads * head size] -> [tokens, heads, head size]
        shape = [tokens, states.shape[1] // size, size]
        shaped = graph.reshape(states, [0, *shape[1:]], shape)
        first, second = (graph.slice(shaped, 2, start, size // 2) for start in (0, size // 2))
        turned = graph.concatenate(
            [
                graph.subtract(graph.multiply(first, cos), graph.multiply(second, sin)),
                graph.add(graph.multiply(second, cos), graph.multiply(first, sin)),
            ]
        )
        # [tokens, heads, head size] -> [tokens, heads * head size]
        return graph.reshape(turned, [0, states.shape[1]], states.shape)

    def as_rows(self, graph: XnnpackGraph, layer: int, part: str, states: Value) -> Value:
        """Keys or values [tokens, KV heads * head size] -> rows of the cache, [pieces * tokens, width of a piece]"""
        tokens, pieces, width = states.shape[0], self.pieces, self._width
        if pieces > 1:
            # [tokens, KV heads * head size] -> [tokens, pieces, width] -> [pieces, tokens, width]
            by_piece = graph.reshape(states, [0, pieces, width], [tokens, pieces, width])
            by_piece = graph.transpose(by_piece, [1, 0, 2])
            # [pieces, tokens, width] -> [pieces * tokens, width]
            states = graph.reshape(by_piece, [0, width], [pieces * tokens, width])
        scale = self._scales_of(layer)[PARTS.index(part)]
        return states if scale is None else graph.quantized(states, scale)

    def attend(self, graph: XnnpackGraph, inputs: AttentionInputs) -> Value:
        """Mixed values, of the query's shape."""
        heads, size, shared = self.config.num_key_value_heads, self.config.head_dim, self.shared
        tokens, query = inputs.query.shape[0], graph.scaled(inputs.query, 1 / math.sqrt(size))
        # [tokens, heads * head size] -> [tokens, KV heads, shared, head size] -> [KV heads, tokens, shared, head size]
        query = graph.reshape(query, [0, heads, shared, size], [tokens, heads, shared, size])
        query = graph.transpose(query, [1, 0, 2, 3])
        # -> [KV heads, tokens * shared, head size]
        query = graph.reshape(query, [heads, 0, size], [heads, tokens * shared, size])
        mixed = []
        for piece, (key, value) in enumerate(zip(inputs.keys, inputs.values, strict=True)):
            asked = graph.slice(query, 0, piece * self._heads, self._heads) if self.pieces > 1 else query
            scores = graph.matrix_product(asked, self._by_head(graph, key), transposed=True)
            shares = graph.softmax(graph.add(scores, inputs.mask))
            mixed.append(graph.matrix_product(shares, self._by_head(graph, value)))
        # [KV heads, tokens * shared, head size] -> [KV heads, tokens, shared, head size]
        joined = graph.reshape(graph.concatenate(mixed, 0), [heads, 0, shared, size], [heads, tokens, shared, size])
        joined = graph.transpose(joined, [1, 0, 2, 3])
        # [tokens, KV heads, shared, head size] -> [tokens, heads * head size]
        width = self.config.num_attention_heads * size
        return graph.reshape(joined, [0, width], [tokens, width])

    def _by_head(self, graph: XnnpackGraph, piece: Value) -> Value:
        """A piece of the cache as float32 [heads, total, head size]."""
        # Transposed first, codes come out wrong: XNNPACK 1.5.1 converts them in place.
        piece = piece if self.kv.ranges is None else graph.dequantized(piece)
        # [total, heads, head size] -> [heads, total, head size]
        return piece if self._heads == 1 else graph.transpose(piece, [1, 0, 2])


def _rows_at(method: Method, name: str, table: np.ndarray, positions: Slot) -> Slot:
    """table [length, size] -> the rows at ``positions``, [tokens, size]"""
    output = method.tensor([positions.shape[0], table.shape[1]])
    method.call("aten::index_select.out", method.constant(name, table), method.number(0), positions, output)
    return output
