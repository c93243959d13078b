"""The codes, scales and zero points that a checkpoint has already: AWQ's and GPTQ's, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketvlm.errors import RecipeError
from pocketvlm.quant.grids import Grid
from pocketvlm.quant.groups import CHANNEL, GroupQuantizer
from pocketvlm.quant.tensors import Codes, Floats, GroupedTensor

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AsStored(GroupQuantizer):
    """Says how the checkpoint's own matrices are stored; an export puts it in front of a recipe's rules for them."""

    def fit(self, groups: Tensor) -> Grid:
        raise RecipeError("as-stored is for weights that the checkpoint has in 4 bits already: choose another")

    def stored(self, codes: Codes, scales: Floats, zero_points: Codes) -> GroupedTensor:
        """codes uint8 [rows, columns], scales float32 [rows, groups], zero_points uint8 [rows, groups] -> in blocks

        Without zero points where the config is symmetric: then each is 2 ** (bits - 1).
        """
        rows, columns = codes.shape
        block = self._block_size(columns)
        blocks = -(-columns // block)
        if self.group_size == CHANNEL:
            scales, zero_points = np.repeat(scales, blocks, axis=1), np.repeat(zero_points, blocks, axis=1)
        # [rows, columns] -> [rows, blocks * block] -> [rows, blocks, block]; the padding of a last group is worth zero
        padded = np.repeat(zero_points, block, axis=1)
        padded[:, :columns] = codes
        return GroupedTensor(
            codes=padded.reshape(rows, blocks, block),
            scales=scales,
            zero_points=None if self.symmetric else zero_points,
            bits=self.bits,
            columns=columns,
            per_channel=self.group_size == CHANNEL,
        )
