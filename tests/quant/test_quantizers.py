"""Quantizers: packing is exact, rounding is to nearest, ONNX Runtime reads the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pocketvlm.errors import RecipeError
from pocketvlm.quant import QUANTIZERS, GroupedTensor, Keep, RoundToNearest, quantizer_of
from pocketvlm.quant.tensors import pack, unpack
from pocketvlm.recipe import Rule

SCHEMES = [(bits, group, symmetric) for bits in (4, 8) for group in (32, 128) for symmetric in (True, False)]


@pytest.mark.parametrize(("bits", "group", "symmetric"), SCHEMES)
@given(data=st.data())
def test_packing_is_exact(bits: int, group: int, symmetric: bool, data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 300))
    values = hnp.arrays(np.float32, (rows, columns), elements=st.floats(-1e4, 1e4, width=32))
    weight = torch.from_numpy(data.draw(values))
    tensor = RoundToNearest(bits, group, symmetric).quantize(weight)  # type: ignore[arg-type]
    again = unpack(pack(tensor), bits=bits, columns=columns)
    assert np.array_equal(again.codes, tensor.codes)
    assert np.array_equal(again.dequantize(), tensor.dequantize())
    assert tensor.dequantize().shape == (rows, columns)
    padding = np.delete(tensor.codes.reshape(rows, -1), np.s_[:columns], axis=1)
    zero = 1 << (bits - 1) if symmetric else np.repeat(tensor.zero_points[:, -1:], padding.shape[1], 1)  # type: ignore[index]
    assert np.array_equal(padding, np.broadcast_to(zero, padding.shape)), "padding is not worth zero"


@pytest.mark.parametrize(("bits", "group", "symmetric"), SCHEMES)
@given(seed=st.integers(0, 1 << 30), spread=st.sampled_from([1e-20, 1e-3, 1.0, 1e10]))
def test_no_weight_is_off_by_more_than_its_step(
    bits: int, group: int, symmetric: bool, seed: int, spread: float
) -> None:
    """Half a step for each weight inside the range; a whole one at the end that symmetric codes do not reach."""
    weight = torch.randn(3, 200, generator=torch.Generator().manual_seed(seed)) * spread
    tensor = RoundToNearest(bits, group, symmetric).quantize(weight)  # type: ignore[arg-type]
    steps = np.repeat(np.abs(tensor.scales), group, axis=1)[:, :200]
    error = np.abs(tensor.dequantize() - weight.numpy())
    assert (error <= steps * (1.0 if symmetric else 0.5) * (1 + 1e-4)).all()
    largest = np.abs(weight.numpy()).max()
    assert error.max() < largest * (0.2 if bits == 4 else 0.01)


@pytest.mark.parametrize(("bits", "group", "symmetric"), SCHEMES)
@pytest.mark.parametrize("value", [0.0, 0.37, -5.0])
def test_constant_groups_are_kept(bits: int, group: int, symmetric: bool, value: float) -> None:
    tensor = RoundToNearest(bits, group, symmetric).quantize(torch.full((2, 150), value))  # type: ignore[arg-type]
    assert np.isfinite(tensor.scales).all()
    assert np.allclose(tensor.dequantize(), value, rtol=1e-6)


def matmul(tensor: GroupedTensor, hidden: np.ndarray, accuracy_level: int) -> np.ndarray:
    """hidden times the packed weight through ONNX Runtime's MatMulNBits."""
    packed = pack(tensor)
    arrays: dict[str, Any] = {"codes": packed.codes, "scales": packed.scales}
    if packed.zero_points is not None:
        arrays["zero_points"] = packed.zero_points
    weights = [ir.val(name, const_value=ir.tensor(array, name=name)) for name, array in arrays.items()]
    x = ir.val("x", ir.DataType.FLOAT, ["tokens", tensor.columns])
    attributes = {"K": tensor.columns, "N": tensor.rows, "bits": tensor.bits, "block_size": tensor.group_size}
    node = ir.node(
        "MatMulNBits", [x, *weights], {**attributes, "accuracy_level": accuracy_level}, domain="com.microsoft"
    )
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    opsets = {"": 21, "com.microsoft": 1}
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=weights, opset_imports=opsets, name="matmul")
    model = ir.serde.serialize_model(ir.Model(graph, ir_version=10))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": hidden})[0]
    return result


