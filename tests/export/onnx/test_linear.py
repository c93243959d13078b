"""Linear layers as ONNX Runtime runs them, beside the integer arithmetic that they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from pocketvlm.export.onnx.graph import GraphBuilder, save_graph
from pocketvlm.export.onnx.linear import at_float_precision, linear
from pocketvlm.export.store.weights import DataFile, FloatWeight, IntegerWeight
from pocketvlm.machine import exact_sums
from pocketvlm.quant import GroupedTensor, RoundToNearest
from pocketvlm.quant.integer import integer_linear
from pocketvlm.quant.tensors import MOST_COLUMNS, IntegerMatrix, integer_matrix, is_integer_matrix

ROWS, COLUMNS, TOKENS = 24, 4304, 7


def quantized(seed: int = 0) -> GroupedTensor:
    weight = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed))
    return RoundToNearest(8, "channel").quantize(weight)


def graph_of(directory: Path, matrix: IntegerMatrix, bias: np.ndarray) -> ir.Model:
    """The same layer twice, one output each. (A weight's name belongs to one layer.)"""
    file = DataFile(directory / "data")
    codes, scales = file.append(matrix.codes), file.append(matrix.scales)
    weight, again = (IntegerWeight(name, codes, scales, 1.0) for name in ("weight", "again"))
    stored_bias = FloatWeight("bias", file.append(bias), transposed=False, factor=1.0)
    file.close()
    graph = GraphBuilder("layer")
    hidden = graph.input("hidden", "float32", ["tokens", COLUMNS])
    graph.output(linear(graph, hidden, weight, stored_bias), "first", "float32", ["tokens", ROWS])
    graph.output(linear(graph, hidden, again), "second", "float32", ["tokens", ROWS])
    model = graph.model()
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph) == 1, "both read the same rounded rows"
    return model


def run(model: ir.Model, directory: Path, hidden: np.ndarray, exact: str | None = None) -> list[np.ndarray]:
    save_graph(model, directory / "graph.onnx")
    options = onnxruntime.SessionOptions()
    name, value = exact_sums.session_entry()
    options.add_session_config_entry(name, exact or value)
    session = onnxruntime.InferenceSession(directory / "graph.onnx", options, providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, {"hidden": hidden})
    return outputs


def test_rows_of_integers_are_multiplied_exactly(tmp_path: Path) -> None:
    """As in PyTorch with integers, also with values at both ends of their range, where 16 bits would saturate."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(TOKENS, COLUMNS, generator=generator)
    hidden[1] = hidden[1].sign()
    hidden[2] = 0.0
    hidden[3] *= 1e6
    bias = np.arange(ROWS, dtype=np.float32)
    tensor = quantized()
    first, second = run(graph_of(tmp_path, integer_matrix(tensor), bias), tmp_path, hidden.numpy())
    wanted = integer_linear(hidden, tensor, bits=8).numpy()
    for found, expected in zip(second, wanted, strict=True):
        assert np.linalg.norm(found - expected) <= 2e-4 * np.linalg.norm(expected), "a few values on a rounding edge"
    assert np.array_equal(first, second + bias)


def test_weights_that_are_made_unsigned_give_the_same(tmp_path: Path) -> None:
    """As on a CPU without VNNI."""
    hidden = np.random.default_rng(0).standard_normal((TOKENS, COLUMNS)).astype(np.float32)
    model = graph_of(tmp_path, integer_matrix(quantized()), np.zeros(ROWS, np.float32))
    here = run(model, tmp_path, hidden)[1]
    assert np.array_equal(run(model, tmp_path, hidden, exact="1")[1], here)


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("flags : fpu avx2 avx512_vnni\n", True),
        ("processor : 0\nflags\t\t: fpu avx2 avx_vnni\n", True),
        ("flags : fpu avx2 avx512f\n", False),
        ("model name : avx512_vnni\n", False),
        ("", False),
    ],
)
def test_a_cpu_without_vnni_is_known(text: str, exact: bool) -> None:
    assert exact_sums.has_exact_kernels(text) is exact


def test_a_row_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    hidden = np.random.default_rng(0).standard_normal((TOKENS, COLUMNS)).astype(np.float32)
    model = graph_of(tmp_path, integer_matrix(quantized()), np.zeros(ROWS, np.float32))
    alone = run(model, tmp_path, hidden[:1])[1]
    hidden[1:] *= 1000
    assert np.array_equal(run(model, tmp_path, hidden)[1][:1], alone)


def test_at_float_precision_only_weights_are_rounded(tmp_path: Path) -> None:
    hidden = np.random.default_rng(0).standard_normal((TOKENS, COLUMNS)).astype(np.float32)
    matrix = integer_matrix(quantized())
    model = at_float_precision(graph_of(tmp_path, matrix, np.ones(ROWS, np.float32)))
    first, second = run(model, tmp_path, hidden)
    wanted = hidden.astype(np.float64) @ matrix.dequantize().astype(np.float64).T
    assert np.linalg.norm(second - wanted) < 1e-5 * np.linalg.norm(wanted)
    assert np.allclose(first, second + 1, rtol=1e-5, atol=1e-3)


def test_the_matrix_is_the_tensor() -> None:
    tensor = quantized()
    assert is_integer_matrix(tensor)
    matrix = integer_matrix(tensor)
    assert matrix.codes.shape == (COLUMNS, ROWS)
    assert np.array_equal(matrix.dequantize(), tensor.dequantize())
    assert matrix.bits_per_weight == 8 + 32 / COLUMNS


@pytest.mark.parametrize(
    "quantizer",
    [RoundToNearest(8, 128), RoundToNearest(4, "channel"), RoundToNearest(8, "channel", symmetric=False)],
    ids=["groups", "4 bits", "zero points"],
)
def test_other_schemes_keep_their_blocks(quantizer: RoundToNearest) -> None:
    assert not is_integer_matrix(quantizer.quantize(torch.randn(4, 256)))


def test_sums_that_may_not_fit_into_32_bits_keep_their_blocks() -> None:
    assert MOST_COLUMNS * 255**2 < 1 << 31
    assert not is_integer_matrix(RoundToNearest(8, "channel").quantize(torch.ones(1, MOST_COLUMNS + 1)))
