"""The vision part as two ONNX graphs: patch embedding (CPU on a phone) and everything behind it (NPU)."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from pocketvlm.export.onnx.graph import MICROSOFT, GraphBuilder
from pocketvlm.export.onnx.linear import linear
from pocketvlm.export.store.weights import WeightStore
from pocketvlm.models.config import VisionConfig, VlmConfig


def hidden_name(layer: int) -> str:
    """Name of the residual stream that enters ``layer``."""
    return f"vision.layers.{layer}.input"


def build_patch_embedding(store: WeightStore, config: VisionConfig) -> ir.Model:
    """pixel_values float32 [tiles, 3, size, size] -> patches float32 [tiles, patches, width]"""
    graph = GraphBuilder("patch_embedding")
    size, prefix = config.image_size, "vision_tower.embeddings."
    pixels = graph.input("pixel_values", "float32", ["tiles", 3, size, size])
    convolved = graph.op(
        "Conv",
        pixels,
        graph.float_weight(store.vector(f"{prefix}patch_embedding.weight")),
        graph.float_weight(store.vector(f"{prefix}patch_embedding.bias")),
        kernel_shape=[config.patch_size] * 2,
        strides=[config.patch_size] * 2,
    )
    # [tiles, width, grid, grid] -> [tiles, width, patches] -> [tiles, patches, width]
    flat = graph.op("Reshape", convolved, _shape(graph, 0, config.hidden_size, -1))
    patches = graph.op("Transpose", flat, perm=[0, 2, 1])
    positions = graph.float_weight(store.vector(f"{prefix}position_embedding.weight"))
    patches = graph.op("Add", patches, positions)
    graph.output(patches, "patches", "float32", ["tiles", config.grid_size**2, config.hidden_size])
    return graph.model()


def build_vision_encoder(store: WeightStore, config: VlmConfig) -> ir.Model:
    """patches float32 [tiles, patches, width] -> image_embeds float32 [tiles, tokens per tile, hidden]"""
    vision = config.vision
    assert vision is not None
    graph = GraphBuilder("vision_encoder")
    hidden = graph.input("patches", "float32", ["tiles", vision.grid_size**2, vision.hidden_size])
    for layer in range(vision.num_hidden_layers):
        hidden = _layer(graph, store, vision, layer, hidden)
    tokens = _norm(graph, store, vision, "vision_tower.post_layernorm", hidden)
    with graph.named("projector"):
        blocks = _space_to_depth(graph, vision, config.downsample_ratio, tokens)
        merged = _linear(graph, store, "downsampler.linear", blocks)
        projected = graph.op("Gelu", _linear(graph, store, "projector.linear_1", merged), approximate="none")
        projected = _linear(graph, store, "projector.linear_2", projected)
    graph.output(projected, "image_embeds", "float32", ["tiles", config.tokens_per_tile, config.text.hidden_size])
    return graph.model()


def _layer(graph: GraphBuilder, store: WeightStore, config: VisionConfig, layer: int, hidden: ir.Value) -> ir.Value:
    prefix = f"vision_tower.encoder.layers.{layer}"
    normed = _norm(graph, store, config, f"{prefix}.layer_norm1", hidden)
    query, key, value = (_linear(graph, store, f"{prefix}.self_attn.{part}_proj", normed) for part in "qkv")
    mixed = graph.op("MultiHeadAttention", query, key, value, domain=MICROSOFT, num_heads=config.num_attention_heads)
    hidden = graph.op("Add", hidden, _linear(graph, store, f"{prefix}.self_attn.out_proj", mixed))
    normed = _norm(graph, store, config, f"{prefix}.layer_norm2", hidden)
    approximate = "tanh" if config.hidden_act == "gelu_pytorch_tanh" else "none"
    activated = graph.op("Gelu", _linear(graph, store, f"{prefix}.mlp.fc1", normed), approximate=approximate)
    return graph.op("Add", hidden, _linear(graph, store, f"{prefix}.mlp.fc2", activated), name=hidden_name(layer + 1))


def _linear(graph: GraphBuilder, store: WeightStore, name: str, hidden: ir.Value) -> ir.Value:
    return linear(graph, hidden, store.linear(f"{name}.weight", integers=True), store.vector(f"{name}.bias"))


def _norm(graph: GraphBuilder, store: WeightStore, config: VisionConfig, name: str, hidden: ir.Value) -> ir.Value:
    return graph.op(
        "LayerNormalization",
        hidden,
        graph.float_weight(store.vector(f"{name}.weight")),
        graph.float_weight(store.vector(f"{name}.bias")),
        axis=-1,
        epsilon=config.layer_norm_eps,
    )


def _space_to_depth(graph: GraphBuilder, config: VisionConfig, ratio: int, tokens: ir.Value) -> ir.Value:
    """As ``pocketvlm.models.siglip.space_to_depth``: pad an odd grid, concatenate ratio x ratio tokens."""
    grid, width = config.grid_size, config.hidden_size
    padding = -grid % ratio
    side = (grid + padding) // ratio
    tokens = graph.op("Reshape", tokens, _shape(graph, 0, grid, grid, width))  # [tiles, rows, columns, width]
    if padding:
        pads = graph.constant("grid_padding", np.array([0, 0, 0, 0, 0, padding, padding, 0], np.int64))
        tokens = graph.op("Pad", tokens, pads)
    # [tiles, side, ratio, side, ratio, width] -> [tiles, side, side, ratio, ratio, width]
    blocks = graph.op("Reshape", tokens, _shape(graph, 0, side, ratio, side, ratio, width))
    blocks = graph.op("Transpose", blocks, perm=[0, 1, 3, 2, 4, 5])
    return graph.op("Reshape", blocks, _shape(graph, 0, side * side, ratio * ratio * width))


def _shape(graph: GraphBuilder, *sizes: Any) -> ir.Value:
    """A constant target shape of Reshape; 0 copies the input's size."""
    return graph.constant("shape_" + "_".join(str(size) for size in sizes), np.array(sizes, np.int64))
