"""The NPU's program as static ONNX graphs, whatever they are computed with: their inputs, outputs and names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pocketvlm.export.npu.operators import NpuArithmetic
from pocketvlm.export.npu.program import decoder_head, decoder_layers, vision_encoder

if TYPE_CHECKING:
    import onnx_ir as ir

    from pocketvlm.export.onnx.graph import GraphBuilder
    from pocketvlm.models.config import DecoderConfig, VlmConfig


class GraphArithmetic(NpuArithmetic, Protocol):
    """Arithmetic whose operations are nodes of one graph."""

    @property
    def builder(self) -> GraphBuilder:
        """Of the graph."""

    def floats(self, value: Any) -> ir.Value:
        """What a value stands for, as an output of the graph."""


@dataclass(frozen=True)
class StepShape:
    """The shape of a decoder graph: tokens of a step, rows of the cache."""

    tokens: int
    length: int


def decoder_graph(graph: GraphArithmetic, config: DecoderConfig, layers: range, step: StepShape) -> ir.Model:
    """hidden, mask, rope, past_key.*, past_value.* -> hidden or logits, present_key.*, present_value.*

    The last layers come with the head.
    """
    tokens, width = step.tokens, step.length + step.tokens
    builder, shape = graph.builder, [1, config.num_key_value_heads, step.length, config.head_dim]
    inputs = (
        builder.input("hidden", "float32", [1, tokens, config.hidden_size]),
        builder.input("mask", "float32", [1, 1, tokens, width]),
        builder.input("rope", "float32", [1, 2, tokens, config.head_dim]),
    )
    past = [builder.input(f"past_{part}.{at}", "int8", shape) for part in ("key", "value") for at in layers]
    stream, *present = decoder_layers(graph, config, layers, inputs, past, (tokens, step.length))
    if layers.stop == config.num_hidden_layers:
        logits = decoder_head(graph, config, stream)
        builder.output(graph.floats(logits), "logits", "float32", [1, tokens, config.vocab_size])
    else:
        builder.output(graph.floats(stream), "next_hidden", "float32", [1, tokens, config.hidden_size])
    names = [f"present_{part}.{layer}" for part in ("key", "value") for layer in layers]
    for output, extended in zip(names, present, strict=True):
        builder.output(extended, output, "int8", shape)
    return builder.model()


def vision_graph(graph: GraphArithmetic, config: VlmConfig, tiles: int) -> ir.Model:
    """patches float32 [tiles, patches, width] -> image_embeds float32 [tiles, tokens per tile, hidden]"""
    assert config.vision is not None
    patches = graph.builder.input("patches", "float32", [tiles, config.vision.rows, config.vision.hidden_size])
    tokens = graph.floats(vision_encoder(graph, config, patches, tiles))
    graph.builder.output(tokens, "image_embeds", "float32", [tiles, config.tokens_per_tile, config.text.hidden_size])
    return graph.builder.model()
