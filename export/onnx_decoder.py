"""The decoder as ONNX graphs: token embedding, and one text decoder for prefill and decode alike.

Names of inputs and outputs are ONNX Runtime GenAI's. The residual stream of each layer has a fixed name
(``layers.N.input``), so that the checks can cut a layer out of the finished graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from pocketvlm.export.graph import MICROSOFT, GraphBuilder
from pocketvlm.export.linear import linear
from pocketvlm.export.weights import GroupedWeight, WeightStore
from pocketvlm.models.config import DecoderConfig
from pocketvlm.models.decoder import rope_tables

#: Largest |key| and |value| of a layer, asked for when the layers before it and its projections are stored.
KvRanges = Callable[[int], tuple[float, float]]


@dataclass(frozen=True)
class KvLayout:
    """The KV cache of a text decoder; ``ranges`` for an INT8 one."""

    length: int
    dtype: str
    ranges: KvRanges | None = None


def hidden_name(layer: int, layers: int) -> str:
    """Name of the residual stream that enters ``layer``; ``layers`` itself is what enters the last norm."""
    return f"layers.{layer}.input" if layer < layers else "norm.input"


def build_token_embedding(store: WeightStore, config: DecoderConfig) -> ir.Model:
    """input_ids int64 [batch, sequence] -> inputs_embeds float32 [batch, sequence, hidden]"""
    graph = GraphBuilder("token_embedding")
    token_ids = graph.input("input_ids", "int64", ["batch", "sequence"])
    table = store.table("model.embed_tokens.weight")
    if isinstance(table, GroupedWeight):
        zero_points = table.zero_points
        embeddings = graph.op(
            "GatherBlockQuantized",
            _flat_codes(graph, table),
            token_ids,
            graph.weight(f"{table.name}.scales", table.scales),
            *([] if zero_points is None else [graph.weight(f"{table.name}.zero_points", zero_points)]),
            domain=MICROSOFT,
            bits=table.bits,
            block_size=table.group_size,
            gather_axis=0,
            quantize_axis=1,
        )
        if table.columns % table.group_size:
            embeddings = _first_columns(graph, embeddings, table.columns)
    else:
        embeddings = graph.op("Gather", graph.float_weight(table), token_ids, axis=0)
    if config.scale_emb != 1.0:
        embeddings = graph.op("Mul", embeddings, graph.constant("scale_emb", np.array(config.scale_emb, np.float32)))
    graph.output(embeddings, "inputs_embeds", "float32", ["batch", "sequence", config.hidden_size])
    return graph.model()


def build_text_decoder(store: WeightStore, config: DecoderConfig, kv: KvLayout) -> ir.Model:
    """inputs_embeds, attention_mask, past_key_values.* -> logits, present.*

    ``logits_to_keep`` (optional input) is the number of last positions whose logits are wanted; 0, the default, is all:
    the meaning it has in transformers, and what ONNX Runtime GenAI expects of a graph.
    """
    graph = GraphBuilder("text_decoder")
    hidden = graph.input("inputs_embeds", "float32", [1, "sequence", config.hidden_size])
    shared = _shared_values(graph, config, kv)
    hidden = graph.op("Identity", hidden, name=hidden_name(0, config.num_hidden_layers))
    for layer in range(config.num_hidden_layers):
        attended = _attention(graph, store, config, kv, layer, hidden, shared)
        hidden = _mlp(graph, store, config, layer, hidden, attended)
    logits = _head(graph, store, config, hidden)
    graph.output(logits, "logits", "float32", [1, "kept", config.vocab_size])
    return graph.model()


@dataclass(frozen=True)
class _Shared:
    """Values that every layer's attention reads."""

    last_position: ir.Value
    total_length: ir.Value
    cos: ir.Value
    sin: ir.Value


def _shared_values(graph: GraphBuilder, config: DecoderConfig, kv: KvLayout) -> _Shared:
    mask = graph.input("attention_mask", "int64", [1, "total"])
    count = graph.op("ReduceSum", mask, graph.constant("axis_1", np.array([1], np.int64)), keepdims=0)
    last = graph.op("Sub", count, graph.constant("one", np.array([1], np.int64)))
    total = graph.op("Gather", graph.op("Shape", mask), graph.constant("index_1", np.array(1, np.int64)), axis=0)
    cos, sin = rope_tables(config, torch.arange(kv.length))
    return _Shared(
        graph.op("Cast", last, to=ir.DataType.INT32, name="last_position", dtype="int32"),
        graph.op("Cast", total, to=ir.DataType.INT32, name="total_length", dtype="int32"),
        graph.constant("rope.cos", cos.numpy()),
        graph.constant("rope.sin", sin.numpy()),
    )


