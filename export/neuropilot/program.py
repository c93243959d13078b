"""The model as an NPU runs it: static shapes, every value between two operators rounded to INT16, in PyTorch.

One description for three readers, which differ in what they make of ``Operations``: calibration looks at the largest
magnitude of each value, the check computes with the rounded ones, and MediaTek's flow gets them as operators that
quantize and dequantize. Roundings stand where MediaTek's quantizer puts them (``backends/mediatek/quantizer`` of
ExecuTorch 1.5): after each linear layer, matrix product, sum, product, norm and activation function, and on each float
input; what only moves values (reshape, concatenate, negate) has none. Two are ours: softmax, which that quantizer
leaves open, has TFLite's fixed INT16 scale, and keys and values become INT8 on their way into the cache.

The cache is that of MediaTek's runner (``examples/mediatek``): [1, KV heads, length, head size] a layer, the newest
token in the last row, empty rows in front; a step appends its rows at the end and drops as many in front.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from pocketvlm.models.config import DecoderConfig, VisionConfig, VlmConfig

#: What hides a row of the cache is added to its score; MediaTek's runner adds this.
MASK_VALUE = -100.0
#: Names of values that have one range in every layer.
HIDDEN_INPUT, MASK, ROPE, PATCHES = "decoder.input", "decoder.mask", "decoder.rope", "vision.input"


class Operations(Protocol):
    """What the program is computed with. ``name`` is of a value, or of a weight in the checkpoint."""

    def rounded(self, name: str, values: Tensor) -> Tensor:
        """Values of any shape as INT16 with the scale of ``name``."""

    def probabilities(self, values: Tensor) -> Tensor:
        """Values from 0 to 1 as INT16 in steps of 2 ** -15."""

    def linear(self, name: str, hidden: Tensor, factor: float = 1.0) -> Tensor:
        """[..., columns] times a quantized [rows, columns] weight, plus its bias if it has one; times ``factor``."""

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        """[..., n, k] x [..., k, m] of rounded values."""

    def vector(self, name: str, factor: float = 1.0) -> Tensor:
        """A float32 weight, times ``factor``."""

    def cached(self, name: str, values: Tensor) -> Tensor:
        """Keys or values as the INT8 codes of the cache ``name``."""

    def known(self, name: str, codes: Tensor) -> Tensor:
        """What such codes stand for."""


def layer_prefix(layer: int) -> str:
    """Begins the names of a decoder layer's weights and values."""
    return f"model.layers.{layer}."


