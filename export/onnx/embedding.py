"""The embedding table as an ONNX graph: token ids in, embeddings out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from pocketvlm.export.onnx.graph import MICROSOFT, GraphBuilder
from pocketvlm.export.store.weights import GroupedWeight, WeightStore
from pocketvlm.models.config import DecoderConfig
from pocketvlm.models.shapes import EMBEDDING_TABLE


def token_embedding(store: WeightStore, config: DecoderConfig) -> ir.Model:
    """input_ids int64 [batch, sequence] -> inputs_embeds float32 [batch, sequence, hidden]"""
    graph = GraphBuilder("token_embedding")
    token_ids = graph.input("input_ids", "int64", ["batch", "sequence"])
    table = store.table(EMBEDDING_TABLE)
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
    if config.embedding_scale != 1.0:
        embeddings = graph.op(
            "Mul", embeddings, graph.constant("scale_emb", np.array(config.embedding_scale, np.float32))
        )
    graph.output(embeddings, "inputs_embeds", "float32", ["batch", "sequence", config.hidden_size])
    return graph.model()


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
