"""The text part of an ExecuTorch program: token embedding, and the decoder over a KV cache that stays inside it.

A layer's attention reads what this step has written into the cache, and writing is a kernel of ExecuTorch's. So an
XNNPACK graph goes from one layer's attention to the next layer's query, key and value; between two of them the new rows
are put into the cache (``executorch_attention``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pocketvlm.export.executorch.attention import PARTS, Attention, AttentionInputs
from pocketvlm.export.executorch.program import Method, Program, Slot
from pocketvlm.export.executorch.weights import Weights
from pocketvlm.export.executorch.xnnpack import Value, XnnpackGraph
from pocketvlm.export.store.kv_layout import KvLayout
from pocketvlm.models.config import DecoderConfig
from pocketvlm.quant import GroupedTensor

LAST = (1 << 63) - 1


@dataclass
class TextBuilder:
    """Adds the text methods to a program; graphs that several of them call are made once.

    A step takes at most as many tokens as the KV cache does.
    """

    program: Program
    weights: Weights
    config: DecoderConfig
    kv: KvLayout
    _graphs: dict[tuple[int, int, int], int] = field(default_factory=dict)
    _head: int | None = None
    _attention: Attention = field(init=False)

    def __post_init__(self) -> None:
        self._attention = Attention(self.config, self.kv)

    def token_embedding(self) -> None:
        """input_ids int64 [1, 1..length] -> inputs_embeds float32 [1, tokens, hidden]"""
        method = Method(self.program, "token_embedding")
        tokens = method.take(method.tensor([1, self.kv.length], "int64"))
        method.give(self._embed(method, tokens))
        self.program.add_method(method)

    def text_decoder(self) -> None:
        """inputs_embeds float32 [1, 1..length, hidden], cache_position int64 [1] -> the last logits [1, vocabulary]"""
        method = Method(self.program, "text_decoder")
        embeds = method.take(method.tensor([1, self.kv.length, self.config.hidden_size]))
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
        tokens = method.take(method.tensor([1, self.kv.length], "int64"))
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
        config, tokens, attention = self.config, embeds.shape[1], self._attention
        if position is None:
            position = method.take(method.tensor([1], "int64", dynamic=False))
        step = attention.step(method, embeds, position)
        inputs = [embeds]
        # Even and odd layers take turns in two places of memory.
        for layer in range(layers.start, layers.stop + 1):
            graph = self._graph_before(layer, layers, tokens)
            hidden = method.tensor([tokens, config.hidden_size], place=f"hidden.{layer % 2}")
            if layer == layers.stop:
                method.delegate(graph, *inputs, hidden)
                break
            query = method.tensor([tokens, config.num_attention_heads * config.head_dim], place=f"query.{layer % 2}")
            rows = [attention.new_rows(method, tokens, part, layer) for part in PARTS]
            method.delegate(graph, *inputs, step.cos, step.sin, hidden, query, *rows)
            views = [
                view
                for part, new in zip(PARTS, rows, strict=True)
                for view in attention.put(method, layer, part, new, step)
            ]
            inputs = [hidden, query, *views, step.mask]
        return hidden

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
            hidden = graph.input([self.kv.length, config.hidden_size])
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
            residual = graph.input([tokens, config.hidden_size])
            asked = self._attention.inputs(graph, layer - 1, tokens)
            rest = lambda: self._after_attention(graph, layer - 1, residual, asked)  # noqa: E731
        half = config.head_dim // 2
        turns = [graph.input([tokens, half]) for _ in range(2)] if layer < layers.stop else []
        hidden = rest()
        graph.output(hidden)
        if not turns:
            return
        for value in self._query_key_value(graph, layer, tokens, hidden, turns):
            graph.output(value)

    def _query_key_value(
        self, graph: XnnpackGraph, layer: int, tokens: int, hidden: Value, turns: list[Value]
    ) -> list[Value]:
        """hidden [tokens, hidden] -> query [tokens, heads * head size], and rows of keys and values for the cache"""
        config, prefix = self.config, f"model.layers.{layer}."
        name = f"{prefix}input_layernorm.weight"
        normed = graph.rms_norm(name, hidden, self.weights.vector(name), config.rms_norm_eps)
        query, key, value = (self._linear(graph, f"{prefix}self_attn.{part}_proj", normed) for part in "qkv")
        half = config.head_dim // 2
        # [tokens, half] -> [tokens, 1, half]
        cos_sin = [graph.reshape(turn, [0, 1, half], [tokens, 1, half]) for turn in turns]
        query, key = (self._attention.rotated(graph, states, cos_sin) for states in (query, key))
        rows = (
            self._attention.as_rows(graph, layer, part, states)
            for part, states in zip(PARTS, (key, value), strict=True)
        )
        return [query, *rows]

    def _after_attention(self, graph: XnnpackGraph, layer: int, hidden: Value, inputs: AttentionInputs) -> Value:
        """Attention, its projection and the MLP, each added to the residual stream ``hidden`` [tokens, hidden]."""
        config, prefix = self.config, f"model.layers.{layer}."
        mixed = self._attention.attend(graph, inputs)
        output = self._linear(graph, f"{prefix}self_attn.o_proj", mixed)
        hidden = graph.add(hidden, graph.scaled(output, config.residual_scale))
        name = f"{prefix}post_attention_layernorm.weight"
        normed = graph.rms_norm(name, hidden, self.weights.vector(name), config.rms_norm_eps)
        gate = graph.silu(self._linear(graph, f"{prefix}mlp.gate_proj", normed))
        up = self._linear(graph, f"{prefix}mlp.up_proj", normed)
        down = self._linear(graph, f"{prefix}mlp.down_proj", graph.multiply(gate, up))
        return graph.add(hidden, graph.scaled(down, config.residual_scale))

    def _linear(self, graph: XnnpackGraph, name: str, hidden: Value) -> Value:
        weight = self.weights.matrix(f"{name}.weight")
        return graph.linear(f"{name}.weight", hidden, weight, self.weights.optional_vector(f"{name}.bias"))
