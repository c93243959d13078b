"""The decoder as ONNX graphs: token embedding, and one text decoder for prefill and decode alike.

Names of inputs and outputs are ONNX Runtime GenAI's. The residual stream of each layer has a fixed name
(``layers.N.input``), so that the checks can cut a layer out of the finished graph.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from pocketvlm.export.onnx import attention as onnx_attention
from pocketvlm.export.onnx.graph import MICROSOFT, OPSET, GraphBuilder
from pocketvlm.export.onnx.linear import linear
from pocketvlm.export.store.kv_layout import KvLayout
from pocketvlm.export.store.weights import GroupedWeight, WeightStore
from pocketvlm.models.config import DecoderConfig


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
    graph = GraphBuilder("text_decoder", OPSET if kv.ranges is None else onnx_attention.OPSET)
    hidden = graph.input("inputs_embeds", "float32", [1, "sequence", config.hidden_size])
    at = onnx_attention.positions(graph, hidden, config, kv)
    hidden = graph.op("Identity", hidden, name=hidden_name(0, config.num_hidden_layers))
    for layer in range(config.num_hidden_layers):
        attended = _attention(graph, store, config, kv, layer, hidden, at)
        hidden = _mlp(graph, store, config, layer, hidden, attended)
    logits = _head(graph, store, config, hidden)
    graph.output(logits, "logits", "float32", [1, "kept", config.vocab_size])
    return graph.model()


def _attention(
    graph: GraphBuilder,
    store: WeightStore,
    config: DecoderConfig,
    kv: KvLayout,
    layer: int,
    hidden: ir.Value,
    at: onnx_attention.Positions,
) -> ir.Value:
    """The attention block's output, before it is added to the residual stream."""
    prefix = f"model.layers.{layer}."
    norm = graph.float_weight(store.vector(f"{prefix}input_layernorm.weight"))
    normed = graph.op("SimplifiedLayerNormalization", hidden, norm, axis=-1, epsilon=config.rms_norm_eps, stash_type=1)
    projected = [
        linear(
            graph,
            normed,
            store.linear(f"{prefix}self_attn.{part}_proj.weight"),
            store.optional_vector(f"{prefix}self_attn.{part}_proj.bias"),
        )
        for part in ("q", "k", "v")
    ]
    mixed = onnx_attention.attend(graph, config, kv, layer, projected, at)
    return linear(
        graph,
        mixed,
        store.linear(f"{prefix}self_attn.o_proj.weight", config.residual_scale),
        store.optional_vector(f"{prefix}self_attn.o_proj.bias", config.residual_scale),
    )


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
