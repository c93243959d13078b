"""Attention among the patches of a picture of native resolution in ONNX graphs.

Rows and columns turn queries and keys by rows that the graph is given, so that it need not know a picture's shape. A
window that lacks tiles is filled up with the first one, which a mask hides; each tile is then taken from its window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pocketvlm.export.onnx.graph import MICROSOFT, GraphBuilder
from pocketvlm.models.operators import AttendLearned, AttendPicture, PicturePlace
from pocketvlm.models.tower import VisionConfig

ROPE = ("rope_cos", "rope_sin")
ROWS = "position_rows"
KEY_ROWS = "key_rows"
WINDOWS = ("window_tiles", "window_mask", "window_positions")


@dataclass(frozen=True)
class PlaceInputs:
    """Inputs of a graph that say where patches stand; without windows three are none, without a resampler the last."""

    cos: ir.Value
    sin: ir.Value
    patches: int
    """of a tile"""
    window_tiles: ir.Value | None = None
    window_mask: ir.Value | None = None
    window_positions: ir.Value | None = None
    key_rows: ir.Value | None = None


def place_inputs(graph: GraphBuilder, config: VisionConfig) -> PlaceInputs:
    """Add them to a graph."""
    rows = config.rows
    cos, sin = (graph.input(name, "float32", ["tiles", rows, config.head_dim // 2]) for name in ROPE)
    if config.window is None:
        keys = None
        if config.query_width is not None:
            keys = graph.input(KEY_ROWS, "float32", ["tiles", rows, config.query_width])
        return PlaceInputs(cos, sin, rows, key_rows=keys)
    tiles = config.window**2
    return PlaceInputs(
        cos,
        sin,
        rows,
        graph.input("window_tiles", "int64", ["windows", tiles]),
        graph.input("window_mask", "int32", ["windows", tiles * rows]),
        graph.input("window_positions", "int64", ["tiles"]),
    )


def feeds(place: PicturePlace, *, windowed: bool, projecting: bool = False) -> dict[str, np.ndarray]:
    """What a stage's inputs are given: the patch embedding's, a layer's, or of a resampler (``projecting``)."""
    if projecting:
        return {} if place.key_rows is None else {KEY_ROWS: place.key_rows.numpy()}
    if place.rows is not None:
        return {ROWS: place.rows.numpy()}
    found = {name: table.numpy() for name, table in zip(ROPE, (place.cos, place.sin), strict=True)}
    if not windowed:
        return found
    assert place.window_tiles is not None and place.window_mask is not None and place.window_positions is not None
    mask = place.window_mask.numpy().astype(np.int32)
    values = (place.window_tiles.numpy(), mask, place.window_positions.numpy())
    return {**found, **dict(zip(WINDOWS, values, strict=True))}


def attend(
    graph: GraphBuilder, heads: AttendPicture, at: PlaceInputs, query: ir.Value, key: ir.Value, value: ir.Value
) -> ir.Value:
    """Query, key and value [tiles, patches, width] -> mixed values of that shape."""
    patches, width = heads.merged or at.patches, heads.heads * heads.head_dim
    # [tiles, patches, width] -> [1, tiles * patches, width]
    query, key, value = (graph.op("Reshape", states, graph.shape(1, -1, width)) for states in (query, key, value))
    if heads.merged is None:
        query, key = _turned(graph, at, heads.head_dim // 2, query, key)
    if heads.windowed:
        mixed = _in_windows(graph, heads, at, (query, key, value))
    else:
        mixed = graph.op("MultiHeadAttention", query, key, value, domain=MICROSOFT, num_heads=heads.heads)
    # -> [tiles, patches, width]
    return graph.op("Reshape", mixed, graph.shape(-1, patches, width))


def _turned(graph: GraphBuilder, at: PlaceInputs, pairs: int, *states: ir.Value) -> list[ir.Value]:
    """[1, tiles * patches, width] each, turned by row and column."""
    first = graph.constant("first_row", np.array([0], np.int64))
    # [tiles, patches, pairs] -> [tiles * patches, pairs]
    cos, sin = graph.once(
        "rope rows", lambda: tuple(graph.op("Reshape", table, graph.shape(-1, pairs)) for table in (at.cos, at.sin))
    )
    return [graph.op("RotaryEmbedding", one, first, cos, sin, domain=MICROSOFT) for one in states]


def attend_learned(
    graph: GraphBuilder, heads: AttendLearned, query: ir.Value, key: ir.Value, value: ir.Value
) -> ir.Value:
    """Query [queries, width], key and value [tiles, 1, width] -> mixed values [queries, 1, width]."""
    width = heads.heads * heads.head_dim
    # -> [1, queries, width] and [1, tiles, width]
    query, key, value = (graph.op("Reshape", states, graph.shape(1, -1, width)) for states in (query, key, value))
    mixed = graph.op("MultiHeadAttention", query, key, value, domain=MICROSOFT, num_heads=heads.heads)
    # -> [queries, 1, width]
    return graph.op("Reshape", mixed, graph.shape(heads.queries, 1, width))


def _in_windows(graph: GraphBuilder, heads: AttendPicture, at: PlaceInputs, states: tuple[ir.Value, ...]) -> ir.Value:
    """[1, rows, width] each -> [tiles, patches * width]"""
    width = heads.heads * heads.head_dim
    cut = []
    for one in states:
        # [1, rows, width] -> [tiles, patches * width] -> [windows, tiles of a window, patches * width]
        tiles = graph.op("Reshape", one, graph.shape(-1, at.patches * width))
        tiles = graph.op("Gather", tiles, at.window_tiles, axis=0)
        # -> [windows, rows of a window, width]
        cut.append(graph.op("Reshape", tiles, graph.shape(0, -1, width)))
    mixed = graph.op("MultiHeadAttention", *cut, None, at.window_mask, domain=MICROSOFT, num_heads=heads.heads)
    # -> [windows * tiles of a window, patches * width] -> [tiles, patches * width]
    mixed = graph.op("Reshape", mixed, graph.shape(-1, at.patches * width))
    return graph.op("Gather", mixed, at.window_positions, axis=0)
