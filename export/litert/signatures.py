"""The signatures of LiteRT's parts, as LiteRT-LM names them and their inputs: text over a KV cache, and vision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pocketvlm.export.graph.lower import lower
from pocketvlm.export.litert.attention import positions
from pocketvlm.export.litert.graph import LitertGraph, LitertTensor
from pocketvlm.export.litert.operators import TABLE, LitertContext
from pocketvlm.export.litert.program import LitertFile
from pocketvlm.export.litert.weights import LitertWeights
from pocketvlm.export.store.kv_layout import KvLayout
from pocketvlm.models.config import DecoderConfig, VlmConfig
from pocketvlm.models.names import EMBEDDING_TABLE
from pocketvlm.models.stages import Stage, decoder_stages, head_stage, stages_of


@dataclass(frozen=True)
class TextSignatures:
    """Adds the text part's signatures to a program."""

    program: LitertFile
    weights: LitertWeights
    config: DecoderConfig
    kv: KvLayout

    def token_embedding(self, name: str, tokens: int) -> None:
        """token_ids int32 [1, tokens] -> embeddings float32 [1, tokens, hidden]"""
        graph, hidden = LitertGraph(self.program, name), self.config.hidden_size
        ids = graph.reshape(graph.input("token_ids", [1, tokens], "int32"), [tokens])
        rows = graph.rows(graph.matrix(EMBEDDING_TABLE, self.weights.table(EMBEDDING_TABLE)), ids)
        # [tokens, hidden] -> [1, tokens, hidden]
        rows = graph.reshape(graph.scaled(rows, self.config.embedding_scale), [1, tokens, hidden])
        graph.output("embeddings", rows)
        graph.finish()

    def decoder(self, name: str, tokens: int, *, head: bool) -> None:
        """embeddings float32 [1, tokens, hidden], input_pos int32 [tokens], mask float32 [1, 1, tokens, length] and the
        KV cache -> the cache and, with ``head``, logits float32 [1, tokens, vocabulary]"""
        graph = LitertGraph(self.program, name)
        hidden = graph.input("embeddings", [1, tokens, self.config.hidden_size])
        hidden = self._layers(graph, hidden, decoder_stages(self.config))
        if head:
            graph.output("logits", self._head(graph, hidden))
        graph.finish()

    def layer(self, stage: Stage, tokens: int) -> None:
        """The signature "layer": as ``decoder`` -> hidden float32 [1, tokens, hidden] of one layer alone."""
        graph = LitertGraph(self.program, "layer")
        hidden = graph.input("embeddings", [1, tokens, self.config.hidden_size])
        graph.output("hidden", self._layers(graph, hidden, [stage]))
        graph.finish()

    def head(self, tokens: int) -> None:
        """The signature "head": embeddings float32 [1, tokens, hidden] -> logits float32 [1, tokens, vocabulary]"""
        graph = LitertGraph(self.program, "head")
        hidden = graph.input("embeddings", [1, tokens, self.config.hidden_size])
        graph.output("logits", self._head(graph, hidden))
        graph.finish()

    def _layers(self, graph: LitertGraph, hidden: LitertTensor, stages: Sequence[Stage]) -> LitertTensor:
        at = LitertContext(graph, self.weights, self.kv, positions(graph, self.config, self.kv, tokens=hidden.shape[1]))
        for stage in stages:
            hidden = lower(stage, TABLE, at, hidden)
        return hidden

    def _head(self, graph: LitertGraph, hidden: LitertTensor) -> LitertTensor:
        logits: LitertTensor = lower(head_stage(self.config), TABLE, LitertContext(graph, self.weights), hidden)
        return logits


@dataclass(frozen=True)
class VisionSignatures:
    """Adds the vision part's signatures to a program: one tile at a time."""

    program: LitertFile
    weights: LitertWeights
    config: VlmConfig

    def signatures(self) -> None:
        """patch_embedding: pixel_values float32 [1, 3, tile, tile] -> patches float32 [1, patches, width];
        image_tokens: patches -> image_embeds float32 [1, tokens, hidden]"""
        stages, vision = stages_of(self.config), self.config.vision
        assert vision is not None
        assert stages.patch_embedding is not None
        pixels = ("pixel_values", [1, 3, vision.image_size, vision.image_size])
        self._add("patch_embedding", [stages.patch_embedding], pixels, "patches")
        self._add("image_tokens", stages.encoder, ("patches", [1, *vision.stream(0)]), "image_embeds")

    def stage(self, stage: Stage, shape: Sequence[int]) -> None:
        """The signature "stage": one of the vision part's stages alone, ``shape`` enters -> stream."""
        self._add("stage", [stage], ("stream", shape), "leaves")

    def _add(self, name: str, stages: Sequence[Stage], taken: tuple[str, Sequence[int]], given: str) -> None:
        graph = LitertGraph(self.program, name)
        stream, at = graph.input(*taken), LitertContext(graph, self.weights)
        for stage in stages:
            stream = lower(stage, TABLE, at, stream)
        graph.output(given, stream)
        graph.finish()
