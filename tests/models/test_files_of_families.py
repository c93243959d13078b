"""AWQ's and PEFT's files name weights as a family's own checkpoints do, in either naming, fused ones too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pocketvlm.models.checkpoint import open_checkpoint
from tests.support.adapters import factors, merged, write_adapter
from tests.support.packed import awq_tensors, grouped
from tests.support.vision_families import WRITERS
from tests.support.written_family import Written


@pytest.fixture(scope="module", params=WRITERS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return WRITERS[request.param](tmp_path_factory.mktemp(request.param))


def in_layers(directory: Path) -> dict[str, Tensor]:
    """The matrices of all layers that AWQ can pack, by their keys."""
    weights = {key: value for file in directory.glob("*.safetensors") for key, value in load_file(file).items()}
    return {
        key: value
        for key, value in weights.items()
        if "layer" in key and value.ndim == 2 and value.shape[0] % 8 == value.shape[1] % 32 == 0
    }


def with_weights(source: Path, directory: Path, changed: dict[str, Tensor], left_out: set[str]) -> Path:
    """A copy with other weights in place of some."""
    weights = {key: value for file in source.glob("*.safetensors") for key, value in load_file(file).items()}
    shutil.copytree(source, directory, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    kept = {key: value for key, value in weights.items() if key not in left_out}
    save_file({key: value.contiguous() for key, value in {**kept, **changed}.items()}, directory / "model.safetensors")
    return directory


def test_awq_is_the_model_of_its_dequantized_weights(written: Written, tmp_path: Path) -> None:
    matrices = {key: grouped(value, 32, symmetric=False) for key, value in in_layers(written.directory).items()}
    assert len(matrices) >= 7
    parts = {
        f"{key.removesuffix('weight')}{part}": tensor
        for key, matrix in matrices.items()
        for part, tensor in awq_tensors(matrix).items()
    }
    packed = with_weights(written.directory, tmp_path / "packed", parts, set(matrices))
    plain = {key: matrix.weights() for key, matrix in matrices.items()}
    dequantized = open_checkpoint(with_weights(written.directory, tmp_path / "plain", plain, set()))
    raw = json.loads((packed / "config.json").read_text())
    raw["quantization_config"] = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}
    (packed / "config.json").write_text(json.dumps(raw))
    found = open_checkpoint(packed)
    assert len(found.packed) >= len(matrices) - written.unused
    for name in found.tensors:
        assert torch.equal(found.tensor(name).float(), dequantized.tensor(name).float()), name


@pytest.mark.parametrize("original", [True, False])
def test_an_adapter_is_the_model_that_it_was_merged_into(written: Written, tmp_path: Path, original: bool) -> None:
    source = written.directory
    if not original:
        source = tmp_path / "second"
        shutil.copytree(written.directory, source, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
        written.model.save_pretrained(source, save_original_format=False)
    matrices = in_layers(source)
    lora = {
        key.removesuffix(".weight"): factors(key.removesuffix(".weight"), (value.shape[0], value.shape[1]), seed=at)
        for at, (key, value) in enumerate(matrices.items())
    }
    write_adapter(tmp_path / "lora", {key: value for pair in lora.values() for key, value in pair.items()})
    whole = {f"{name}.weight": merged(matrices[f"{name}.weight"], pair, name, 8).float() for name, pair in lora.items()}
    expected = open_checkpoint(with_weights(source, tmp_path / "merged", whole, set()))
    found = open_checkpoint(source, lora=tmp_path / "lora")
    for name in found.tensors:
        assert torch.allclose(found.tensor(name).float(), expected.tensor(name).float(), atol=1e-5), name
