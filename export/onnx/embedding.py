"""The embedding table as an ONNX graph: token ids in, embeddings out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from pocketvlm.export.onnx.graph import MICROSOFT, GraphBuilder
from pocketvlm.export.store.weights import GroupedWeight, StoredWeight, WeightStore
from pocketvlm.models.config import DecoderConfig
from pocketvlm.models.names import EMBEDDING_TABLE, ROWS_TABLE


def token_embedding(store: WeightStore, config: DecoderConfig) -> ir.Model:
    """input_ids int64 [batch, sequence] -> inputs_embeds float32 [batch, sequence, hidden and rows beside it]"""
    graph = GraphBuilder("token_embedding")
    token_ids = graph.input("input_ids", "int64", ["batch", "sequence"])
    embeddings = _rows_of(graph, store.table(EMBEDDING_TABLE), token_ids, config.embedding_scale, "scale_emb")
    if config.rows_width:
        beside = _rows_of(graph, store.table(ROWS_TABLE), token_ids, config.rows_scale, "scale_rows")
        embeddings = graph.op("Concat", embeddings, beside, axis=2)
    width = config.hidden_size + config.rows_width
    graph.output(embeddings, "inputs_embeds", "float32", ["batch", "sequence", width])
    return graph.model()


def _rows_of(graph: GraphBuilder, table: StoredWeight, token_ids: ir.Value, factor: float, scale: str) -> ir.Value:
    """A table's rows [batch, sequence, columns] times a factor, whose constant is called ``scale``."""
    if isinstance(table, GroupedWeight):
        zero_points = table.zero_points
        rows = graph.op(
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
            rows = _first_columns(graph, rows, table.columns)
    else:
        rows = graph.op("Gather", graph.float_weight(table), token_ids, axis=0)
    if factor == 1.0:
        return rows
    return graph.op("Mul", rows, graph.constant(scale, np.array(factor, np.float32)))


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
        for name, value in (("start", 0), (f"end_{columns}", columns), ("axis", 2))
    )
    return graph.op("Slice", embeddings, start, end, axis)
