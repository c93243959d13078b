"""The methods of an ExecuTorch program: the text part over a KV cache that stays inside it, and the vision part.

Between two XNNPACK graphs of the decoder (``executorch.operators``) a method puts a step's new rows into the cache
(``executorch.attention``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pocketvlm.export.executorch import picture
from pocketvlm.export.executorch.attention import PARTS, MethodStep, XnnpackAttention
from pocketvlm.export.executorch.convolution import RowStep, XnnpackConvolution
from pocketvlm.export.executorch.operators import TABLE, CacheBuilders, Segment, Segments, XnnpackContext
from pocketvlm.export.executorch.program import Method, Program, Slot
from pocketvlm.export.executorch.state import TOKENS, StateStep, XnnpackState
from pocketvlm.export.executorch.weights import Weights
from pocketvlm.export.executorch.xnnpack import Value, XnnpackGraph
from pocketvlm.export.graph.lower import lower
from pocketvlm.export.store.kv_layout import KvLayout
from pocketvlm.models.config import DecoderConfig, VlmConfig
from pocketvlm.models.names import EMBEDDING_TABLE, ROWS_TABLE
from pocketvlm.models.stages import Stage, decoder_stages, head_stage, stages_of
from pocketvlm.quant import GroupedTensor

LAST = (1 << 63) - 1


class StepValues(NamedTuple):
    """What layers read of a step: attention's, convolutions', states', and what a cache has up to it, by layers that
    others read."""

    attention: MethodStep
    rows: RowStep | None
    state: StateStep | None
    known: dict[int, list[Slot]]


@dataclass
class TextMethods:
    """Adds the text methods to a program; graphs that several of them call are made once.

    A step takes at most as many tokens as the KV cache does, or as a chunk of a state. ``by_token``: cos and sin of
    RoPE, float32 [tokens, head_dim / 2] each, are inputs behind a step's place in the cache, since tokens have other
    positions than that; ``spans``: so is behind those the last place that each may see, int64 [tokens].
    """

    program: Program
    weights: Weights
    config: DecoderConfig
    kv: KvLayout
    by_token: bool = False
    spans: bool = False
    _segments: dict[range, tuple[Segment, ...]] = field(default_factory=dict)
    _head: int | None = None
    _attention: XnnpackAttention = field(init=False)
    _convolution: XnnpackConvolution = field(init=False)
    _state: XnnpackState = field(init=False)
    _stages: tuple[Stage, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._attention, self._stages = XnnpackAttention(self.config, self.kv), decoder_stages(self.config)
        self._convolution = XnnpackConvolution(self.config, self.kv.length)
        self._state = XnnpackState(self.config)

    @property
    def most_tokens(self) -> int:
        """Of a step."""
        return min(TOKENS, self.kv.length) if self.config.states else self.kv.length

    def token_embedding(self) -> None:
        """input_ids int64 [1, 1..length] -> inputs_embeds float32 [1, tokens, hidden and rows beside it]"""
        method = Method(self.program, "token_embedding")
        tokens = method.take(method.tensor([1, self.kv.length], "int64"))
        method.give(self._embed(method, tokens))
        self.program.add_method(method)

    def text_decoder(self) -> None:
        """inputs_embeds float32 [1, 1..most, width], cache_position int64 [1] -> the last logits [1, vocabulary]"""
        method = Method(self.program, "text_decoder")
        embeds = method.take(method.tensor([1, self.most_tokens, self.config.entering_width]))
        hidden = self._layers(method, embeds, self._stages, self._steps(method, embeds))
        method.give(self._last_logits(method, hidden))
        self.program.add_method(method)

    def all_logits(self, tokens: int) -> None:
        """As ``text_decoder`` for at most ``tokens`` tokens -> logits [tokens, vocabulary] of each of them."""
        method = Method(self.program, "text_decoder_all_logits")
        tokens = min(tokens, self.most_tokens)
        embeds = method.take(method.tensor([1, tokens, self.config.entering_width]))
        hidden = self._layers(method, embeds, self._stages, self._steps(method, embeds))
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
        hidden = self._layers(method, embeds, self._stages, self._steps(method, embeds, position))
        method.give(self._last_logits(method, hidden))
        self.program.add_method(method)

    def layer(self, index: int, tokens: int) -> None:
        """The method "layer": [1, tokens, width], cache_position [1] -> [tokens, width behind it], one layer alone. It
        goes on from its last call where the layer has a state.

        Of one that reads another's cache what enters that layer is an input before these.
        """
        method, source = Method(self.program, "layer"), self.config.source(index)
        before = index if source is None else source
        entering = [
            method.take(method.tensor([1, tokens, self.config.stream_width(layer)])) for layer in {before: 0, index: 0}
        ]
        steps = self._steps(method, entering[-1], stateful=self.config.is_state(index))
        if source is not None:
            self._layers(method, entering[0], self._stages[source : source + 1], steps, apart="source.")
        method.give(self._layers(method, entering[-1], self._stages[index : index + 1], steps))
        if self.config.is_state(index):
            self._state.carry(method, index)
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
        config = self.config
        embeds = self._rows_of(method, EMBEDDING_TABLE, tokens, config.embedding_scale)
        if not config.rows_width:
            return embeds
        beside = self._rows_of(method, ROWS_TABLE, tokens, config.rows_scale)
        graph = XnnpackGraph(self.program.constants)
        joined = graph.output(graph.concatenate([graph.input(embeds.shape), graph.input(beside.shape)], 2))
        output = method.tensor(joined.shape)
        method.delegate(self.program.add_graph(graph.serialized()), embeds, beside, output)
        return output

    def _rows_of(self, method: Method, name: str, tokens: Slot, factor: float) -> Slot:
        """A table's rows, [1, tokens, columns], times a factor"""
        table = self.weights.table(name)
        if isinstance(table, GroupedTensor):
            rows = self._gather_quantized(method, name, table, tokens)
        else:
            rows = self._gather(method, method.constant(name, table), tokens, "float32")
        if factor == 1.0:
            return rows
        scaled = method.tensor(rows.shape)
        method.call("aten::mul.Scalar_out", rows, method.number(float(factor)), scaled)
        return scaled

    def _gather_quantized(self, method: Method, name: str, table: GroupedTensor, tokens: Slot) -> Slot:
        """The rows of a quantized table, dequantized; the padding of its last group is cut off.

        With kernels that every ExecuTorch has: those for quantized tables are a library of their own, of which a
        process must not hold two copies. A code takes a byte, also one of 4 bits.
        """
        rows, groups = table.rows, table.groups
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

    def _steps(
        self, method: Method, embeds: Slot, position: Slot | None = None, *, stateful: bool = True
    ) -> StepValues:
        """What the layers read beside ``embeds`` [1, tokens, width]; not ``stateful``: none of them has a state."""
        config, tokens = self.config, embeds.shape[1]
        if position is None:
            position = method.take(method.tensor([1], "int64", dynamic=False))
        half = config.head_dim // 2
        turns = [method.take(method.tensor([tokens, half])) for _ in range(2)] if self.by_token else None
        seen = method.take(method.tensor([tokens], "int64")) if self.spans else None
        step = self._attention.step(method, embeds, position, None if turns is None else (turns[0], turns[1]), seen)
        rows = self._convolution.step(method, step.positions) if config.convolutions else None
        state = self._state.step(method, embeds) if config.states and stateful else None
        return StepValues(step, rows, state, {})

    def _layers(
        self, method: Method, embeds: Slot, stages: Sequence[Stage], steps: StepValues, *, apart: str = ""
    ) -> Slot:
        """Run layers over ``embeds`` [1, tokens, width]; gives the residual stream [tokens, width]. ``apart``: begins
        the names of places that are not those of other layers."""
        config, tokens, (step, rows, state, _) = self.config, embeds.shape[1], steps
        present: list[Slot] = []
        *segments, last = self._graphs(stages, tokens)
        inputs = [embeds]
        # Even and odd layers take turns in two places of memory.
        for stage, segment in zip(stages, segments, strict=True):
            passing = _passing(method, tokens, segment, f"{apart}{stage.index % 2}")
            (cos, sin), mask = step.of_layer(local=config.is_local(stage.index))
            ends = segment.graph, [*inputs, cos, sin, *present, *passing]
            present = []
            if rows is not None and config.is_convolution(stage.index):
                inputs = [*passing, *self._convolved(method, stage.index, ends, rows)]
            elif state is not None and config.is_state(stage.index):
                past, *present = self._state.matrices(method, stage.index)
                inputs = [*passing, *self._remembered(method, stage.index, ends, state), state.masks, past]
            else:
                inputs = [*passing, *self._attended(method, stage.index, ends, steps), mask]
        (stream,) = _passing(method, tokens, last, f"{apart}{(stages[-1].index + 1) % 2}")
        method.delegate(last.graph, *inputs, *present, stream)
        return stream

    def _attended(self, method: Method, layer: int, graph: tuple[int, list[Slot]], steps: StepValues) -> list[Slot]:
        """Run a graph up to a layer's query, key and value; gives what its attention reads."""
        config, attention, (number, arguments) = self.config, self._attention, graph
        tokens, width = arguments[-1].shape[0], config.num_attention_heads * config.head_size(layer)
        query, source = method.tensor([tokens, width], place=f"query.{layer % 2}.{width}"), config.source(layer)
        if source is not None:
            method.delegate(number, *arguments, query)
            return [query, *steps.known[source]]
        rows = [attention.new_rows(method, tokens, part, layer) for part in PARTS]
        method.delegate(number, *arguments, query, *rows)
        views = [
            view
            for part, new in zip(PARTS, rows, strict=True)
            for view in attention.put(method, layer, part, new, steps.attention)
        ]
        if config.is_source(layer):
            steps.known[layer] = views
        return [query, *views]

    def _convolved(self, method: Method, layer: int, graph: tuple[int, list[Slot]], step: RowStep) -> list[Slot]:
        """Run a graph up to what enters a layer's convolution; gives what it reads."""
        number, arguments = graph
        rows = method.tensor([arguments[-1].shape[0], self.config.hidden_size], place=f"rows.{layer % 2}")
        method.delegate(number, *arguments, rows)
        return self._convolution.put(method, layer, rows, step)

    def _remembered(self, method: Method, layer: int, graph: tuple[int, list[Slot]], step: StateStep) -> list[Slot]:
        """The same of a layer with a state."""
        number, arguments = graph
        rows = method.tensor([arguments[-1].shape[0], self.config.state_width], place=f"rows.{layer % 2}")
        method.delegate(number, *arguments, rows)
        return self._state.put(method, layer, rows, step)

    def _graphs(self, stages: Sequence[Stage], tokens: int) -> tuple[Segment, ...]:
        key = range(stages[0].index, stages[-1].index + 1)
        if key not in self._segments:
            caches = CacheBuilders(self._attention, self._convolution, self._state)
            self._segments[key] = Segments(self.program, self.weights, caches, tokens).lower(stages)
        return self._segments[key]

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
            hidden = graph.input([self.kv.length, self.config.hidden_size])
            graph.output(lower(head_stage(self.config), TABLE, XnnpackContext(graph, self.weights), hidden))
            self._head = self.program.add_graph(graph.serialized())
        return self._head


