"""What binds: bytes that a decode step must read, and how fast this machine reads and multiplies."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pocketvlm.manifest import Manifest

#: Larger than any cache.
READ_BYTES = 1 << 30
REPEATS = 5
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def bytes_per_token(manifest: Manifest, depth: int) -> int:
    """What one decode step reads at least: all weights of the decoder and its head, and the keys and values so far."""
    tensors = manifest.recipe.tensors
    read = {name for name in tensors if name.startswith(("model.layers.", "model.norm."))}
    read.add(HEAD if HEAD in tensors else EMBEDDING)
    weights = sum(tensors[name].weights * tensors[name].bits_per_weight for name in read) / 8
    kv = manifest.kv_cache
    row = 2 * manifest.model.layers * kv.heads * kv.head_dim * np.dtype(kv.dtype).itemsize
    return round(weights) + depth * row


def read_bandwidth(threads: int, size: int = READ_BYTES) -> float:
    """Bytes a second of a read-only sum over ``size`` bytes by so many threads, the median of a few."""
    values = np.ones(size // 8, np.int64)
    parts = np.array_split(values, threads)
    rates = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(REPEATS + 1):
            start = time.perf_counter()
            total = sum(pool.map(np.sum, parts))
            rates.append(size / (time.perf_counter() - start))
            assert total == len(values)
    return median(rates[1:])
