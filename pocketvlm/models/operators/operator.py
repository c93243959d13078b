"""What all operators are."""

from __future__ import annotations

from torch import nn


class Operator(nn.Module):
    """What a trace of a block is made of."""
