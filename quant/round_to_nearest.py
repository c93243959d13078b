"""Round to nearest: each group's range decides its scale, nothing else is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketvlm.quant.grids import Grid, full_range
from pocketvlm.quant.groups import GroupQuantizer

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RoundToNearest(GroupQuantizer):
    """The grid spans the whole range of a group."""

    def fit(self, groups: Tensor) -> Grid:
        return full_range(groups, self.bits, symmetric=self.symmetric, positive=self.scales != "float32")
