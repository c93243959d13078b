"""The signatures of the program's files, as LiteRT-LM's NPU executor calls them: decoder, what is around it, embedder.

The executor keeps the KV cache, [1, KV heads, length, head size] of INT8 a layer with a token's row at its position,
and hands one step's values from model to model: embeddings by the embedder; masks and RoPE's cosines and sines by the
auxiliary model; the new rows by the decoder, which the auxiliary model puts into the cache. A prefill gives no logits:
a prompt's last token goes through the decoder alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema

from pocketvlm.export.litert.graph import Code, LitertGraph, LitertTensor
from pocketvlm.export.litert.program import LitertFile
from pocketvlm.export.litert.weights import StoredMatrices
from pocketvlm.export.litert_npu.graph import FixedPointGraph
from pocketvlm.export.npu.operators import KEY, VALUE
from pocketvlm.export.npu.program import MASK, ROPE, decoder_head, decoder_layers
from pocketvlm.export.npu.rounding import TOP16, Scales
from pocketvlm.models.config import DecoderConfig
from pocketvlm.models.names import EMBEDDING_TABLE
from pocketvlm.models.operators import CachedAttend
from pocketvlm.models.rope import rope_tables
from pocketvlm.models.stages import decoder_stages

#: A cache's parts as LiteRT-LM names them, and how the names of their scales end.
PARTS = (("k", KEY), ("v", VALUE))
#: Of GATHER: the version that takes INT16.
GATHER = 4
#: Beyond any position.
NEVER = 1 << 30


@dataclass(frozen=True)
class ProgramSignatures:
    """Adds the program's signatures to files. ``length``: rows of the cache."""

    weights: StoredMatrices
    config: DecoderConfig
    scales: Scales
    length: int

    # --- The decoder --------------------------------------------------------------------------------------------------

    def decoder(
        self, file: LitertFile, name: str, tokens: int, *, head: bool = False, layers: range | None = None
    ) -> None:
        """embeddings float32 [1, tokens, hidden], mask_global, pos_emb_cos, pos_emb_sin and the cache -> its new rows
        kv_slice_* and, with ``head``, logits float32 [1, tokens, vocabulary]; of some ``layers`` alone also hidden,
        float32 [1, tokens, hidden]"""
        graph = LitertGraph(file, name)
        stream = self._layers(graph, range(self.config.num_hidden_layers) if layers is None else layers, tokens)
        if layers is not None:
            graph.output("hidden", graph.dequantize(stream))
        if head:
            graph.output("logits", graph.dequantize(self._head(graph, stream)))
        graph.finish()

    def head(self, file: LitertFile, stream_name: str, tokens: int) -> None:
        """The signature "head": embeddings float32 [1, tokens, hidden] -> logits float32 [1, tokens, vocabulary]"""
        graph = LitertGraph(file, "head")
        hidden = graph.input("embeddings", [1, tokens, self.config.hidden_size])
        stream = graph.quantize(hidden, self.scales.values[stream_name], "int16")
        graph.output("logits", graph.dequantize(self._head(graph, stream)))
        graph.finish()

    def _layers(self, graph: LitertGraph, layers: range, tokens: int) -> LitertTensor:
        arithmetic, width = FixedPointGraph(graph, self.weights, self.scales), self.length + tokens
        hidden = graph.input("embeddings", [1, tokens, self.config.hidden_size])
        mask = graph.input("mask_global", [1, 1, tokens, width], "int16", self.scales.values[MASK])
        cos, sin = (
            graph.input(f"pos_emb_{part}", [1, 1, tokens, self.config.head_dim], "int16", self.scales.values[ROPE])
            for part in ("cos", "sin")
        )
        caches = {name: graph.input(name, shape, "int8", step) for name, shape, step in self._caches("cache", layers)}
        past = [caches[f"kv_cache_{part}_{layer}"] for part, _ in PARTS for layer in layers]
        inputs = hidden, mask, (cos, sin)
        stream, *rows = decoder_layers(arithmetic, self.config, layers, inputs, past, (tokens, self.length))
        for (part, layer), row in zip([(part, layer) for part, _ in PARTS for layer in layers], rows, strict=True):
            graph.output(f"kv_slice_{part}_{layer}", row)
        found: LitertTensor = stream
        return found

    def _head(self, graph: LitertGraph, stream: LitertTensor) -> LitertTensor:
        logits: LitertTensor = decoder_head(FixedPointGraph(graph, self.weights, self.scales), self.config, stream)
        return logits

    def _caches(
        self, kind: str, layers: Sequence[int], rows: int | None = None
    ) -> Iterator[tuple[str, list[int], float]]:
        """Name, shape and step of each layer's keys and values; ``rows``: the cache's, if None."""
        shape = [1, self.config.num_key_value_heads, rows or self.length, self.config.head_dim]
        for layer in layers:
            for part, end in PARTS:
                yield f"kv_{kind}_{part}_{layer}", shape, self.scales.cache[self._scale_name(layer, end)]

    def _scale_name(self, layer: int, end: str) -> str:
        stage = decoder_stages(self.config)[layer]
        (attend,) = (node for node in stage.traced.calls if isinstance(stage.traced.operator(node), CachedAttend))
        return f"{stage.value_name(attend)}{end}"

    # --- What is around it --------------------------------------------------------------------------------------------

    def auxiliary(self, file: LitertFile, name: str, tokens: int, layers: range | None = None) -> None:
        """The three signatures around a step; ``name`` has a place for what they do."""
        self._rope(LitertGraph(file, name.format("rope")), tokens)
        self._mask(LitertGraph(file, name.format("mask")), tokens)
        every = range(self.config.num_hidden_layers) if layers is None else layers
        self._update(LitertGraph(file, name.format("cache_update")), tokens, every)

    def _rope(self, graph: LitertGraph, tokens: int) -> None:
        """input_pos int32 [tokens] -> pos_emb_cos, pos_emb_sin int16 [1, 1, tokens, head size]"""
        places, step, size = graph.input("input_pos", [tokens], "int32"), self.scales.values[ROPE], self.config.head_dim
        cos, sin = (table.numpy() for table in rope_tables(self.config, torch.arange(self.length)))
        # The halves of a head are pairs: times sin the second half is subtracted, the first one added.
        tables = {"cos": np.concatenate([cos, cos], 1), "sin": np.concatenate([-sin, sin], 1)}
        for part, table in tables.items():
            codes = np.rint(table.astype(np.float64) / step).clip(-TOP16 - 1, TOP16).astype(np.int16)
            known, options = graph.constant(f"rope.{part}", codes, step), schema.GatherOptionsT()
            rows = graph.operator(Code.GATHER, [known, places], (tokens, size), options, GATHER, "int16", step)
            # [tokens, size] -> [1, 1, tokens, size]
            graph.output(f"pos_emb_{part}", graph.reshape(rows, [1, 1, tokens, size]))
        graph.finish()

    def _mask(self, graph: LitertGraph, tokens: int) -> None:
        """time_step int32 [], the first token's position -> mask_global int16 [1, 1, tokens, length + tokens]

        input_tokens and valid_mask are the executor's: what a padded token gives is read by nobody.
        """
        graph.input("input_tokens", [1, tokens], "int32")
        first = graph.input("time_step", [], "int32")
        graph.input("valid_mask", [1, tokens], "bool")
        # What is below the first position is seen: the cache's rows before it, and of the step's those up to a token.
        step = np.where(np.tri(tokens, dtype=bool), -1, NEVER)
        places = np.concatenate([np.broadcast_to(np.arange(self.length), (tokens, self.length)), step], 1)
        shape = (1, 1, tokens, self.length + tokens)
        known = graph.constant(f"places_{tokens}", places.astype(np.int32).reshape(shape))
        seen = graph.operator(Code.LESS, [known, first], shape, schema.LessOptionsT(), dtype="bool")
        hidden = graph.subtract(graph.cast(seen, "float32"), graph.scalar(1.0))
        mask = graph.multiply(hidden, graph.scalar(-self.scales.mask))
        graph.output("mask_global", graph.quantize(mask, self.scales.values[MASK], "int16"))
        graph.finish()

    def _update(self, graph: LitertGraph, tokens: int, layers: range) -> None:
        """The cache, kv_slice_* and input_pos int32 [tokens] -> the cache, its rows from the first of those positions
        on written over"""
        places, zero = graph.input("input_pos", [tokens], "int32"), graph.integers(0)
        start = graph.concatenate([zero, zero, graph.slice(places, 0, 0, 1), zero], 0)
        slices = [graph.input(name, shape, "int8", step) for name, shape, step in self._caches("slice", layers, tokens)]
        for (name, shape, step), rows in zip(self._caches("cache", layers), slices, strict=True):
            graph.output(name, graph.update(graph.input(name, shape, "int8", step), rows, start))
        graph.input("valid_mask", [1, tokens], "bool")
        graph.finish()

    # --- The embedder -------------------------------------------------------------------------------------------------

    def embedder(self, file: LitertFile, name: str, tokens: int) -> None:
        """token_ids int32 [1, tokens] -> embeddings float32 [1, tokens, hidden]; what an image's rows replace may be
        below 0"""
        graph, hidden = LitertGraph(file, name), self.config.hidden_size
        ids = graph.input("token_ids", [1, tokens], "int32")
        options = schema.MaximumMinimumOptionsT()
        ids = graph.operator(Code.MAXIMUM, [ids, graph.integers(0)], ids.shape, options, dtype="int32")
        rows = graph.rows(
            graph.matrix(EMBEDDING_TABLE, self.weights.table(EMBEDDING_TABLE)), graph.reshape(ids, [tokens])
        )
        # [tokens, hidden] -> [1, tokens, hidden]
        rows = graph.reshape(graph.scaled(rows, self.config.embedding_scale), [1, tokens, hidden])
        graph.output("embeddings", rows)
        graph.finish()


def step_names(rows: int) -> dict[int, tuple[str, str]]:
    """The decoder's signature of a step of so many tokens, and with a place for what they do, those around it."""
    return {rows: (f"prefill_{rows}", f"prefill_{{}}_{rows}"), 1: ("decode", "decode_{}")}
