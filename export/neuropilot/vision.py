"""The vision part behind patch embedding as one static graph of the NPU's program, for some tiles at once."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from pocketvlm.export.neuropilot import program
from pocketvlm.export.neuropilot.graph import NpuGraph, Rounded
from pocketvlm.export.neuropilot.rounding import Scales
from pocketvlm.export.store.weights import WeightStore
from pocketvlm.models.config import VisionConfig, VlmConfig


def build_vision(name: str, store: WeightStore, config: VlmConfig, scales: Scales, tiles: int) -> ir.Model:
    """patches float32 [tiles, patches, width] -> image_embeds float32 [tiles, tokens per tile, hidden]"""
    vision = config.vision
    assert vision is not None
    graph = NpuGraph(name, store, scales)
    builder = graph.builder
    patches = builder.input("patches", "float32", [tiles, vision.grid_size**2, vision.hidden_size])
    stream = graph.rounded(program.PATCHES, patches)
    for layer in range(vision.num_hidden_layers):
        stream = _layer(graph, vision, program.vision_prefix(layer), stream)
    tokens = graph.floats(_tail(graph, config, stream, tiles))
    builder.output(tokens, "image_embeds", "float32", [tiles, config.tokens_per_tile, config.text.hidden_size])
    return builder.model()


def _layer(graph: NpuGraph, config: VisionConfig, name: str, stream: Rounded) -> Rounded:
    op, heads, size = graph.builder.op, config.num_attention_heads, config.head_dim
    normed = _layer_norm(graph, config, f"{name}layer_norm1", stream)

    def projected(part: str, factor: float = 1.0, order: tuple[int, ...] = (0, 2, 1, 3)) -> Rounded:
        weight = f"{name}self_attn.{part}_proj.weight"
        rows = graph.rounded(f"{name}self_attn.{part}", graph.linear(weight, normed, factor))
        # [tiles, patches, width] -> [tiles, patches, heads, size] -> [tiles, heads, patches, size], or turned
        split = graph.reshape(rows.codes, 0, 0, heads, size)
        return Rounded(op("Transpose", split, perm=list(order)), rows.scale)

    query, turned, value = projected("q", 1 / math.sqrt(size)), projected("k", order=(0, 2, 3, 1)), projected("v")
    scores = graph.rounded(f"{name}self_attn.scores", graph.matmul(query, turned))
    shares = graph.probabilities(graph.softmax(graph.floats(scores)))
    mixed = graph.rounded(f"{name}self_attn.mixed", graph.matmul(shares, value))
    # [tiles, heads, patches, size] -> [tiles, patches, heads, size] -> [tiles, patches, width]
    codes = graph.reshape(op("Transpose", mixed.codes, perm=[0, 2, 1, 3]), 0, 0, -1)
    attended = graph.linear(f"{name}self_attn.out_proj.weight", Rounded(codes, mixed.scale))
    attended = graph.floats(graph.rounded(f"{name}self_attn.output", attended))
    stream = graph.rounded(f"{name}attention.sum", op("Add", graph.floats(stream), attended))
    normed = _layer_norm(graph, config, f"{name}layer_norm2", stream)
    inner = graph.rounded(f"{name}mlp.inner", graph.linear(f"{name}mlp.fc1.weight", normed))
    approximate = "tanh" if config.hidden_act == "gelu_pytorch_tanh" else "none"
    activated = graph.rounded(f"{name}mlp.activated", op("Gelu", graph.floats(inner), approximate=approximate))
    output = graph.rounded(f"{name}mlp.output", graph.linear(f"{name}mlp.fc2.weight", activated))
    return graph.rounded(f"{name}sum", op("Add", graph.floats(stream), graph.floats(output)))


def _tail(graph: NpuGraph, config: VlmConfig, stream: Rounded, tiles: int) -> Rounded:
    assert config.vision is not None
    op, tokens = graph.builder.op, _layer_norm(graph, config.vision, "vision_tower.post_layernorm", stream)
    blocks = Rounded(_blocks(graph, config, tokens.codes, tiles), tokens.scale)
    merged = graph.rounded("downsampler", graph.linear("downsampler.linear.weight", blocks))
    inner = graph.rounded("projector.inner", graph.linear("projector.linear_1.weight", merged))
    activated = graph.rounded("projector.activated", op("Gelu", graph.floats(inner), approximate="none"))
    return graph.rounded("projector.output", graph.linear("projector.linear_2.weight", activated))


def _blocks(graph: NpuGraph, config: VlmConfig, tokens: ir.Value, tiles: int) -> ir.Value:
    """As ``npu_program.blocks_of``."""
    assert config.vision is not None
    grid, width, ratio = config.vision.grid_size, config.vision.hidden_size, config.downsample_ratio
    padding = -grid % ratio
    side = (grid + padding) // ratio
    rows = graph.reshape(tokens, tiles, grid, grid, width)  # [tiles, patches, width] -> [tiles, rows, columns, width]
    if padding:
        for axis, shape in ((1, [tiles, padding, grid, width]), (2, [tiles, grid + padding, padding, width])):
            zeros = graph.constant(f"grid_padding_{axis}", np.zeros(shape, np.int16))
            rows = graph.builder.op("Concat", rows, zeros, axis=axis)
    # -> [tiles * side, ratio, side, ratio * width] -> [tiles * side, side, ratio, ratio * width]
    rows = graph.reshape(rows, tiles * side, ratio, side, ratio * width)
    rows = graph.builder.op("Transpose", rows, perm=[0, 2, 1, 3])
    return graph.reshape(rows, tiles, side * side, ratio * ratio * width)


def _layer_norm(graph: NpuGraph, config: VisionConfig, name: str, stream: Rounded) -> Rounded:
    weight, bias = graph.vector(f"{name}.weight"), graph.vector(f"{name}.bias")
    normed = graph.builder.op(
        "LayerNormalization", graph.floats(stream), weight, bias, axis=-1, epsilon=config.layer_norm_eps
    )
    return graph.rounded(f"{name}.normed", normed)