@pytest.mark.parametrize(("bits", "group", "symmetric"), SCHEMES)
@pytest.mark.parametrize("columns", [128, 96, 4304])
@pytest.mark.parametrize("tokens", [1, 17])
def test_onnx_runtime_multiplies_with_the_dequantized_weights(
    bits: int, group: int, symmetric: bool, columns: int, tokens: int
) -> None:
    """Within 1e-5 at accuracy_level 0, also where no group size divides the columns (SigLIP's 4304)."""
    generator = torch.Generator().manual_seed(bits * group + columns)
    weight = torch.randn(24, columns, generator=generator)
    tensor = RoundToNearest(bits, group, symmetric).quantize(weight)  # type: ignore[arg-type]
    hidden = torch.randn(tokens, columns, generator=generator).numpy()
    wanted = hidden.astype(np.float64) @ tensor.dequantize().astype(np.float64).T
    error = np.linalg.norm(matmul(tensor, hidden, 0) - wanted) / np.linalg.norm(wanted)
    assert error < 1e-5
    error = np.linalg.norm(matmul(tensor, hidden, 4) - wanted) / np.linalg.norm(wanted)
    assert error < 0.02, "int8 arithmetic"


def test_scaling_changes_scales_only() -> None:
    tensor = RoundToNearest(4, 32).quantize(torch.randn(4, 70))
    scaled = tensor.scaled(0.25)
    assert np.array_equal(scaled.codes, tensor.codes)
    assert np.array_equal(scaled.dequantize(), tensor.dequantize() * 0.25)


def test_bits_per_weight_counts_scales_and_padding() -> None:
    assert RoundToNearest(4, 128).quantize(torch.randn(8, 256)).bits_per_weight == 4.25
    assert RoundToNearest(4, 32).quantize(torch.randn(8, 256)).bits_per_weight == 5.0
    assert RoundToNearest(8, 128).quantize(torch.randn(8, 256)).bits_per_weight == 8.25
    assert RoundToNearest(4, 32, symmetric=False).quantize(torch.randn(8, 256)).bits_per_weight == 5.125


@pytest.mark.parametrize(("bits", "group", "symmetric"), SCHEMES)
@pytest.mark.parametrize("columns", [32, 100, 129, 256])
def test_stored_bytes_are_the_bytes_packed(bits: int, group: int, symmetric: bool, columns: int) -> None:
    quantizer = RoundToNearest(bits, group, symmetric)  # type: ignore[arg-type]
    tensor = quantizer.quantize(torch.randn(7, columns))
    packed = pack(tensor)
    size = sum(array.nbytes for array in (packed.codes, packed.scales, packed.zero_points) if array is not None)
    assert quantizer.stored_bytes((7, columns)) == size == round(tensor.bits_per_weight * 7 * columns / 8)


def test_the_rule_names_the_quantizer() -> None:
    rule = Rule(("*",), "round-to-nearest", {"bits": 4, "group_size": 32})
    assert quantizer_of(rule) == RoundToNearest(4, 32)
    assert quantizer_of(Rule(("*",), "keep")) == Keep()
    assert set(QUANTIZERS) == {"keep", "round-to-nearest"}


@pytest.mark.parametrize(
    ("quantizer", "options", "words"),
    [
        ("magic", {}, "magic"),
        ("round-to-nearest", {"bits": 3, "group_size": 32}, "bits"),
        ("round-to-nearest", {"bits": 4, "group_size": 48}, "group_size"),
        ("round-to-nearest", {"bits": 4}, "group_size"),
        ("round-to-nearest", {"bits": 4, "group_size": 32, "zero": 1}, "zero"),
        ("keep", {"bits": 4}, "bits"),
    ],
)
def test_wrong_options_are_named(quantizer: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        quantizer_of(Rule(("*",), quantizer, options))
