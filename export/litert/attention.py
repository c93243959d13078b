"""Attention over the KV cache in LiteRT's graphs.

A layer's keys are an input [1, KV heads, length, head size] and so are its values; the same with a step's new rows are
outputs. One buffer may be both: nothing is copied then. An INT8 cache holds codes with one scale a channel, those of
the ONNX graphs. A tensor of codes has one scale for all, so codes are whole steps of 1: new rows are divided by their
scales before, a key's are multiplied into the query, a value's into what was mixed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pocketvlm.export.litert.graph import LitertGraph, LitertTensor
from pocketvlm.export.store.kv_layout import KvLayout
from pocketvlm.models.config import DecoderConfig
from pocketvlm.models.operators import CachedAttend
from pocketvlm.models.rope import rope_tables

#: What a code of an INT8 cache counts in.
STEP = 1.0
#: Keys and values, as LiteRT-LM names them.
PARTS = ("k", "v")


@dataclass(frozen=True)
class LitertPositions:
    """What every layer's attention reads: cos and sin [1, 1, tokens, head size], the mask that is added to scores
    [1, 1, tokens, length], and where new rows go, int32 [4]."""

    cos: LitertTensor
    sin: LitertTensor
    mask: LitertTensor
    start: LitertTensor


def positions(graph: LitertGraph, config: DecoderConfig, kv: KvLayout, tokens: int) -> LitertPositions:
    """Adds the inputs ``input_pos`` int32 [tokens] and ``mask`` float32 [1, 1, tokens, length]."""
    places = graph.input("input_pos", [tokens], "int32")
    mask = graph.input("mask", [1, 1, tokens, kv.length])
    cos, sin = (table.numpy() for table in rope_tables(config, torch.arange(kv.length)))
    # The halves of a head are pairs: times sin the second half is subtracted, the first one added.
    tables = {"rope.cos": np.concatenate([cos, cos], 1), "rope.sin": np.concatenate([-sin, sin], 1)}
    shape = [1, 1, tokens, config.head_dim]
    cos_turns, sin_turns = (
        graph.reshape(graph.rows(graph.constant(name, table), places), shape) for name, table in tables.items()
    )
    zero, first = graph.integers(0), graph.slice(places, 0, 0, 1)
    return LitertPositions(cos_turns, sin_turns, mask, graph.concatenate([zero, zero, first, zero], 0))


def by_head(graph: LitertGraph, states: LitertTensor, heads: int) -> LitertTensor:
    """[1, tokens, heads * head size] -> [1, heads, tokens, head size]"""
    if len(states.shape) == 4:  # it is so already
        return states
    _, tokens, width = states.shape
    # [1, tokens, heads * head size] -> [1, tokens, heads, head size] -> [1, heads, tokens, head size]
    return graph.transpose(graph.reshape(states, [1, tokens, heads, width // heads]), [0, 2, 1, 3])


def side_by_side(graph: LitertGraph, states: LitertTensor) -> LitertTensor:
    """[1, heads, tokens, head size] -> [1, tokens, heads * head size]"""
    _, heads, tokens, size = states.shape
    # [1, heads, tokens, head size] -> [1, tokens, heads, head size] -> [1, tokens, heads * head size]
    return graph.reshape(graph.transpose(states, [0, 2, 1, 3]), [1, tokens, heads * size])


def rotated(graph: LitertGraph, states: LitertTensor, at: LitertPositions) -> LitertTensor:
    """[1, heads, tokens, head size] -> the same, turned by its positions"""
    half = states.shape[-1] // 2
    first, second = (graph.slice(states, 3, start, half) for start in (0, half))
    swapped = graph.concatenate([second, first], 3)
    return graph.add(graph.multiply(states, at.cos), graph.multiply(swapped, at.sin))


def attend(
    graph: LitertGraph,
    heads: CachedAttend,
    kv: KvLayout,
    layer: int,
    states: tuple[LitertTensor, LitertTensor, LitertTensor],
    at: LitertPositions,
) -> LitertTensor:
    """Query, key and value, [1, heads, tokens, head size] each -> mixed values [1, tokens, heads * head size].

    Adds the layer's KV cache as inputs and outputs of the graph.
    """
    query, *new = states
    _, _, tokens, size = query.shape
    shared, length = heads.heads // heads.kv_heads, kv.length
    scales = (None, None) if kv.ranges is None else kv.scales(layer)
    known = []
    for part, rows, scale in zip(PARTS, new, scales, strict=True):
        name, shape = f"kv_cache_{part}_{layer}", [1, heads.kv_heads, length, size]
        cache = graph.input(name, shape, kv.dtype, None if scale is None else STEP)
        if scale is not None:
            # [KV heads, head size] -> [1, KV heads, 1, head size]
            inverse = graph.constant(f"kv_inverse_{part}_{layer}", np.reciprocal(scale)[None, :, None])
            rows = graph.quantize(graph.multiply(rows, inverse), STEP)
        present = graph.update(cache, rows, at.start)
        graph.output(name, present)
        known.append(present if scale is None else graph.codes_as_numbers(present))
    key, value = known
    query = _by_channel(graph, f"query_scale_{layer}", query, scales[0], shared, heads.scale)
    # [1, heads, tokens, head size] -> [1, KV heads, shared * tokens, head size]
    grouped = graph.reshape(query, [1, heads.kv_heads, shared * tokens, size])
    scores = graph.product(grouped, key, transposed=True)
    # [1, KV heads, shared * tokens, length] -> [1, heads, tokens, length]
    scores = graph.reshape(scores, [1, heads.heads, tokens, length])
    shares = graph.softmax(graph.add(scores, at.mask))
    # and back
    shares = graph.reshape(shares, [1, heads.kv_heads, shared * tokens, length])
    # [1, KV heads, shared * tokens, head size] -> [1, heads, tokens, head size]
    mixed = graph.reshape(graph.product(shares, value), [1, heads.heads, tokens, size])
    return side_by_side(graph, _by_channel(graph, f"mixed_scale_{layer}", mixed, scales[1], shared, 1.0))


def _by_channel(
    graph: LitertGraph, name: str, states: LitertTensor, scales: np.ndarray | None, shared: int, factor: float
) -> LitertTensor:
    """states [1, heads, tokens, head size] times a factor and, where they are, scales [KV heads, head size]"""
    if scales is None:
        return graph.scaled(states, factor)
    # [KV heads, head size] -> [heads, head size]: those that share a KV head stand side by side
    factors = scales.repeat(shared, axis=0) * np.float32(factor)
    # [heads, head size] -> [1, heads, 1, head size]
    return graph.multiply(states, graph.constant(name, factors[None, :, None]))
