"""What an NPU computes, bit for bit, in PyTorch: products of quantized weights and integer or FP16 activations.

BlueLM-V-3B (arXiv 2411.10640, section 3) has INT4 weights with INT16 activations in the decoder, INT8 weights with FP16
ones in the ViT. Integers are multiplied and added as float64, which is exact below 2 ** 53: 65,536 columns of INT16
times INT8 stay below 2 ** 38.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pocketvlm.quant.tensors import GroupedTensor


def quantize_activations(inputs: Tensor, bits: int, scale: float | None) -> tuple[Tensor, Tensor]:
    """Whole numbers from -(2 ** (bits - 1) - 1) to its negative, in float64, and their scale.

    ``inputs``: float [..., columns]. ``scale``: one for all (static: values beyond it are clipped), or None for one a
    row, of its largest magnitude (dynamic). Halves are rounded to even.
    """
    top = (1 << (bits - 1)) - 1
    values = inputs.double()
    largest = values.abs().amax(-1, keepdim=True) if scale is None else torch.full_like(values[..., :1], scale)
    step = largest / top
    step = torch.where(step == 0, torch.ones_like(step), step)
    return (values / step).round().clamp(-top, top), step


def integer_linear(inputs: Tensor, weight: GroupedTensor, bits: int, scale: float | None = None) -> Tensor:
    """inputs [..., columns] times a quantized [rows, columns] weight -> float32 [..., rows].

    Products of a group (of a whole row where it has one scale) are summed as integers, then scaled, and groups are
    summed in float32. ``scale`` as for ``quantize_activations``: the value of largest magnitude that is not clipped.
    """
    whole, step = quantize_activations(inputs, bits, scale)
    zero_points = 1 << (weight.bits - 1) if weight.zero_points is None else weight.zero_points[..., None]
    steps = torch.from_numpy(weight.codes.astype("float64") - zero_points)  # [rows, groups, group_size]
    padded = F.pad(whole, (0, weight.groups * weight.group_size - weight.columns))
    # [..., groups * group_size] -> [tokens, groups, group_size]
    grouped = padded.reshape(-1, weight.groups, weight.group_size)
    # [groups, tokens, group_size] x [groups, group_size, rows] -> [groups, tokens, rows]
    sums = grouped.transpose(0, 1) @ steps.permute(1, 2, 0)
    scales = torch.from_numpy(weight.scales)  # [rows, groups]
    if weight.per_channel:
        sums, scales = sums.sum(0, keepdim=True), scales[:, :1]
    scaled = (sums.float() * scales.T[:, None, :]).sum(0)  # [groups, 1, rows] scales -> [tokens, rows]
    # [tokens, rows] -> [..., rows]
    return scaled.view(*inputs.shape[:-1], weight.rows) * step.float()


def half_linear(inputs: Tensor, weight: GroupedTensor) -> Tensor:
    """FP16 activations times INT8 weights that become FP16, summed in float32, rounded to FP16: float32 [..., rows]"""
    values = torch.from_numpy(weight.dequantize()).half().float()
    return (inputs.half().float() @ values.T).half().float()
