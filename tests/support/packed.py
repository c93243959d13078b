"""Checkpoints in 4 bits as AutoGPTQ and AutoAWQ write them: their loops, one code at a time, on weights of ours."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

#: AutoAWQ's ``order_map``: which of eight rows the i-th nibble holds.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Grouped:
    """codes int [rows, columns]; scales float16 and zeros int [rows, groups]"""

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    size: int

    def weights(self) -> Tensor:
        group = torch.arange(self.codes.shape[1]) // self.size
        return (self.codes - self.zeros[:, group]).float() * self.scales[:, group].float()


def grouped(weight: Tensor, size: int, *, symmetric: bool) -> Grouped:
    """Round to nearest, in groups of ``size`` columns (-1: all), the last one shorter where it has to be."""
    rows, columns = weight.shape
    size = columns if size == -1 else size
    codes, scales, zeros = [], [], []
    for start in range(0, columns, size):
        part = weight[:, start : start + size].float()
        if symmetric:
            scale, zero = part.abs().amax(1) / 7, torch.full((rows,), 8)
        else:
            low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
            scale = (high - low) / 15
            zero = (-low / scale).round().clamp(1, 15)  # AutoGPTQ stores it less 1
        scale = scale.half()
        scales.append(scale)
        zeros.append(zero.int())
        codes.append(((part / scale.float()[:, None]).round() + zero[:, None]).clamp(0, 15).int())
    return Grouped(torch.cat(codes, 1), torch.stack(scales, 1), torch.stack(zeros, 1), size)


def gptq_tensors(matrix: Grouped, *, offset: int) -> dict[str, Tensor]:
    """``QuantLinear.pack`` of AutoGPTQ; ``offset`` 1 is its format, 0 GPTQModel's gptq_v2."""
    codes, zeros = matrix.codes.T.tolist(), (matrix.zeros - offset).T.tolist()
    qweight = [
        [sum(codes[8 * word + j][row] << (4 * j) for j in range(8)) for row in range(len(codes[0]))]
        for word in range(len(codes) // 8)
    ]
    columns = torch.arange(len(codes), dtype=torch.int32)
    return {
        "qweight": _int32(qweight),
        "qzeros": _int32(
            [[sum(row[8 * w + j] << (4 * j) for j in range(8)) for w in range(len(row) // 8)] for row in zeros]
        ),
        "scales": matrix.scales.T.contiguous(),
        "g_idx": columns // matrix.size,
    }


def awq_tensors(matrix: Grouped) -> dict[str, Tensor]:
    """``WQLinear_GEMM.from_linear`` of AutoAWQ."""

    def words(rows: list[list[int]]) -> Tensor:
        return _int32(
            [
                [sum(row[8 * w + AWQ_ORDER[i]] << (4 * i) for i in range(8)) for w in range(len(row) // 8)]
                for row in rows
            ]
        )

    return {
        "qweight": words(matrix.codes.T.tolist()),
        "qzeros": words(matrix.zeros.T.tolist()),
        "scales": matrix.scales.T.contiguous(),
    }


def _int32(words: list[list[int]]) -> Tensor:
    return torch.tensor(words, dtype=torch.int64).to(torch.int32)  # the highest bit is the sign's


def pack_checkpoint(
    directory: Path, method: str, size: int, *, symmetric: bool = False, offset: int = 1, **config: Any
) -> dict[str, Grouped]:
    """Pack the matrices of a checkpoint's decoder layers where they are; gives each by its weight's name."""
    weights = load_file(directory / "model.safetensors")
    packed = {}
    for name in [name for name in weights if "layers" in name and name.startswith("model.") and "proj.weight" in name]:
        packed[name] = grouped(weights.pop(name), size, symmetric=symmetric)
        parts = awq_tensors(packed[name]) if method == "awq" else gptq_tensors(packed[name], offset=offset)
        weights |= {f"{name.removesuffix('weight')}{part}": tensor for part, tensor in parts.items()}
    (directory / "model.safetensors").unlink()
    save_file(weights, directory / "model.safetensors")
    said = {"quant_method": method, "bits": 4, "group_size": size}
    if method == "awq":
        said |= {"zero_point": True, "version": "gemm"}
    else:
        said |= {"sym": symmetric, "desc_act": False, "checkpoint_format": "gptq" if offset else "gptq_v2"}
    raw = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**raw, "quantization_config": {**said, **config}}))
    return packed