def _attention(
    graph: GraphBuilder,
    store: WeightStore,
    config: DecoderConfig,
    kv: KvLayout,
    layer: int,
    hidden: ir.Value,
    shared: _Shared,
) -> ir.Value:
    """The attention block's output, before it is added to the residual stream."""
    prefix = f"model.layers.{layer}."
    norm = graph.float_weight(store.vector(f"{prefix}input_layernorm.weight"))
    normed = graph.op("SimplifiedLayerNormalization", hidden, norm, axis=-1, epsilon=config.rms_norm_eps, stash_type=1)
    query, key, value = (
        linear(
            graph,
            normed,
            store.linear(f"{prefix}self_attn.{part}_proj.weight"),
            store.optional_vector(f"{prefix}self_attn.{part}_proj.bias"),
        )
        for part in ("q", "k", "v")
    )
    shape = [1, config.num_key_value_heads, kv.length, config.head_dim]
    past = [graph.input(f"past_key_values.{layer}.{part}", kv.dtype, shape) for part in ("key", "value")]
    inputs: list[ir.Value | None] = [
        query,
        key,
        value,
        *past,
        shared.last_position,
        shared.total_length,
        shared.cos,
        shared.sin,
    ]
    quantization = {}
    if kv.ranges is not None:
        # position_ids, attention_bias and head_sink are not used; the scales come after them.
        inputs += [None, None, None, *_kv_scales(graph, layer, kv.ranges(layer))]
        quantization = {"k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR", "kv_cache_bit_width": 8}
    mixed, *present = graph.ops(
        "GroupQueryAttention",
        *inputs,
        names=[None, None, None],
        domain=MICROSOFT,
        num_heads=config.num_attention_heads,
        kv_num_heads=config.num_key_value_heads,
        scale=1.0 / math.sqrt(config.head_dim),
        do_rotary=1,
        **quantization,
    )
    for part, state in zip(("key", "value"), present, strict=True):
        graph.output(state, f"present.{layer}.{part}", kv.dtype, shape)
    return linear(
        graph,
        mixed,
        store.linear(f"{prefix}self_attn.o_proj.weight", config.residual_scale),
        store.optional_vector(f"{prefix}self_attn.o_proj.bias", config.residual_scale),
    )


def _kv_scales(graph: GraphBuilder, layer: int, ranges: tuple[float, float]) -> list[ir.Value]:
    return [
        graph.constant(f"kv_scale.{layer}.{part}", np.array([largest / 127], np.float32))
        for part, largest in zip(("key", "value"), ranges, strict=True)
    ]


def _mlp(
    graph: GraphBuilder, store: WeightStore, config: DecoderConfig, layer: int, hidden: ir.Value, attended: ir.Value
) -> ir.Value:
    """Add the attention block's output, then the MLP's; gives the next layer's residual stream."""
    prefix = f"model.layers.{layer}."
    norm = graph.float_weight(store.vector(f"{prefix}post_attention_layernorm.weight"))
    normed, _, _, hidden = graph.ops(
        "SkipSimplifiedLayerNormalization",
        attended,
        hidden,
        norm,
        names=[None, "", "", None],
        domain=MICROSOFT,
        epsilon=config.rms_norm_eps,
    )
    gate = linear(graph, normed, store.linear(f"{prefix}mlp.gate_proj.weight"))
    up = linear(graph, normed, store.linear(f"{prefix}mlp.up_proj.weight"))
    # x * sigmoid(alpha * x) with alpha = 1 is SiLU
    activated = graph.op("Mul", graph.op("QuickGelu", gate, domain=MICROSOFT, alpha=1.0), up)
    output = linear(graph, activated, store.linear(f"{prefix}mlp.down_proj.weight", config.residual_scale))
    return graph.op("Add", hidden, output, name=hidden_name(layer + 1, config.num_hidden_layers))


def _head(graph: GraphBuilder, store: WeightStore, config: DecoderConfig, hidden: ir.Value) -> ir.Value:
    keep = graph.default_input("logits_to_keep", np.array([0], np.int64))
    # the slice [-keep:]; keep = 0 starts at 0 and so takes all
    hidden = graph.op(
        "Slice",
        hidden,
        graph.op("Neg", keep),
        graph.constant("end", np.array([np.iinfo(np.int64).max], np.int64)),
        graph.constant("axis_1", np.array([1], np.int64)),
    )
    norm = graph.float_weight(store.vector("model.norm.weight", config.logits_scale))
    normed = graph.op("SimplifiedLayerNormalization", hidden, norm, axis=-1, epsilon=config.rms_norm_eps, stash_type=1)
    if not config.tie_word_embeddings:
        return linear(graph, normed, store.linear("lm_head.weight"))
    table = store.table("model.embed_tokens.weight")
    if isinstance(table, GroupedWeight):
        return linear(graph, normed, table)
    transposed = graph.op("Transpose", graph.float_weight(table), perm=[1, 0])
    return graph.op("MatMul", normed, transposed)


def _flat_codes(graph: GraphBuilder, table: GroupedWeight) -> ir.Value:
    """The codes as GatherBlockQuantized takes them: the same bytes that MatMulNBits reads, in two dimensions."""
    rows, groups, packed = table.codes.shape
    region = type(table.codes)(
        table.codes.file, table.codes.offset, table.codes.length, table.codes.dtype, (rows, groups * packed)
    )
    return graph.weight(f"{table.name}.codes", region)


def _first_columns(graph: GraphBuilder, embeddings: ir.Value, columns: int) -> ir.Value:
    """Cut the padding of the last group off."""
    start, end, axis = (
        graph.constant(f"columns_{name}", np.array([value], np.int64))
        for name, value in (("start", 0), ("end", columns), ("axis", 2))
    )
    return graph.op("Slice", embeddings, start, end, axis)
