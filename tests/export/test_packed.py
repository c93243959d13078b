"""AWQ and GPTQ checkpoints of 4 bits: their codes, scales and zero points reach the bundle bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime_genai.models.quantized_model import (  # type: ignore[import-untyped]
    AWQModel,
    GPTQModel,
    QuantizedTensorModule,
)
from safetensors.torch import load_file

from pocketvlm.errors import CheckpointError, ExportError, PocketVlmError
from pocketvlm.export import estimate, export_bundle
from pocketvlm.export.store.as_stored import in_blocks, with_stored
from pocketvlm.export.tune.recipe import recipe_of_bits
from pocketvlm.models.checkpoint import open_checkpoint, pieces_of
from pocketvlm.models.families.family import Pieces
from pocketvlm.quant import AsStored, quantizer_of
from pocketvlm.recipe import load_recipe
from tests.support.checkpoints import edit_weights, tiny_config, write_checkpoint
from tests.support.packed import pack_checkpoint

QUERY, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
#: method, group size, symmetric, what is taken off zero points
KINDS = {"gptq": ("gptq", 32, True, 1), "gptq-v2": ("gptq", 32, False, 0), "awq": ("awq", 32, False, 0)}


def write(directory: Path, kind: tuple[str, int, bool, int], **config: object) -> Path:
    method, size, symmetric, offset = kind
    write_checkpoint(directory, tiny_config("qwen2", vision=False))
    pack_checkpoint(directory, method, size, symmetric=symmetric, offset=offset, **config)
    return directory


def as_ort_reads_it(directory: Path, module: str, kind: tuple[str, int, bool, int]) -> dict[str, np.ndarray]:
    """What ONNX Runtime GenAI's reader of such checkpoints makes of a layer: MatMulNBits' own bytes."""
    weights, (method, size, _, offset) = load_file(directory / "model.safetensors"), kind
    found, model = QuantizedTensorModule(), (AWQModel if method == "awq" else GPTQModel)
    reader = model.__new__(model)
    for part in ("qweight", "qzeros", "scales"):
        setattr(found, part, weights[f"{module}.{part}"].clone())
    rows = found.scales.shape[1]
    columns = found.qweight.shape[0] if method == "awq" else 8 * found.qweight.shape[0]
    found.in_features, found.out_features, found.bits, found.group_size = columns, rows, 4, size
    if offset:
        reader.handle_qzeros(found)
    reader.unpack(found)
    reader.repack(found)
    return {
        "codes": found.qweight.numpy(),
        "scales": found.scales.float().numpy().reshape(rows, -1),
        "zero_points": found.qzeros.numpy(),
    }


@pytest.mark.parametrize("name", KINDS)
def test_the_bundle_has_the_files_own_bits(tmp_path: Path, name: str) -> None:
    checkpoint = write(tmp_path / "checkpoint", KINDS[name])
    bundle = export_bundle(checkpoint, tmp_path / "bundle", recipe="fp32")
    assert bundle.manifest.fidelity.text.kl_mean < 1e-4  # its activations alone are rounded
    precision = bundle.manifest.recipe.tensors
    assert {each.quantizer for weight, each in precision.items() if "proj.weight" in weight} == {"as-stored"}
    assert precision["model.embed_tokens.weight"].quantizer == "keep"
    graph = onnx.load(tmp_path / "bundle" / "text_decoder.onnx").graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for module in (QUERY, DOWN):
        for part, expected in as_ort_reads_it(checkpoint, module, KINDS[name]).items():
            if part == "zero_points" and KINDS[name][2]:
                assert np.isin(expected, (0x88, 0x08)).all()  # an odd number of groups leaves a half byte
                assert f"{module}.weight.zero_points" not in stored  # 8 where there are none
                continue
            found = stored[f"{module}.weight.{part}"]
            assert np.array_equal(found.reshape(-1), expected.reshape(-1)), (module, part)


@pytest.mark.parametrize("size", [16, 64, 128, -1])
@pytest.mark.parametrize("name", KINDS)
def test_each_group_size_is_read_as_it_was_written(tmp_path: Path, name: str, size: int) -> None:
    """64 and 128 do not divide the columns, -1 is a whole row."""
    method, _, symmetric, offset = KINDS[name]
    write_checkpoint(tmp_path, tiny_config("qwen2", vision=False))
    packed = pack_checkpoint(tmp_path, method, size, symmetric=symmetric, offset=offset)
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.packed) == set(packed)
    recipe = with_stored(load_recipe("gptq-g32"), checkpoint)
    assert with_stored(recipe, checkpoint) is recipe
    rules = recipe.assign(checkpoint.tensors)
    for weight, matrix in packed.items():
        expected = matrix.weights()
        assert torch.equal(checkpoint.tensor(weight), expected)
        assert torch.equal(checkpoint.tensor(weight, slice(3, 9)), expected[3:9])
        quantizer = quantizer_of(rules[weight])
        assert isinstance(quantizer, AsStored)
        blocks = in_blocks(checkpoint, weight, quantizer)
        assert np.array_equal(blocks.dequantize(), expected.numpy())
        assert np.array_equal(blocks.codes.reshape(blocks.rows, -1)[:, : blocks.columns], matrix.codes.numpy())


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_an_order_of_rows_that_is_the_others_is_seen(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write(tmp_path, KINDS[name])
    expected = open_checkpoint(checkpoint).packed_matrix(f"{QUERY}.weight")
    monkeypatch.setattr("pocketvlm.models.packed.AWQ_ORDER", tuple(range(8)))
    found = open_checkpoint(checkpoint).packed_matrix(f"{QUERY}.weight")
    assert np.array_equal(found.codes, expected.codes) == (name == "gptq")
    assert np.array_equal(found.zero_points, expected.zero_points) == (name == "gptq")


def test_rows_of_a_fused_matrix_are_codes_rows(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write(tmp_path, KINDS["gptq"]))
    name, pieces = f"{QUERY}.weight", Pieces(blocks=2, size=64, start=16, stop=48)
    part = replace(checkpoint, tensors={name: replace(checkpoint.tensors[name], pieces=pieces)})
    assert torch.equal(part.tensor(name), pieces_of(checkpoint.tensor(name), pieces))


def test_biases_of_zeros_that_the_model_has_not_are_no_weights(tmp_path: Path) -> None:
    """AutoGPTQ writes one for each layer."""
    write(tmp_path, KINDS["gptq"])
    edit_weights(lambda weights: weights.update({f"{DOWN}.bias": torch.zeros(96)}))(tmp_path)
    assert f"{DOWN}.bias" not in open_checkpoint(tmp_path).tensors
    edit_weights(lambda weights: weights.update({f"{DOWN}.bias": torch.ones(96)}))(tmp_path)
    with pytest.raises(CheckpointError, match="belongs to no part"):
        open_checkpoint(tmp_path)


SAID: dict[str, tuple[dict[str, object], str]] = {
    "8 bits": ({"bits": 8}, r"quantized already \(gptq\) with 8 bits, which no back end holds as it is; export the"),
    "odd groups": ({"group_size": 48}, "with groups of 48"),
    "marlin": ({"checkpoint_format": "marlin"}, "with the format marlin"),
    "GEMV": ({"quant_method": "awq", "version": "GEMV"}, r"\(awq\) with the format gemv"),
    "layers of their own": ({"dynamic": {"-:.*down.*": {}}}, "with dynamic = "),
    "no zero points": ({"quant_method": "awq", "version": "gemm", "zero_point": False}, "with zero_point = False"),
    "bitsandbytes": ({"quant_method": None, "load_in_4bit": True}, r"quantized already \(bitsandbytes\); export the"),
    "compressed tensors": ({"quant_method": "compressed-tensors"}, r"quantized already \(compressed-tensors\); export"),
    "fp8": ({"quant_method": "fp8"}, r"quantized already \(fp8\)"),
    "no number": ({"bits": "four"}, "quantization_config.bits"),
}


@pytest.mark.parametrize("name", SAID)
def test_what_cannot_be_held_is_refused_by_its_config(tmp_path: Path, name: str) -> None:
    said, words = SAID[name]
    write(tmp_path, KINDS["gptq"], **said)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, "_name_or_path": "acme/tiny-vlm"}))
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint(tmp_path)
    if "export the" in words:
        assert "export the original model, acme/tiny-vlm by this config" in str(caught.value)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "columns by activation": (
        edit_weights(lambda w: w.update({f"{QUERY}.g_idx": w[f"{QUERY}.g_idx"].flip(0)})),
        "g_idx orders columns by activation .desc_act., which no back end has; export the original",
    ),
    "zero points of 16": (edit_weights(lambda w: w[f"{QUERY}.qzeros"].fill_(-1)), "zero points other than 8"),
    "no scales": (edit_weights(lambda w: w.pop(f"{QUERY}.scales")), "q_proj.scales is missing from the weights"),
    "scales of another shape": (
        edit_weights(lambda w: w.update({f"{QUERY}.scales": torch.ones(2, 128).half()})),
        r"q_proj.scales is F16 \[2, 128\]; gptq in groups of 32 has F16 \[3, 128\]",
    ),
    "another type": (
        edit_weights(lambda w: w.update({f"{QUERY}.qzeros": w[f"{QUERY}.qzeros"].float()})),
        "q_proj.qzeros is F32",
    ),
    "another size": (
        edit_weights(lambda w: [w.update({f"{QUERY}.{part}": w[f"{DOWN}.{part}"].clone()}) for part in
                        ("qweight", "qzeros", "scales", "g_idx")]),
        r"q_proj.qweight has shape \[96, 160\], config.json asks for \[128, 96\]",
    ),
    "nothing packed": (lambda d: write_checkpoint(d / "plain", tiny_config("qwen2", vision=False)), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_one_is_one_line(tmp_path: Path, name: str) -> None:
    write(tmp_path, KINDS["gptq"])
    damage, words = DAMAGES[name]
    damage(tmp_path)
    if name == "nothing packed":
        (tmp_path / "plain" / "model.safetensors").rename(tmp_path / "model.safetensors")
        words = "config.json says gptq, and no weight is packed"
    with pytest.raises(PocketVlmError, match=words):
        with_stored(load_recipe("int8"), open_checkpoint(tmp_path))


def test_zero_points_of_16_are_refused(tmp_path: Path) -> None:
    write(tmp_path, ("gptq", 32, False, 1))
    edit_weights(lambda weights: weights[f"{QUERY}.qzeros"].fill_(-1))(tmp_path)
    with pytest.raises(CheckpointError, match=r"q_proj.qzeros has zero points of 16, which 4 bits do not hold"):
        with_stored(load_recipe("int8"), open_checkpoint(tmp_path))


@pytest.mark.parametrize("backend", ["executorch", "neuropilot"])
def test_a_back_end_that_cannot_hold_them_says_which_can(tmp_path: Path, backend: str) -> None:
    write(tmp_path / "checkpoint", KINDS["awq"])
    recipe = replace(load_recipe("int4-channel"), backends={"neuropilot": {"compiled": False}})
    with pytest.raises(ExportError, match=r"q_proj.weight is in 4 bits in the checkpoint.* choose --backend onnx"):
        export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", recipe=recipe, backends=["onnx", backend])


def test_there_is_nothing_to_tune(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write(tmp_path, KINDS["awq"]))
    with pytest.raises(ExportError, match="in 4 bits in the checkpoint already"):
        recipe_of_bits(checkpoint, load_recipe("int8"), "text", 5)
    write_checkpoint(tmp_path / "plain", tiny_config("qwen2", vision=False))
    packed = estimate(checkpoint, load_recipe("int8"), 256).disk_bytes
    assert packed < estimate(open_checkpoint(tmp_path / "plain"), load_recipe("int8"), 256).disk_bytes
