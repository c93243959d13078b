"""A recipe on an NPU's arithmetic, simulated: what its activations cost, known on a desktop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pocketvlm.export.read.sample import Sample
from pocketvlm.export.reference.simulate import Simulated, scored_logits
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.quant.integer import half_linear, integer_linear


@dataclass(frozen=True)
class Arithmetic:
    """Activations of the decoder's linear layers, integers of ``bits`` or float32 (None), with one scale a tensor from
    calibration or one a row; FP16 in the vision part or float32. The head, norms, softmax and the sums are float32."""

    name: str
    bits: Literal[8, 16] | None = None
    scale: Literal["tensor", "row"] = "row"
    half_vision: bool = False


#: The paper's (arXiv 2411.10640, section 3), what ONNX Runtime's CPU kernels are like, and the coarsest.
ARITHMETICS = (
    Arithmetic("float32"),
    Arithmetic("A16 per tensor, vision FP16", 16, "tensor", half_vision=True),
    Arithmetic("A16 per tensor", 16, "tensor"),
    Arithmetic("A8 per row", 8, "row"),
    Arithmetic("A8 per tensor", 8, "tensor"),
)
DECODER = "model.layers."


class _Linear(nn.Module):
    """Stands where a linear layer stood."""

    def __init__(self, compute: Callable[[Tensor], Tensor], bias: Tensor | None) -> None:
        super().__init__()
        self._compute, self._bias = compute, bias

    def forward(self, inputs: Tensor) -> Tensor:
        output = self._compute(inputs)
        return output if self._bias is None else output + self._bias


def input_ranges(checkpoint: Checkpoint, samples: Sequence[Sample]) -> dict[str, float]:
    """The largest magnitude of what enters each linear layer of the decoder, by its weight's name."""
    ranges: dict[str, float] = {}

    def watch(module: nn.Module, prefix: str) -> None:
        for name, linear in linears(module, prefix):

            def hook(_: nn.Module, inputs: tuple[Any, ...], name: str = name) -> None:
                ranges[name] = max(ranges.get(name, 0.0), float(inputs[0].abs().max()))

            linear.register_forward_pre_hook(hook)

    scored_logits(checkpoint, checkpoint.tensor, samples, watch)
    return {name: largest for name, largest in ranges.items() if name.startswith(DECODER)}


def simulated_logits(
    checkpoint: Checkpoint,
    simulated: Simulated,
    samples: Sequence[Sample],
    arithmetic: Arithmetic,
    ranges: dict[str, float],
) -> Tensor:
    """The logits over the samples' text, float32 [tokens, vocabulary], by a recipe's weights and an arithmetic."""

    def replace(module: nn.Module, prefix: str) -> None:
        for name, linear in linears(module, prefix):
            weight = simulated.quantized(name)
            if weight is None:
                continue
            if name.startswith(DECODER) and arithmetic.bits is not None:
                scale = ranges[name] if arithmetic.scale == "tensor" else None
                compute = partial(integer_linear, weight=weight, bits=arithmetic.bits, scale=scale)
            elif not name.startswith(DECODER) and arithmetic.half_vision:
                compute = partial(half_linear, weight=weight)
            else:
                continue
            parent, _, child = name.removeprefix(prefix).removesuffix(".weight").rpartition(".")
            bias = None if linear.bias is None else linear.bias.detach()
            setattr(module.get_submodule(parent), child, _Linear(compute, bias))

    with torch.no_grad():
        return scored_logits(checkpoint, simulated.read, samples, replace)


def linears(module: nn.Module, prefix: str) -> list[tuple[str, nn.Linear]]:
    """The linear layers of a module, by the names of their weights."""
    return [(f"{prefix}{name}.weight", part) for name, part in module.named_modules() if isinstance(part, nn.Linear)]
