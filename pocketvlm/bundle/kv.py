"""The bytes of a KV cache: the one formula, for what plans, estimates, loads and measures it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Manifest


def kv_cache_bytes(*, layers: int, heads: int, head_size: int, tokens: int, dtype: str) -> int:
    """Keys and values of so many tokens: ``heads`` are the KV heads of a layer, ``dtype`` is NumPy's name."""
    return 2 * layers * heads * head_size * tokens * np.dtype(dtype).itemsize


def bundle_kv_bytes(manifest: Manifest, tokens: int | None = None) -> int:
    """Those of a bundle's conversation: of so many tokens, or of all that it may have."""
    kv = manifest.kv_cache
    return kv_cache_bytes(
        layers=manifest.model.layers,
        heads=kv.heads,
        head_size=kv.head_dim,
        tokens=kv.length if tokens is None else tokens,
        dtype=kv.dtype,
    )
