"""The text part of an ExecuTorch program: token embedding, and the decoder over a KV cache that stays inside it.

A layer's attention reads what this step has written into the cache, and writing is a kernel of ExecuTorch's. So an
XNNPACK graph goes from one layer's attention to the next layer's query, key and value; between two of them the new rows
are put into the cache. Keys and values lie token by token, [length, KV heads * head size]: what is in use is one piece
from the start, which the graphs read where it lies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from pocketvlm.export.executorch_program import Method, Program, Slot
from pocketvlm.export.executorch_weights import Weights
from pocketvlm.export.xnnpack_graph import Value, XnnpackGraph
from pocketvlm.models.config import DecoderConfig
from pocketvlm.models.decoder import rope_tables
from pocketvlm.quant import GroupedTensor

#: What is added to the scores of tokens that a token does not see.
UNSEEN = -1e9
LAST = (1 << 63) - 1


@dataclass(frozen=True)
class Step:
    """What all layers of a method read."""

    positions: Slot
    cos: Slot
    sin: Slot
    mask: Slot
    total: int


@dataclass
class TextBuilder:
    """Adds the text methods to a program; graphs that several of them call are made once.

    ``length`` is that of the KV cache, ``tokens`` the most that one step takes.
    """

    program: Program
    weights: Weights
    config: DecoderConfig
    length: int
    _graphs: dict[tuple[int, int, int], int] = field(default_factory=dict)
    _head: int | None = None

    def token_embedding(self) -> None:
        """input_ids int64 [1, 1..length] -> inputs_embeds float32 [1, tokens, hidden]"""
        method = Method(self.program, "token_embedding")
        tokens = method.take(method.tensor([1, self.length], "int64"))
        method.give(self._embed(method, tokens))
        self.program.add_method(method)

    def text_decoder(self) -> None:
        """inputs_embeds float32 [1, 1..length, hidden], cache_position int64 [1] -> the last logits [1, vocabulary]"""
        method = Method(self.program, "text_decoder")
        embeds = method.take(method.tensor([1, self.length, self.config.hidden_size]))
        hidden = self._layers(method, embeds, range(self.config.num_hidden_layers))
        method.give(self._last_logits(method, hidden))
        self.program.add_method(method)

    def all_logits(self, tokens: int) -> None:
        """As ``text_decoder`` for at most ``tokens`` tokens -> logits [tokens, vocabulary] of each of them."""
        method = Method(self.program, "text_decoder_all_logits")
        embeds = method.take(method.tensor([1, tokens, self.config.hidden_size]))
        hidden = self._layers(method, embeds, range(self.config.num_hidden_layers))
        logits = method.tensor([tokens, self.config.vocab_size])
        method.delegate(self._head_graph(), hidden, logits)
        method.give(logits)
        self.program.add_method(method)

    def forward(self) -> None:
        """input_ids int64 [1, 1..length], cache_position int64 [1] -> logits [1, vocabulary]: for TextLLMRunner"""
        method = Method(self.program, "forward")
        tokens = method.take(method.tensor([1, self.length], "int64"))
        position = method.take(method.tensor([1], "int64", dynamic=False))
        embeds = self._embed(method, tokens)
        hidden = self._layers(method, embeds, range(self.config.num_hidden_layers), position)
        method.give(self._last_logits(method, hidden))
        self.program.add_method(method)

    def layer(self, index: int, tokens: int) -> None:
        """The method "layer": [1, tokens, hidden], cache_position [1] -> [tokens, hidden], one layer alone."""
        method = Method(self.program, "layer")
        embeds = method.take(method.tensor([1, tokens, self.config.hidden_size]))
        method.give(self._layers(method, embeds, range(index, index + 1)))
        self.program.add_method(method)

    def head(self, tokens: int) -> None:
        """The method "head": [tokens, hidden] -> logits [tokens, vocabulary]"""
        method = Method(self.program, "head")
        hidden = method.take(method.tensor([tokens, self.config.hidden_size]))
        logits = method.tensor([tokens, self.config.vocab_size])
        method.delegate(self._head_graph(), hidden, logits)
        method.give(logits)
        self.program.add_method(method)

    def _embed(self, method: Method, tokens: Slot) -> Slot:
        config, table = self.config, self.weights.table("model.embed_tokens.weight")
        if isinstance(table, GroupedTensor):
            embeds = self._gather_quantized(method, table, tokens)
        else:
            embeds = self._gather(method, method.constant("model.embed_tokens.weight", table), tokens, "float32")
        if config.scale_emb == 1.0:
            return embeds
        scaled = method.tensor(embeds.shape)
        method.call("aten::mul.Scalar_out", embeds, method.number(float(config.scale_emb)), scaled)
        return scaled

    def _gather_quantized(self, method: Method, table: GroupedTensor, tokens: Slot) -> Slot:
        """The rows of a quantized table, dequantized; the padding of its last group is cut off.

        With kernels that every ExecuTorch has: those for quantized tables are a library of their own, of which a
        process must not hold two copies. A code takes a byte, also one of 4 bits.
        """
        name, rows, groups = "model.embed_tokens.weight", table.rows, table.groups
        codes = (table.codes.astype(np.int16) - (1 << (table.bits - 1))).astype(np.int8)
        # [rows, groups, group_size] -> [rows, groups * group_size]
        stored = method.constant(f"{name}.codes", codes.reshape(rows, -1))
        count, size = tokens.shape[1], table.group_size
        numbers = self._gather(method, stored, tokens, "int8")
        scales = self._gather(method, method.constant(f"{name}.scales", table.scales), tokens, "float32")
        # [1, tokens, groups * group_size] -> [tokens, groups, group_size]
        numbers = self._view(method, numbers, [count, groups, size], 0, "int8")
        # [1, tokens, groups] -> [tokens, groups, 1]
        scales = self._view(method, scales, [count, groups, 1], 0)
        products = method.tensor([count, groups, size])
        method.call("aten::mul.out", numbers, scales, products)
        # [tokens, groups, group_size] -> [1, tokens, groups * group_size]
        embeds = self._view(method, products, [1, count, groups * size], 1)
        if groups * size == table.columns:
            return embeds
        cut = method.tensor([1, count, table.columns])
        start, end, step = method.number(0), method.number(table.columns), method.number(1)
        method.call("aten::slice_copy.Tensor_out", embeds, method.number(2), start, end, step, cut)
        return cut

    @staticmethod
    def _gather(method: Method, table: Slot, tokens: Slot, dtype: str) -> Slot:
        """table [rows, columns] -> the rows of ``tokens`` [1, tokens], [1, tokens, columns]"""
        output = method.tensor([*tokens.shape, table.shape[1]], dtype)
        no = method.number(False)
        method.call("aten::embedding.out", table, tokens, method.number(-1), no, no, output)
        return output

    @staticmethod
    def _view(method: Method, values: Slot, shape: list[int], tokens: int, dtype: str = "float32") -> Slot:
        """The same values in another shape, where the axis ``tokens`` follows from the rest."""
        sizes = [method.number(-1 if axis == tokens else length) for axis, length in enumerate(shape)]
        output = method.same_memory(values, shape, dtype)
        method.call("executorch_prim::et_view.default", values, method.integers(sizes), output)
        return output

    def _layers(self, method: Method, embeds: Slot, layers: range, position: Slot | None = None) -> Slot:
        """Run ``layers`` over ``embeds`` [1, tokens, hidden]; gives the residual stream [tokens, hidden]."""
        config, tokens = self.config, embeds.shape[1]
        if position is None:
            position = method.take(method.tensor([1], "int64", dynamic=False))
        step = self._step(method, embeds, position)
        hidden, query = embeds, None
        width = config.num_key_value_heads * config.head_dim
        views: tuple[Slot, ...] = ()
        # Even and odd layers take turns in two places of memory.
        for layer in range(layers.start, layers.stop + 1):
            outputs = [method.tensor([tokens, config.hidden_size], place=f"hidden.{layer % 2}")]
            if layer < layers.stop:
                sizes = (config.num_attention_heads * config.head_dim, width, width)
                outputs += [
                    method.tensor([tokens, size], place=f"{part}.{layer % 2}")
                    for part, size in zip(("query", "key", "value"), sizes, strict=True)
                ]
            inputs = [hidden] if query is None else [hidden, query, *views, step.mask]
            turns = [step.cos, step.sin] if layer < layers.stop else []
            method.delegate(self._graph_before(layer, layers, tokens), *inputs, *turns, *outputs)
            hidden = outputs[0]
            if layer < layers.stop:
                query = outputs[1]
                views = tuple(
                    self._put(method, f"kv_cache.{layer}.{part}", rows, step)
                    for part, rows in zip(("key", "value"), outputs[2:], strict=True)
                )
        return hidden

    def _put(self, method: Method, name: str, rows: Slot, step: Step) -> Slot:
        """Write new rows into a cache; gives a view of all rows up to them."""
        cache = method.state(name, [self.length, rows.shape[1]])
        method.update("aten::index_put_", cache, method.tensors([step.positions]), rows, method.number(False))
        view = method.first_rows_of(name, cache.shape)
        # ``empty`` gives its output another size and leaves its memory, the cache's, as it is.
        size = method.integers([step.total, method.number(rows.shape[1])])
        method.call("aten::empty.out", size, method.nothing(), view)
        return view

    def _step(self, method: Method, embeds: Slot, position: Slot) -> Step:
        """Positions, the rows of the RoPE tables that belong to them, and the causal mask."""
        config, tokens = self.config, embeds.shape[1]
        shared = config.num_attention_heads // config.num_key_value_heads
        first, count, total = (method.computed_number() for _ in range(3))
        zero, one = method.number(0), method.number(1)
        method.call("aten::_local_scalar_dense", position, first)
        method.call("aten::sym_size.int", embeds, one, count)
        method.call("executorch_prim::add.Scalar", first, count, total)
        positions = method.tensor([tokens], "int64")
        method.call("aten::arange.start_out", first, total, one, positions)
        cos, sin = (
            self._rows(method, f"rope.{name}", table.numpy(), positions)
            for name, table in zip(("cos", "sin"), rope_tables(config, torch.arange(self.length)), strict=True)
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
        known = method.tensor([self.length], "int64")
        method.call("aten::arange.start_out", zero, total, one, known)
        seen = method.tensor([tokens * shared, self.length], "bool")
        method.call("aten::le.Tensor_out", known, column, seen)
        mask = method.tensor([tokens * shared, self.length])
        levels = [method.constant(f"level_{level:g}", np.array(level, np.float32)) for level in (0.0, UNSEEN)]
        method.call("aten::where.self_out", seen, *levels, mask)
        return Step(positions, cos, sin, mask, total)

    @staticmethod
    def _rows(method: Method, name: str, table: np.ndarray, positions: Slot) -> Slot:
        """table [length, size] -> the rows at ``positions``, [tokens, size]"""
        output = method.tensor([positions.shape[0], table.shape[1]])
        method.call("aten::index_select.out", method.constant(name, table), method.number(0), positions, output)
        return output

    def _last_logits(self, method: Method, hidden: Slot) -> Slot:
        last = method.tensor([1, self.config.hidden_size], dynamic=False)
        start, end, step = method.number(-1), method.number(LAST), method.number(1)
        method.call("aten::slice_copy.Tensor_out", hidden, method.number(0), start, end, step, last)
        logits = method.tensor([1, self.config.vocab_size], dynamic=False)
        method.delegate(self._head_graph(), last, logits)
        return logits

    def _head_graph(self) -> int:
        if self._head is None:
            graph = XnnpackGraph(self.program.constants)
            config, weights = self.config, self.weights
            hidden = graph.input([self.length, config.hidden_size])
            norm = weights.vector("model.norm.weight") * np.float32(config.logits_scale)
            normed = graph.rms_norm("model.norm.weight", hidden, norm, config.rms_norm_eps)
            name = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
            table = weights.table(name) if config.tie_word_embeddings else weights.matrix(name)
            graph.output(graph.linear(name, normed, table))
            self._head = self.program.add_graph(graph.serialized())
        return self._head

    def _graph_before(self, layer: int, layers: range, tokens: int) -> int:
        """The XNNPACK graph from the attention of the layer before (if any) to query, key and value of ``layer``."""
        key = (layer, layers.start, layers.stop)
        if key not in self._graphs:
            graph = XnnpackGraph(self.program.constants)
            self._build(graph, layer, layers, tokens)
            self._graphs[key] = self.program.add_graph(graph.serialized())
        return self._graphs[key]

    def _build(self, graph: XnnpackGraph, layer: int, layers: range, tokens: int) -> None:
        config = self.config
        if layer == layers.start:
            embeds = graph.input([1, tokens, config.hidden_size])
            rest: Callable[[], Value] = lambda: graph.reshape(  # noqa: E731
                embeds, [0, config.hidden_size], [tokens, config.hidden_size]
            )
        else:
            inputs = self._attention_inputs(graph, tokens)
            rest = lambda: self._after_attention(graph, layer - 1, tokens, inputs)  # noqa: E731
        half = config.head_dim // 2
        turns = [graph.input([tokens, half]) for _ in range(2)] if layer < layers.stop else []
        hidden = rest()
        graph.output(hidden)
        if not turns:
            return
        for value in self._query_key_value(graph, layer, tokens, hidden, turns):
            graph.output(value)

    def _attention_inputs(self, graph: XnnpackGraph, tokens: int) -> list[Value]:
        """Residual stream, query, keys, values, mask."""
        config = self.config
        width = config.num_key_value_heads * config.head_dim
        rows = tokens * (config.num_attention_heads // config.num_key_value_heads)
        shapes = (
            (tokens, config.hidden_size),
            (tokens, config.num_attention_heads * config.head_dim),
            (self.length, width),
            (self.length, width),
            (rows, self.length),
        )
        return [graph.input(shape) for shape in shapes]

    def _query_key_value(
        self, graph: XnnpackGraph, layer: int, tokens: int, hidden: Value, turns: list[Value]
    ) -> list[Value]:
        """hidden [tokens, hidden] -> query and key, rotated, and value: [tokens, heads * head size] each"""
        config, prefix = self.config, f"model.layers.{layer}."
        name = f"{prefix}input_layernorm.weight"
        normed = graph.rms_norm(name, hidden, self.weights.vector(name), config.rms_norm_eps)
        query, key, value = (self._linear(graph, f"{prefix}self_attn.{part}_proj", normed) for part in "qkv")
        half = config.head_dim // 2
        # [tokens, half] -> [tokens, 1, half]
        cos, sin = (graph.reshape(turn, [0, 1, half], [tokens, 1, half]) for turn in turns)
        rotated = []
        for states in (query, key):
            heads = states.shape[1] // config.head_dim
            # [tokens, heads * head size] -> [tokens, heads, head size]
            shaped = graph.reshape(states, [0, heads, config.head_dim], [tokens, heads, config.head_dim])
            first, second = graph.slice(shaped, 2, 0, half), graph.slice(shaped, 2, half, half)
            turned = graph.concatenate(
                graph.subtract(graph.multiply(first, cos), graph.multiply(second, sin)),
                graph.add(graph.multiply(second, cos), graph.multiply(first, sin)),
            )
            # [tokens, heads, head size] -> [tokens, heads * head size]
            rotated.append(graph.reshape(turned, [0, states.shape[1]], states.shape))
        return [graph.scaled(rotated[0], 1 / math.sqrt(config.head_dim)), rotated[1], value]

    def _after_attention(self, graph: XnnpackGraph, layer: int, tokens: int, inputs: list[Value]) -> Value:
        """Attention, its projection and the MLP, each added to the residual stream [tokens, hidden]."""
        config, prefix = self.config, f"model.layers.{layer}."
        hidden, query, keys, values, mask = inputs
        mixed = self._attend(graph, tokens, query, keys, values, mask)
        output = self._linear(graph, f"{prefix}self_attn.o_proj", mixed)
        hidden = graph.add(hidden, graph.scaled(output, config.residual_scale))
        name = f"{prefix}post_attention_layernorm.weight"
        normed = graph.rms_norm(name, hidden, self.weights.vector(name), config.rms_norm_eps)
        gate = graph.silu(self._linear(graph, f"{prefix}mlp.gate_proj", normed))
        up = self._linear(graph, f"{prefix}mlp.up_proj", normed)
        down = self._linear(graph, f"{prefix}mlp.down_proj", graph.multiply(gate, up))
        return graph.add(hidden, graph.scaled(down, config.residual_scale))

    def _attend(self, graph: XnnpackGraph, tokens: int, query: Value, keys: Value, values: Value, mask: Value) -> Value:
        """query [tokens, heads * head size], keys and values [total, KV heads * head size] -> as the query"""
        config = self.config
        heads, size = config.num_key_value_heads, config.head_dim
        shared = config.num_attention_heads // heads
        # [tokens, heads * head size] -> [tokens, KV heads, shared, head size] -> [KV heads, tokens, shared, head size]
        query = graph.reshape(query, [0, heads, shared, size], [tokens, heads, shared, size])
        query = graph.transpose(query, [1, 0, 2, 3])
        # -> [KV heads, tokens * shared, head size]
        query = graph.reshape(query, [heads, 0, size], [heads, tokens * shared, size])
        # [total, KV heads * head size] -> [total, KV heads, head size] -> [KV heads, total, head size]
        keys, values = (
            graph.transpose(graph.reshape(cache, [0, heads, size], [self.length, heads, size]), [1, 0, 2])
            for cache in (keys, values)
        )
        scores = graph.add(graph.matrix_product(query, keys, transposed=True), mask)
        mixed = graph.matrix_product(graph.softmax(scores), values)
        # [KV heads, tokens * shared, head size] -> [KV heads, tokens, shared, head size]
        mixed = graph.reshape(mixed, [heads, 0, shared, size], [heads, tokens, shared, size])
        mixed = graph.transpose(mixed, [1, 0, 2, 3])
        # [tokens, KV heads, shared, head size] -> [tokens, heads * head size]
        width = config.num_attention_heads * size
        return graph.reshape(mixed, [0, width], [tokens, width])

    def _linear(self, graph: XnnpackGraph, name: str, hidden: Value) -> Value:
        weight = self.weights.matrix(f"{name}.weight")
        return graph.linear(f"{name}.weight", hidden, weight, self.weights.optional_vector(f"{name}.bias"))
