"""LoRA adapters in PEFT's files, and what PEFT's formulas make of a weight, in PyTorch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor


def write_adapter(directory: Path, tensors: dict[str, Tensor], **config: Any) -> None:
    """``tensors`` by PEFT's keys behind ``base_model.model.``"""
    directory.mkdir(parents=True, exist_ok=True)
    said = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "bias": "none",
        "fan_in_fan_out": False,
        "task_type": "CAUSAL_LM",
    }
    (directory / "adapter_config.json").write_text(json.dumps({**said, **config}))
    save_file(
        {f"base_model.model.{key}": tensor.contiguous() for key, tensor in tensors.items()},
        directory / "adapter_model.safetensors",
    )


def factors(module: str, shape: tuple[int, int], rank: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Random ones for a matrix [rows, columns]."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = shape
    return {
        f"{module}.lora_A.weight": torch.randn(rank, columns, generator=generator) * 0.1,
        f"{module}.lora_B.weight": torch.randn(rows, rank, generator=generator) * 0.1,
    }


def merged(weight: Tensor, tensors: dict[str, Tensor], module: str, alpha: float, *, rslora: bool = False) -> Tensor:
    """``Linear.get_delta_weight`` of PEFT, in float64: a sum over the rank, one outer product at a time."""
    down, up = (tensors[f"{module}.lora_{which}.weight"].double() for which in "AB")
    rank = down.shape[0]
    scale = alpha / (math.sqrt(rank) if rslora else rank)
    return weight.double() + scale * sum(torch.outer(up[:, one], down[one]) for one in range(rank))
