"""Which row of its table of positions a patch has, where that is computed."""

from __future__ import annotations

import torch
from torch import Tensor


def bucketized(side: int) -> Tensor:
    """int64 [side * side]: the table's row of each patch of a whole tile, row by row.

    As transformers' ``Idefics3VisionEmbeddings`` computes them (Patch n' Pack, arXiv 2307.06304), in float32: of some
    sides (19, 25, 29) a bucket's boundary rounds above the place that it begins at, which so falls into the one before.
    """
    boundaries = torch.arange(1 / side, 1.0, 1 / side)
    places = torch.arange(side, dtype=torch.float32) * (1.0 / torch.tensor(side))
    rows = torch.bucketize(places.clamp(max=1.0 - 1e-6), boundaries, right=True)
    # [side, 1] and [1, side] -> [side, side] -> [side * side]
    return (rows[:, None] * side + rows[None]).flatten()
