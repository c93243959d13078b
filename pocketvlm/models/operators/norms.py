"""Norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pocketvlm.models.operators.operator import Operator


class LayerNorm(nn.LayerNorm, Operator):
    """Over the last axis, with weight and bias."""


class RmsNorm(Operator):
    """Root-mean-square norm (arXiv 1910.07467), without a mean and without a bias: over the last axis, or over each of
    ``heads`` that lie side by side in it; not ``weighted``: without a factor a channel."""

    def __init__(self, size: int, eps: float, heads: int = 1, *, weighted: bool = True) -> None:
        super().__init__()
        self.register_parameter("weight", nn.Parameter(torch.ones(size)) if weighted else None)
        self.size, self.eps, self.heads = size, eps, heads

    def forward(self, hidden: Tensor) -> Tensor:
        # [..., heads * size] -> [..., heads, size]
        rows = hidden.unflatten(-1, (self.heads, -1))
        scale = torch.rsqrt(rows.float().pow(2).mean(-1, keepdim=True) + self.eps)
        normed = rows * scale.to(hidden.dtype)
        # -> [..., heads * size]
        return (normed if self.weight is None else self.weight * normed).flatten(-2)
