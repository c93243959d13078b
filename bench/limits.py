"""What binds: bytes that a decode step must read, and how fast this machine reads and multiplies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from pocketvlm.bench.schema import OWN
from pocketvlm.bench.workload import decode_name
from pocketvlm.errors import PocketVlmError

if TYPE_CHECKING:
    from pocketvlm.bench.schema import Limits, Row
    from pocketvlm.bench.workload import Workload
    from pocketvlm.manifest import Manifest

#: Larger than any cache.
READ_BYTES = 1 << 30
REPEATS = 5
#: Rows, columns and inner size of the product that is timed: larger than a chunk of a prompt through a layer.
GEMM = (512, 2048, 2048)
#: The phases that multiply many tokens at once, and the weights that they multiply them with.
MULTIPLIED = {"prefill": "model.layers.", "vision encoder": "vision_tower.encoder.", "image": "vision_tower.encoder."}
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


def operations(manifest: Manifest, phase: str, tokens: int) -> int | None:
    """Multiplications and additions of a phase's matrices over its (image) tokens; attention itself is left out.

    None for a phase that is not bound by them.
    """
    if phase not in MULTIPLIED:
        return None
    if phase != "prefill":
        assert manifest.vision is not None
        tokens = tokens // manifest.vision.tokens_per_tile * manifest.vision.patches_per_tile
    weights = (one.weights for name, one in manifest.recipe.tensors.items() if name.startswith(MULTIPLIED[phase]))
    return 2 * tokens * sum(weights)


def with_limits(row: Row, manifest: Manifest, workload: Workload, limits: Limits) -> Row:
    """The row with what it reads or multiplies, and its share of what the machine reads or multiplies."""
    if row.system != OWN or not row.seconds or row.rate is None:
        return row
    if row.phase == "decode":
        reads = bytes_per_token(manifest, _middle(row, workload))
        share = reads * row.rate / limits.read_bandwidth
        return row.model_copy(update={"bytes_per_token": reads, "bandwidth_share": share})
    products = operations(manifest, row.phase, row.tokens)
    if products is None:
        return row
    share = products / row.median / limits.gemm_operations
    return row.model_copy(update={"operations": products, "gemm_share": share})


def _middle(row: Row, workload: Workload) -> int:
    """The depth in the middle of what a row generates."""
    names = {decode_name(workload.new_tokens, depth): depth for depth in workload.depths}
    return names[row.name] + workload.new_tokens // 2


def gemm_operations(threads: int) -> float:
    """Operations a second of a large product in float32 by so many threads of numpy's BLAS.

    In a process of its own: a BLAS has as many threads as its environment said when it was loaded.

    Raises:
        PocketVlmError: the process failed.
    """
    environment = {**os.environ, **{f"{blas}_NUM_THREADS": str(threads) for blas in ("OPENBLAS", "OMP", "MKL")}}
    command = [sys.executable, "-m", "pocketvlm.bench.limits"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise PocketVlmError(f"measuring products failed: {done.stderr.strip()[-300:]}")
    return float(done.stdout)


def _time_gemm() -> float:
    rows, columns, inner = GEMM
    left, right = np.ones((rows, inner), np.float32), np.ones((inner, columns), np.float32)
    rates = []
    for _ in range(3 * REPEATS):
        start = time.perf_counter()
        left @ right
        rates.append(2 * rows * columns * inner / (time.perf_counter() - start))
    return median(rates)


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


if __name__ == "__main__":
    sys.stdout.write(f"{_time_gemm()}\n")
