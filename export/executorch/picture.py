"""Pictures of native resolution in an ExecuTorch program: any number of tiles, which see one another.

XNNPACK takes shapes as they come, up to a bound, and so no bucket of sizes is filled up. It gathers nothing: where some
layers look at windows, the host puts a picture's tiles window by window (``pocketvlm.images.patches.Windows``) before
the first layer, so that a window is a piece of them, and takes their tokens from there behind the last. A window that
lacks tiles is filled up with the first one, which a mask hides from the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pocketvlm.export.executorch.attention import UNSEEN, rotated
from pocketvlm.export.executorch.xnnpack import Value, XnnpackGraph
from pocketvlm.images.patches import Floats, window_by_window
from pocketvlm.models.operators import Attend, AttendLearned, AttendPicture, Blocks, PicturePlace
from pocketvlm.models.tower import VisionConfig


@dataclass(frozen=True)
class PlaceValues:
    """What a graph is given of where patches stand.

    ``turns``: cos and sin, [tiles * patches, 1, head_dim / 2]. Added to scores: ``of_window``, [windows, 1, patches of
    a window], and ``of_all``, the same as [1, 1, tiles * patches]. ``rows``: [tiles * patches, width], of the patch
    embedding; ``key_rows`` the same of a resampler.
    """

    turns: Sequence[Value] = ()
    of_window: Value | None = None
    of_all: Value | None = None
    rows: Value | None = None
    key_rows: Value | None = None


def place_shapes(config: VisionConfig, tiles: int) -> list[list[int]]:
    """Of the inputs of a graph for at most so many tiles."""
    half = config.head_dim // 2
    found = [[tiles, config.rows, half] for _ in range(2)]
    if config.window is not None:
        found.append([tiles // config.window**2, config.window**2 * config.rows])
    if config.query_width is not None:
        found.append([tiles, config.rows, config.query_width])
    return found


def place_values(graph: XnnpackGraph, config: VisionConfig, tiles: int) -> PlaceValues:
    """Add these inputs to a graph."""
    cos, sin, *more = (graph.input(shape) for shape in place_shapes(config, tiles))
    half, count = config.head_dim // 2, tiles * config.rows
    # [tiles, patches, half] -> [tiles * patches, 1, half]
    turns = [graph.reshape(turn, [0, 1, half], [count, 1, half]) for turn in (cos, sin)]
    if config.query_width is not None:
        width = config.query_width
        # [tiles, 1, width] -> [tiles, width]
        return PlaceValues(turns, key_rows=graph.reshape(more[0], [0, width], [tiles, width]))
    if not more:
        return PlaceValues(turns)
    windows, rows = more[0].shape
    # 1 where there is a patch, else 0 -> 0, else UNSEEN
    added = graph.scaled(graph.subtract(more[0], graph.scalar(1.0)), -UNSEEN)
    of_window = graph.reshape(added, [0, 1, rows], [windows, 1, rows])
    return PlaceValues(turns, of_window, graph.reshape(added, [1, 1, 0], [1, 1, count]))


def attend(graph: XnnpackGraph, heads: AttendPicture, place: PlaceValues, states: tuple[Value, Value, Value]) -> Value:
    """Query, key and value [tiles * patches, width] -> mixed values of that shape.

    A head at a time: the scores of all heads of a large picture would be gigabytes.
    """
    query, key, value = states
    rows, size = query.shape[0], heads.head_dim
    if heads.merged is None:
        query, key = (rotated(graph, states, place.turns, size) for states in (query, key))
    mask = place.of_window if heads.windowed else place.of_all
    seen = rows // mask.shape[0] if heads.windowed and mask is not None else None
    return _mixed(graph, heads, (query, key, value), seen, mask)


def attend_tiles(graph: XnnpackGraph, heads: Attend, patches: int, states: tuple[Value, Value, Value]) -> Value:
    """The same, where those of one tile alone see one another."""
    return _mixed(graph, heads, states, patches, None)


def _mixed(
    graph: XnnpackGraph,
    heads: Attend | AttendPicture,
    states: tuple[Value, Value, Value],
    seen: int | None,
    mask: Value | None,
) -> Value:
    """``seen``: patches of a window, which stand one behind another; None: all are in one. ``mask`` is added."""
    (rows, width), size = states[0].shape, heads.head_dim
    query = graph.scaled(states[0], 1 / math.sqrt(size))
    # [tiles * patches, width] -> [windows, patches of a window, width]
    known = [1, 0, width] if seen is None else [0, seen, width]
    shape = [1, rows, width] if seen is None else [rows // seen, seen, width]
    query, key, value = (graph.reshape(one, known, shape) for one in (query, *states[1:]))
    mixed = []
    for head in range(heads.heads):
        asked, keys, values = (graph.slice(one, 2, head * size, size) for one in (query, key, value))
        scores = graph.matrix_product(asked, keys, transposed=True)
        shares = graph.softmax(scores if mask is None else graph.add(scores, mask))
        mixed.append(graph.matrix_product(shares, values))
    # [windows, patches of a window, width] -> [tiles * patches, width]
    return graph.reshape(graph.concatenate(mixed), [0, width], [rows, width])


def attend_learned(
    graph: XnnpackGraph, heads: AttendLearned, query: tuple[str, Floats], states: tuple[Value, Value]
) -> Value:
    """Query [queries, width] with its name, key and value [tiles, width] -> mixed values [queries, width], a head at a
    time."""
    (name, learned), size = query, heads.head_dim
    learned = (learned / math.sqrt(size)).astype(np.float32)
    # [tiles, width] -> [1, tiles, width]
    key, value = (graph.reshape(one, [1, 0, one.shape[1]], [1, *one.shape]) for one in states)
    mixed = []
    for head in range(heads.heads):
        first = head * size
        # [queries, head_dim] -> [1, queries, head_dim]
        asked = graph.constant(f"{name}.{head}", learned[None, :, first : first + size])
        keys, values = (graph.slice(one, 2, first, size) for one in (key, value))
        shares = graph.softmax(graph.matrix_product(asked, keys, transposed=True))
        mixed.append(graph.matrix_product(shares, values))
    # [1, queries, width] -> [queries, width]
    return graph.reshape(graph.concatenate(mixed), list(learned.shape))


def feeds(place: PicturePlace) -> list[Tensor]:
    """What a graph of layers is given beside its stream, tiles standing window by window where there are windows."""
    if place.window_tiles is None:
        return [place.cos, place.sin, *(() if place.key_rows is None else (place.key_rows,))]
    assert place.window_mask is not None
    tiles = place.window_tiles.numpy()
    tables = [torch.from_numpy(window_by_window(table.numpy(), tiles)) for table in (place.cos, place.sin)]
    return [*tables, place.window_mask.float()]


def blocks_of_tiles(graph: XnnpackGraph, blocks: Blocks, tokens: Value) -> Value:
    """Blocks of the tokens of several tiles: [tiles * patches, width] -> [tiles * blocks, ratio * ratio * width]"""
    side, ratio, width = blocks.side, blocks.ratio, blocks.width
    tiles, merged = tokens.shape[0] // blocks.grid**2, ratio * ratio * width
    cut = [side, ratio, side, ratio, width]
    # -> [tiles, side, ratio, side, ratio, width] -> [tiles, side, side, ratio, ratio, width]
    apart = graph.transpose(graph.reshape(tokens, [0, *cut], [tiles, *cut]), [0, 1, 3, 2, 4, 5])
    return graph.reshape(apart, [0, merged], [tiles * side * side, merged])
