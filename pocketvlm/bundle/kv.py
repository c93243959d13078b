"""The bytes of a KV cache: the one formula, for what plans, estimates, loads and measures it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pocketvlm.bundle.caches import ConvolutionCache

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Manifest

#: Bytes of a number that no cache quantizes.
FLOAT_BYTES = 4


def kv_cache_bytes(*, layers: int, heads: int, head_size: int, tokens: int, dtype: str) -> int:
    """Keys and values of so many tokens: ``heads`` are the KV heads of a layer, ``dtype`` is NumPy's name."""
    return 2 * layers * heads * head_size * tokens * np.dtype(dtype).itemsize


def row_cache_bytes(*, layers: int, width: int, rows: int) -> int:
    """What enters convolutions: ``layers`` that have one, of so many channels."""
    return FLOAT_BYTES * layers * width * rows


def bundle_kv_bytes(manifest: Manifest, tokens: int | None = None) -> int:
    """Those of a bundle's conversation: of so many tokens, or of all that it may have."""
    kv = manifest.kv_cache
    count = kv.length if tokens is None else tokens
    kinds = kv.of_layers(manifest.model.layers)
    rows = [one.shape(count) for one in kinds if isinstance(one, ConvolutionCache)]
    attention = kv_cache_bytes(
        layers=len(kinds) - len(rows), heads=kv.heads, head_size=kv.head_dim, tokens=count, dtype=kv.dtype
    )
    return attention + sum(row_cache_bytes(layers=1, width=width, rows=many) for _, many, width in rows)
