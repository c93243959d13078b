"""Activation functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pocketvlm.models.operators.operator import Operator


class Gelu(Operator):
    """``approximate``: "none", or "tanh", as in PyTorch."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, values: Tensor) -> Tensor:
        return F.gelu(values, approximate=self.approximate)


class QuickGelu(Operator):
    """x times sigmoid(``alpha`` x): CLIP's."""

    alpha = 1.702

    def forward(self, values: Tensor) -> Tensor:
        return values * torch.sigmoid(self.alpha * values)


class Silu(Operator):
    """x times sigmoid(x)."""

    def forward(self, values: Tensor) -> Tensor:
        return F.silu(values)


class Relu(Operator):
    """x where it is positive, else 0."""

    def forward(self, values: Tensor) -> Tensor:
        return F.relu(values)


class Softcap(Operator):
    """``cap`` times tanh(x / ``cap``): no number is further from 0 (Gemma 2, arXiv 2408.00118, section 2)."""

    def __init__(self, cap: float) -> None:
        super().__init__()
        self.cap = cap

    def forward(self, values: Tensor) -> Tensor:
        return self.cap * torch.tanh(values / self.cap)


class Sigmoid(Operator):
    """1 / (1 + exp(-x))"""

    def forward(self, values: Tensor) -> Tensor:
        return torch.sigmoid(values)
