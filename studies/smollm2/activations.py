"""What the linear layers of the reference read on calibration text: for importance matrices and for GPTQ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from studies.smollm2.gguf_files import Floats

Ids = npt.NDArray[np.int64]

#: One layer stands for those that read the same values.
READS_THE_SAME = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}


def collect(config: Mapping[str, Any], weights: Mapping[str, Floats], windows: Ids, file: Path) -> None:
    """Write the Gram matrices of all linear layers' inputs: name -> mean over tokens of x xT, float32 [inputs, inputs].

    All of it from one pass of the float model (no layer sees the quantized ones before it), as both llama.cpp's imatrix
    tool and ONNX Runtime's GPTQ do it.
    """
    import torch
    from safetensors.torch import save_file

    from pocketvlm.models.bluelm_v import BluelmV
    from pocketvlm.models.config import VlmConfig

    with torch.device("meta"):
        model = BluelmV(VlmConfig.from_dict(config))
    model.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()}, assign=True)
    sums: dict[str, torch.Tensor] = {}

    def watch(name: str, layer: torch.nn.Linear) -> None:
        def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            values = inputs[0].flatten(0, -2)  # [1, tokens, inputs] -> [tokens, inputs]
            total = sums.setdefault(name, torch.zeros(values.shape[1], values.shape[1]))
            total.addmm_(values.T, values)

        layer.register_forward_pre_hook(hook)

    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and source_of(f"{name}.weight") == f"{name}.weight":
            watch(f"{name}.weight", layer)
    with torch.inference_mode():
        for token_ids in windows:
            model(model.embed_tokens(torch.from_numpy(token_ids)[None]))
    partial = file.with_suffix(".partial")
    save_file({name: total / windows.size for name, total in sums.items()}, partial)
    partial.replace(file)


def source_of(name: str) -> str:
    """The weight under whose name the inputs of ``name`` are stored."""
    for layer, same in READS_THE_SAME.items():
        name = name.replace(f"{layer}.weight", f"{same}.weight")
    return name


def gram(file: Path, name: str) -> Floats:
    """Mean of x xT over the inputs of a linear layer, float32 [inputs, inputs]."""
    from safetensors import safe_open

    with safe_open(file, framework="np") as tensors:
        matrix: Floats = tensors.get_tensor(source_of(name))
    return matrix


def mean_squares(file: Path, name: str) -> Floats:
    """Mean of each input's square, float32 [inputs]: what llama.cpp calls an importance matrix."""
    return np.diagonal(gram(file, name)).copy()