class VisionMethods:
    """Adds the vision methods to a program: one tile of pixels in, its image tokens out.

    ``vision_encoder`` is what ExecuTorch's runners call; its halves are methods of their own, so that a runtime can
    embed the next tile's patches while this one's are encoded.
    """

    def __init__(self, program: Program, weights: Weights, config: VlmConfig) -> None:
        assert config.vision is not None
        self._program, self._weights, self._stages, side = program, weights, stages_of(config), config.vision.image_size
        self._pixels = [1, 3, side, side]
        self._patches = [1, *config.vision.stream(0)]
        self._vision = config.vision
        self._tokens = [1, config.tokens_per_tile, config.text.hidden_size]

    def methods(self) -> None:
        """vision_encoder: float32 [1, 3, tile, tile] -> [1, tokens, hidden]; and its halves"""
        stages = self._stages
        assert stages.patch_embedding is not None
        embedding = self._graph([stages.patch_embedding], self._pixels, self._patches)
        encoding = self._graph(stages.encoder, self._patches, self._tokens)
        whole = Method(self._program, "vision_encoder")
        pixels = whole.take(_static(whole, self._pixels))
        patches, tokens = _static(whole, self._patches), _static(whole, self._tokens)
        whole.delegate(embedding, pixels, patches)
        whole.delegate(encoding, patches, tokens)
        whole.give(tokens)
        self._program.add_method(whole)
        self._method("patch_embedding", embedding, self._pixels, self._patches)
        self._method("image_tokens", encoding, self._patches, self._tokens)

    def stage(self, stage: Stage) -> None:
        """The method "stage": one of the vision part's stages alone."""
        layers = self._vision.num_hidden_layers
        enters, leaves = (layers, layers) if stage.part == "projector" else (stage.index, stage.index + 1)
        taken, given = ([1, *self._vision.stream(layer)] for layer in (enters, leaves))
        if stage.part == "patch embedding":
            taken, given = self._pixels, self._patches
        elif stage.part == "projector":
            given = self._tokens
        self._method("stage", self._graph([stage], taken, given), taken, given)

    def _graph(self, stages: Sequence[Stage], taken: list[int], given: list[int]) -> int:
        graph = XnnpackGraph(self._program.constants)
        stream: Value = graph.input(taken)
        if stages[0].part != "patch embedding":
            stream = graph.reshape(stream, taken[1:])  # [1, patches, width] -> [patches, width]
        for stage in stages:
            stream = lower(stage, TABLE, XnnpackContext(graph, self._weights), stream)
        graph.output(graph.reshape(stream, given))
        return self._program.add_graph(graph.serialized())

    def _method(self, name: str, graph: int, taken: list[int], given: list[int]) -> None:
        method = Method(self._program, name)
        values = method.take(_static(method, taken))
        output = _static(method, given)
        method.delegate(graph, values, output)
        method.give(output)
        self._program.add_method(method)


