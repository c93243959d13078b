"""ONNX Runtime computes with the weights that the quantizers mean, and rounds to nearest as this package does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnxruntime.capi import _pybind_state as native

from pocketvlm.quant import GroupedTensor, GroupQuantizer, RoundToNearest
from pocketvlm.quant.tensors import PackedTensor, pack, unpack
from tests.support.schemes import each_scheme


def run(op_type: str, before: list[ir.Value], packed: PackedTensor, given: np.ndarray, attributes: dict) -> np.ndarray:
    """One node of ONNX Runtime's own: the inputs ``before`` and after the codes, then scales and zero points."""
    arrays: dict[str, np.ndarray] = {"scales": packed.scales}
    if packed.zero_points is not None:
        arrays["zero_points"] = packed.zero_points
    weights = [ir.val(name, const_value=ir.tensor(array, name=name)) for name, array in arrays.items()]
    node = ir.node(op_type, [*before, *weights], attributes, domain="com.microsoft")
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    fed = next(value for value in before if value.const_value is None)
    constants = [value for value in before if value.const_value is not None]
    opsets = {"": 21, "com.microsoft": 1}
    graph = ir.Graph(
        [fed], node.outputs, nodes=[node], initializers=[*constants, *weights], opset_imports=opsets, name="g"
    )
    model = ir.serde.serialize_model(ir.Model(graph, ir_version=10))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {fed.name: given})[0]
    return result


def matmul(tensor: GroupedTensor, hidden: np.ndarray, accuracy_level: int) -> np.ndarray:
    """hidden times the packed weight through MatMulNBits."""
    packed = pack(tensor)
    x = ir.val("x", ir.DataType.FLOAT, ["tokens", tensor.columns])
    codes = ir.val("codes", const_value=ir.tensor(packed.codes, name="codes"))
    attributes = {"K": tensor.columns, "N": tensor.rows, "bits": tensor.bits, "block_size": tensor.group_size}
    return run("MatMulNBits", [x, codes], packed, hidden, {**attributes, "accuracy_level": accuracy_level})


def gather(tensor: GroupedTensor, rows: np.ndarray) -> np.ndarray:
    """Rows of the packed weight through GatherBlockQuantized."""
    packed = pack(tensor)
    codes = ir.val("codes", const_value=ir.tensor(packed.codes.reshape(tensor.rows, -1), name="codes"))
    ids = ir.val("ids", ir.DataType.INT64, ["tokens"])
    attributes = {"bits": tensor.bits, "block_size": tensor.group_size, "gather_axis": 0, "quantize_axis": 1}
    return run("GatherBlockQuantized", [codes, ids], packed, rows, attributes)[:, : tensor.columns]


@each_scheme
@pytest.mark.parametrize("columns", [128, 96, 4304])
@pytest.mark.parametrize("tokens", [1, 17])
def test_matmul_multiplies_with_the_dequantized_weights(quantizer: GroupQuantizer, columns: int, tokens: int) -> None:
    """Within 1e-5 at accuracy_level 0, also where no group size divides the columns (SigLIP's 4304)."""
    generator = torch.Generator().manual_seed(quantizer.bits + columns)
    tensor = quantizer.quantize(torch.randn(24, columns, generator=generator))
    hidden = torch.randn(tokens, columns, generator=generator).numpy()
    wanted = hidden.astype(np.float64) @ tensor.dequantize().astype(np.float64).T
    error = np.linalg.norm(matmul(tensor, hidden, 0) - wanted) / np.linalg.norm(wanted)
    assert error < 1e-5
    error = np.linalg.norm(matmul(tensor, hidden, 4) - wanted) / np.linalg.norm(wanted)
    assert error < 0.02, "int8 arithmetic"


@each_scheme
@pytest.mark.parametrize("columns", [128, 96, 300])
def test_gather_gives_the_dequantized_rows(quantizer: GroupQuantizer, columns: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    tensor = quantizer.quantize(torch.randn(24, columns, generator=generator))
    rows = np.array([3, 0, 23, 3])
    assert np.array_equal(gather(tensor, rows), tensor.dequantize()[rows])


@pytest.mark.parametrize("group", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("columns", [256, 256 * 3 + 80])
def test_round_to_nearest_is_onnx_runtimes_own_quantizer(bits: Any, group: int, symmetric: bool, columns: int) -> None:
    """Scales and zero points bit for bit those of the quantizer that ONNX Runtime ships for MatMulNBits, and the codes;
    where two are equally near, it may take the other one, since it multiplies with 1 / scale."""
    weight = torch.randn(24, columns, generator=torch.Generator().manual_seed(group)).numpy()
    groups = -(-columns // group)
    codes = np.zeros((24, groups, group * bits // 8), np.uint8)
    scales, zero_points = np.zeros((24, groups), np.float32), np.zeros((24, -(-groups * bits // 8)), np.uint8)
    theirs = native.quantize_matmul_4bits if bits == 4 else native.quantize_matmul_8bits
    theirs(codes, np.ascontiguousarray(weight.T), scales, zero_points, group, 24, columns, symmetric)
    wanted = unpack(PackedTensor(codes, scales, zero_points), bits=bits, columns=columns)
    ours = RoundToNearest(bits, group, symmetric).quantize(torch.from_numpy(weight))
    assert np.array_equal(ours.scales, scales)
    # Its padding has other codes, which are not read.
    mine, its = (tensor.codes.reshape(24, -1)[:, :columns].astype(int) for tensor in (ours, wanted))
    assert (mine != its).mean() < 1e-3
    assert np.abs(mine - its).max() <= 1
    if ours.zero_points is not None:
        assert wanted.zero_points is not None
        assert np.array_equal(ours.zero_points, wanted.zero_points)
