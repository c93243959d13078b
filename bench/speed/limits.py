"""What binds: bytes that a decode step must read, and how fast this machine reads and multiplies."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from pocketvlm.bench.report.schema import OWN
from pocketvlm.bench.speed.workload import decode_name
from pocketvlm.bundle.kv import bundle_kv_bytes
from pocketvlm.bundle.towers import is_convolutional
from pocketvlm.runtime.engines.onnx import import_onnxruntime

if TYPE_CHECKING:
    from pocketvlm.bench.report.schema import Limits, Row
    from pocketvlm.bench.speed.workload import Workload
    from pocketvlm.bundle.manifest import Manifest

#: Larger than any cache.
READ_BYTES = 1 << 30
REPEATS = 5
#: Rows, columns and inner size of the product that is timed: larger than a chunk of a prompt through a layer.
GEMM = (512, 2048, 2048)
#: The phases that multiply many tokens at once, and the weights that they multiply them with.
MULTIPLIED = {"prefill": "model.layers.", "vision encoder": "vision_tower.encoder.", "image": "vision_tower.encoder."}
#: Of onnx.proto: the type of a float32 tensor, and what the graph is written for.
FLOAT, IR_VERSION, OPSET = 1, 10, 21
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def bytes_per_token(manifest: Manifest, depth: int) -> int:
    """What one decode step reads at least: all weights of the decoder and its head, and the keys and values so far."""
    tensors = manifest.recipe.tensors
    read = {name for name in tensors if name.startswith(("model.layers.", "model.norm."))}
    read.add(HEAD if HEAD in tensors else EMBEDDING)
    weights = sum(tensors[name].weights * tensors[name].bits_per_weight for name in read) / 8
    return round(weights) + bundle_kv_bytes(manifest, depth)


def operations(manifest: Manifest, phase: str, tokens: int) -> int | None:
    """Multiplications and additions of a phase's matrices over its (image) tokens; attention itself is left out.

    None for a phase that is not bound by them, and where layers see maps of other sizes.
    """
    if phase not in MULTIPLIED:
        return None
    if phase != "prefill":
        assert manifest.vision is not None
        if is_convolutional(manifest):
            return None
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
    """Operations a second of a large product in float32 by ONNX Runtime with so many threads, the median of a few.

    NumPy's BLAS would not do: on a CPU that it does not know it reaches a third of that.
    """
    ort = import_onnxruntime()
    rows, columns, inner = GEMM
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(matmul_graph(columns, inner), options, providers=["CPUExecutionProvider"])
    left = np.ones((rows, inner), np.float32)
    rates = []
    for _ in range(3 * REPEATS):
        start = time.perf_counter()
        session.run(None, {"left": left})
        rates.append(2 * rows * columns * inner / (time.perf_counter() - start))
    return median(rates)


def matmul_graph(columns: int, inner: int) -> bytes:
    """An ONNX graph, left float32 [rows, inner] -> product [rows, columns], its weight all ones: protobuf by hand.

    Field numbers are those of onnx.proto; the package onnx belongs to the export.
    """
    weight = _field(1, inner) + _field(1, columns) + _field(2, FLOAT) + _field(8, b"right")
    weight += _field(9, np.ones((inner, columns), np.float32).tobytes())
    node = _field(1, b"left") + _field(1, b"right") + _field(2, b"product") + _field(4, b"MatMul")
    graph = _field(1, node) + _field(2, b"product") + _field(5, weight)
    graph += _field(11, _value(b"left", inner)) + _field(12, _value(b"product", columns))
    return _field(1, IR_VERSION) + _field(7, graph) + _field(8, _field(2, OPSET))


def _value(name: bytes, columns: int) -> bytes:
    """An input or output of float32 [rows, columns]."""
    shape = _field(1, _field(2, b"rows")) + _field(1, _field(1, columns))
    return _field(1, name) + _field(2, _field(1, _field(1, FLOAT) + _field(2, shape)))


def _field(number: int, value: int | bytes) -> bytes:
    """A field of a protobuf message: a number as a varint, anything else with its length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    low = bytearray()
    while value > 127:
        low.append(value & 127 | 128)
        value >>= 7
    return bytes([*low, value])


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