class PictureMethods:
    """Adds the vision methods of a tower of native resolution: tiles of pixels in, and a picture's tokens out.

    Patches are embedded at most ``batch`` tiles at a time. All of a picture are encoded at once: at most ``tiles``, as
    many as stand in its windows where there are some.
    """

    def __init__(self, program: Program, weights: Weights, config: VlmConfig, batch: int, tiles: int) -> None:
        assert config.vision is not None
        self._program, self._weights, self._stages = program, weights, stages_of(config)
        self._vision, self._width, self._batch, self._tiles = config.vision, config.image_width, batch, tiles

    def methods(self) -> None:
        """patch_embedding: float32 [1..batch, 3, tile, tile] (and a table's rows at them) -> [tiles, patches, width];
        image_tokens: that and where the patches stand (``executorch.picture``) -> [tiles, 1, width of a token], of a
        resampler [queries, 1, width of a token]"""
        assert self._stages.patch_embedding is not None
        self._embedding("patch_embedding", self._stages.patch_embedding, self._batch)
        vision = self._vision
        self._encoding("image_tokens", self._stages.encoder, vision.stream(0), [1, self._width])

    def stage(self, stage: Stage) -> None:
        """The method "stage": one of the vision part's stages alone, for at most ``tiles``."""
        vision, layers = self._vision, self._vision.num_hidden_layers
        if stage.part == "patch embedding":
            self._embedding("stage", stage, self._tiles)
        elif stage.part == "projector":
            self._encoding("stage", [stage], vision.stream(layers), [1, self._width])
        else:
            given = list(vision.stream(stage.index + 1))
            self._encoding("stage", [stage], vision.stream(stage.index), given)

    def _embedding(self, name: str, stage: Stage, tiles: int) -> None:
        vision, graph = self._vision, XnnpackGraph(self._program.constants)
        shapes, count = [[tiles, 3, vision.image_size, vision.image_size]], tiles * vision.rows
        given = [vision.rows, vision.hidden_size]
        if vision.table_side is not None:
            shapes.append([tiles, *given])
        pixels, *tables = (graph.input(shape) for shape in shapes)
        # [tiles, patches, width] -> [tiles * patches, width]
        rows = [graph.reshape(table, [0, given[1]], [count, given[1]]) for table in tables]
        place = picture.PlaceValues(rows=rows[0] if rows else None)
        patches = lower(stage, TABLE, XnnpackContext(graph, self._weights, place), pixels)
        self._finish(name, graph, shapes, graph.reshape(patches, [0, *given], [tiles, *given]))

    def _encoding(self, name: str, stages: Sequence[Stage], entering: tuple[int, int], given: list[int]) -> None:
        vision, graph, tiles, (rows, width) = self._vision, XnnpackGraph(self._program.constants), self._tiles, entering
        shapes, count = [[tiles, rows, width]], tiles * rows
        stream = graph.reshape(graph.input(shapes[0]), [0, width], [count, width])
        place = picture.PlaceValues()
        if any(len(stage.traced.inputs) > 1 for stage in stages):
            shapes += picture.place_shapes(vision, tiles)
            place = picture.place_values(graph, vision, tiles)
        for stage in stages:
            stream = lower(stage, TABLE, XnnpackContext(graph, self._weights, place), stream)
        queries = vision.queries if stages[-1].part == "projector" else None
        output = graph.reshape(stream, [queries or 0, *given], [queries or tiles, *given])
        self._finish(name, graph, shapes, output)

    def _finish(self, name: str, graph: XnnpackGraph, shapes: list[list[int]], output: Value) -> None:
        method, given = Method(self._program, name), graph.output(output).shape
        inputs = [method.take(method.tensor(shape)) for shape in shapes]
        result = method.tensor(given)
        method.delegate(self._program.add_graph(graph.serialized()), *inputs, result)
        method.give(result)
        self._program.add_method(method)


def _passing(method: Method, tokens: int, segment: Segment, turn: str) -> list[Slot]:
    """Where a graph puts what passes its attention by, [tokens, width] each."""
    places = enumerate(segment.passing)
    return [method.tensor([tokens, width], place=f"hidden.{turn}.{place}") for place, width in places]


def _static(method: Method, shape: list[int]) -> Slot:
    return method.tensor(shape, dynamic=False)
