"""Norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pocketvlm.models.operators.operator import Operator


class LayerNorm(nn.LayerNorm, Operator):
    """Over the last axis, with weight and bias."""


class RmsNorm(Operator):
    """Root-mean-square norm (arXiv 1910.07467), without a mean and without a bias: over the last axis, or over each of
    ``heads`` that lie side by side in it."""

    def __init__(self, size: int, eps: float, heads: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps, self.heads = eps, heads

    def forward(self, hidden: Tensor) -> Tensor:
        # [..., heads * size] -> [..., heads, size]
        rows = hidden.unflatten(-1, (self.heads, -1))
        scale = torch.rsqrt(rows.float().pow(2).mean(-1, keepdim=True) + self.eps)
        # -> [..., heads * size]
        return (self.weight * (rows * scale.to(hidden.dtype))).flatten(-2)