def decoder_layers(
    operations: Operations,
    config: DecoderConfig,
    layers: range,
    inputs: tuple[Tensor, Tensor, Tensor],
    cache: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    """Some layers: the residual stream, and the cache with this step's rows: all keys, then all values.

    ``inputs``: hidden [1, tokens, hidden], mask [1, 1, tokens, length + tokens], and RoPE's cos and sin
    [1, 2, tokens, head size]. ``cache``: keys of all layers, then values, int8 [1, KV heads, length, head size].
    """
    hidden = operations.rounded(stream_name(layers.start), inputs[0])
    mask, rope = operations.rounded(MASK, inputs[1]), operations.rounded(ROPE, inputs[2])
    keys, values = [], []
    for at, layer in enumerate(layers):
        past = cache[at], cache[len(layers) + at]
        attended, key, value = _attention(operations, config, layer, hidden, (mask, rope), past)
        name = layer_prefix(layer)
        hidden = operations.rounded(f"{name}attention.sum", hidden + attended)
        hidden = operations.rounded(stream_name(layer + 1), hidden + _mlp(operations, config, name, hidden))
        keys.append(key)
        values.append(value)
    return hidden, *keys, *values


def stream_name(layer: int) -> str:
    """The residual stream that enters a decoder layer."""
    return HIDDEN_INPUT if layer == 0 else f"{layer_prefix(layer - 1)}sum"


def decoder_tail(operations: Operations, config: DecoderConfig, hidden: Tensor) -> Tensor:
    """The last norm and the head: [1, tokens, hidden] -> logits [1, tokens, vocabulary]"""
    normed = _rms_norm(operations, config, "model.norm", hidden, config.logits_scale)
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    return operations.rounded("logits", operations.linear(head, normed))


def _attention(
    operations: Operations,
    config: DecoderConfig,
    layer: int,
    hidden: Tensor,
    shared: tuple[Tensor, Tensor],
    past: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """What the block adds to the stream, and the layer's keys and values, int8."""
    mask, rope = shared
    name, tokens, size = f"{layer_prefix(layer)}self_attn.", hidden.shape[1], config.head_dim
    normed = _rms_norm(operations, config, f"{layer_prefix(layer)}input_layernorm", hidden)

    def projected(part: str, heads: int, factor: float = 1.0) -> Tensor:
        rows = operations.rounded(f"{name}{part}", operations.linear(f"{name}{part}_proj.weight", normed, factor))
        # [1, tokens, heads * size] -> [1, tokens, heads, size] -> [1, heads, tokens, size]
        return rows.view(1, tokens, heads, size).transpose(1, 2)

    # Scores are divided by the root of the head size: the query's weights are, when they are stored.
    query = projected("q", config.num_attention_heads, 1 / math.sqrt(size))
    query = _rotated(operations, f"{name}q", query, rope)
    key = _rotated(operations, f"{name}k", projected("k", config.num_key_value_heads), rope)
    value = projected("v", config.num_key_value_heads)
    key = torch.cat([past[0], operations.cached(f"{name}key", key)], dim=2)  # [1, KV heads, length + tokens, size]
    value = torch.cat([past[1], operations.cached(f"{name}value", value)], dim=2)
    # Heads that share keys are rows of one matrix: [1, heads, tokens, size] -> [1, KV heads, rows, size]
    query = query.reshape(1, config.num_key_value_heads, -1, size)
    scores = operations.matmul(query, operations.known(f"{name}key", key).transpose(2, 3))
    scores = operations.rounded(f"{name}scores", scores)
    # [1, KV heads, rows, length + tokens] -> [1, heads, tokens, length + tokens]
    scores = scores.view(1, config.num_attention_heads, tokens, -1)
    shares = operations.probabilities(F.softmax(operations.rounded(f"{name}masked", scores + mask), dim=-1))
    shares = shares.view(1, config.num_key_value_heads, -1, shares.shape[-1])  # as the query's rows
    mixed = operations.rounded(f"{name}mixed", operations.matmul(shares, operations.known(f"{name}value", value)))
    # [1, KV heads, rows, size] -> [1, heads, tokens, size] -> [1, tokens, heads * size]
    mixed = mixed.view(1, config.num_attention_heads, tokens, size).transpose(1, 2).reshape(1, tokens, -1)
    output = operations.linear(f"{name}o_proj.weight", mixed, config.residual_scale)
    return operations.rounded(f"{name}output", output), key[:, :, tokens:], value[:, :, tokens:]


def _rotated(operations: Operations, name: str, states: Tensor, rope: Tensor) -> Tensor:
    """RoPE on [1, heads, tokens, size]; the halves are pairs (Llama's layout)."""
    first, second = states.chunk(2, dim=-1)
    cos, sin = rope.split(1, dim=1)  # [1, 1, tokens, size] each
    turned = operations.rounded(f"{name}.turned", torch.cat([-second, first], dim=-1) * sin)
    return operations.rounded(f"{name}.rotated", operations.rounded(f"{name}.kept", states * cos) + turned)


def _mlp(operations: Operations, config: DecoderConfig, name: str, hidden: Tensor) -> Tensor:
    """What the MLP adds to the stream."""
    normed = _rms_norm(operations, config, f"{name}post_attention_layernorm", hidden)
    gate = operations.rounded(f"{name}mlp.gate", operations.linear(f"{name}mlp.gate_proj.weight", normed))
    up = operations.rounded(f"{name}mlp.up", operations.linear(f"{name}mlp.up_proj.weight", normed))
    activated = operations.rounded(f"{name}mlp.activated", F.silu(gate))
    inner = operations.rounded(f"{name}mlp.inner", activated * up)
    output = operations.linear(f"{name}mlp.down_proj.weight", inner, config.residual_scale)
    return operations.rounded(f"{name}mlp.output", output)


def _rms_norm(operations: Operations, config: DecoderConfig, name: str, hidden: Tensor, factor: float = 1.0) -> Tensor:
    """Two roundings, as MediaTek's pattern has it: after the division, and after the weight."""
    normed = hidden * torch.rsqrt((hidden * hidden).mean(-1, keepdim=True) + config.rms_norm_eps)
    normed = operations.rounded(f"{name}.normed", normed)
    return operations.rounded(f"{name}.scaled", operations.vector(f"{name}.weight", factor) * normed)


def vision_encoder(operations: Operations, config: VlmConfig, patches: Tensor) -> Tensor:
    """[tiles, patches, width] -> image tokens [tiles, tokens per tile, hidden]"""
    assert config.vision is not None
    hidden = operations.rounded(PATCHES, patches)
    for layer in range(config.vision.num_hidden_layers):
        hidden = vision_layer(operations, config.vision, layer, hidden)
    return vision_tail(operations, config, hidden)


def vision_layer(operations: Operations, config: VisionConfig, layer: int, hidden: Tensor) -> Tensor:
    """[tiles, patches, width] through one layer of the tower."""
    name, (tiles, patches, _) = vision_prefix(layer), hidden.shape
    normed = _layer_norm(operations, config, f"{name}layer_norm1", hidden)

    def projected(part: str, factor: float = 1.0) -> Tensor:
        weight = f"{name}self_attn.{part}_proj.weight"
        rows = operations.rounded(f"{name}self_attn.{part}", operations.linear(weight, normed, factor))
        # [tiles, patches, width] -> [tiles, heads, patches, head size]
        return rows.view(tiles, patches, config.num_attention_heads, config.head_dim).transpose(1, 2)

    query, key, value = projected("q", 1 / math.sqrt(config.head_dim)), projected("k"), projected("v")
    scores = operations.rounded(f"{name}self_attn.scores", operations.matmul(query, key.transpose(2, 3)))
    shares = operations.probabilities(F.softmax(scores, dim=-1))
    mixed = operations.rounded(f"{name}self_attn.mixed", operations.matmul(shares, value))
    # [tiles, heads, patches, head size] -> [tiles, patches, width]
    mixed = mixed.transpose(1, 2).reshape(tiles, patches, -1)
    attended = operations.linear(f"{name}self_attn.out_proj.weight", mixed)
    attended = operations.rounded(f"{name}self_attn.output", attended)
    hidden = operations.rounded(f"{name}attention.sum", hidden + attended)
    normed = _layer_norm(operations, config, f"{name}layer_norm2", hidden)
    inner = operations.rounded(f"{name}mlp.inner", operations.linear(f"{name}mlp.fc1.weight", normed))
    approximate = "tanh" if config.hidden_act == "gelu_pytorch_tanh" else "none"
    activated = operations.rounded(f"{name}mlp.activated", F.gelu(inner, approximate=approximate))
    output = operations.rounded(f"{name}mlp.output", operations.linear(f"{name}mlp.fc2.weight", activated))
    return operations.rounded(f"{name}sum", hidden + output)


def vision_prefix(layer: int) -> str:
    """Begins the names of a vision layer's weights and values."""
    return f"vision_tower.encoder.layers.{layer}."


def vision_tail(operations: Operations, config: VlmConfig, hidden: Tensor) -> Tensor:
    """The last norm, the downsampler, the projector: -> [tiles, tokens per tile, hidden]"""
    assert config.vision is not None
    tokens = _layer_norm(operations, config.vision, "vision_tower.post_layernorm", hidden)
    blocks = blocks_of(tokens, config.vision.grid_size, config.downsample_ratio)
    merged = operations.rounded("downsampler", operations.linear("downsampler.linear.weight", blocks))
    inner = operations.rounded("projector.inner", operations.linear("projector.linear_1.weight", merged))
    activated = operations.rounded("projector.activated", F.gelu(inner))
    return operations.rounded("projector.output", operations.linear("projector.linear_2.weight", activated))


def blocks_of(tokens: Tensor, grid: int, ratio: int) -> Tensor:
    """As ``pocketvlm.models.siglip.space_to_depth``, in at most four dimensions, which is what NPUs move about."""
    tiles, _, width = tokens.shape
    padding = -grid % ratio
    side = (grid + padding) // ratio
    tokens = F.pad(tokens.view(tiles, grid, grid, width), (0, 0, 0, padding, 0, padding))
    # [tiles, rows, columns, width] -> [tiles * side, ratio, side, ratio * width] -> [.., side, ratio, ratio * width]
    blocks = tokens.reshape(tiles * side, ratio, side, ratio * width).transpose(1, 2)
    return blocks.reshape(tiles, side * side, ratio * ratio * width)


def _layer_norm(operations: Operations, config: VisionConfig, name: str, hidden: Tensor) -> Tensor:
    weight, bias = operations.vector(f"{name}.weight"), operations.vector(f"{name}.bias")
    normed = F.layer_norm(hidden, (config.hidden_size,), weight, bias, config.layer_norm_eps)
    return operations.rounded(f"{name}.normed", normed)
