"""The bytes of a KV cache: the one formula, for what plans, estimates, loads and measures it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pocketvlm.bundle.caches import AttentionCache, ConvolutionCache, StateCache

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Manifest

#: Bytes of a number that no cache quantizes.
FLOAT_BYTES = 4
#: A step reads one state and writes another, so that one that fails leaves the state of before.
STATES = 2


def kv_cache_bytes(*, layers: int, heads: int, head_size: int, tokens: int, dtype: str) -> int:
    """Keys and values of so many tokens: ``heads`` are the KV heads of a layer, ``dtype`` is NumPy's name."""
    return 2 * layers * heads * head_size * tokens * np.dtype(dtype).itemsize


def row_cache_bytes(*, layers: int, width: int, rows: int) -> int:
    """What enters convolutions: ``layers`` that have one, of so many channels."""
    return FLOAT_BYTES * layers * width * rows


def state_bytes(*, layers: int, heads: int, sizes: tuple[int, int], rows: int, width: int) -> int:
    """What ``layers`` keep whatever the number of tokens: a matrix a head, of ``sizes``, and the last ``rows`` before a
    convolution."""
    return FLOAT_BYTES * layers * (heads * sizes[0] * sizes[1] + rows * width)


def bundle_state_bytes(manifest: Manifest) -> int:
    """One copy of the state of a bundle's conversation."""
    return sum(
        state_bytes(
            layers=1,
            heads=one.heads,
            sizes=(one.key_width, one.value_width),
            rows=one.kernel - 1,
            width=one.width,
        )
        for one in manifest.kv_cache.layers or ()
        if isinstance(one, StateCache)
    )


def bundle_kv_bytes(manifest: Manifest, tokens: int | None = None) -> int:
    """Those of a bundle's conversation: of so many tokens, or of all that it may have."""
    kv = manifest.kv_cache
    count = kv.length if tokens is None else tokens
    kinds = kv.of_layers(manifest.model.layers)
    rows = [one.shape(count) for one in kinds if isinstance(one, ConvolutionCache)]
    sizes = [one.head_dim or kv.head_dim for one in kinds if isinstance(one, AttentionCache)]
    attention = kv_cache_bytes(layers=1, heads=kv.heads, head_size=sum(sizes), tokens=count, dtype=kv.dtype)
    convolved = sum(row_cache_bytes(layers=1, width=width, rows=many) for _, many, width in rows)
    return attention + convolved + STATES * bundle_state_bytes(manifest)
