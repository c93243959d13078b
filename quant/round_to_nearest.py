"""Round to nearest: each group's range decides its scale, nothing else is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pocketvlm.errors import RecipeError
from pocketvlm.quant.tensors import GroupedTensor

#: Rows quantized at a time: bounds the float32 copy of a 122753 x 2304 embedding table to some 40 MB.
ROWS_AT_A_TIME = 4096


@dataclass(frozen=True)
class RoundToNearest:
    """``bits`` of 4 or 8 in groups of ``group_size`` along a row; ``symmetric`` has no zero points."""

    bits: Literal[4, 8]
    group_size: int
    symmetric: bool = True

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise RecipeError(f"round-to-nearest: bits is {self.bits!r}; it is 4 or 8")
        if self.group_size not in (16, 32, 64, 128, 256):
            raise RecipeError(f"round-to-nearest: group_size is {self.group_size!r}; it is 16, 32, 64, 128 or 256")

    def quantize(self, weight: Tensor) -> GroupedTensor:
        """[rows, columns] of any float type -> codes and scales; the weight is finite (``Checkpoint.tensor`` checks).

        :raises RecipeError: when the weight is not a matrix
        """
        _require_matrix(tuple(weight.shape))
        quantize = self._symmetric if self.symmetric else self._asymmetric
        blocks = [quantize(self._grouped(rows.float())) for rows in weight.split(ROWS_AT_A_TIME)]
        codes, scales, zero_points = (
            None if parts[0] is None else np.concatenate([part.numpy() for part in parts])
            for parts in zip(*blocks, strict=True)
        )
        assert codes is not None and scales is not None
        return GroupedTensor(codes, scales, zero_points, self.bits, weight.shape[1])

    def stored_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes that a matrix of ``shape`` takes: codes, scales, zero points."""
        _require_matrix(shape)
        rows, columns = shape
        groups = -(-columns // self.group_size)
        zero_points = 0 if self.symmetric else rows * -(-groups * self.bits // 8)
        return rows * groups * (self.group_size * self.bits // 8 + 4) + zero_points

    def _grouped(self, rows: Tensor) -> Tensor:
        padded = F.pad(rows, (0, -rows.shape[1] % self.group_size))
        return padded.view(rows.shape[0], -1, self.group_size)  # [rows, columns] -> [rows, groups, group_size]

    def _symmetric(self, groups: Tensor) -> tuple[Tensor, Tensor, None]:
        """The value of largest magnitude, with its sign, becomes the code 0: all 2 ** bits codes are used."""
        middle = 1 << (self.bits - 1)
        largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))  # [rows, groups, 1]
        scale = largest / -middle
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        codes = (groups / scale).round().clamp(-middle, middle - 1) + middle
        return codes.to(torch.uint8), scale.squeeze(-1), None

    def _asymmetric(self, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Zero is always representable, so that padding and zero groups stay exact."""
        top = (1 << self.bits) - 1
        low, high = groups.amin(-1, keepdim=True).clamp(max=0), groups.amax(-1, keepdim=True).clamp(min=0)
        scale = (high - low) / top
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        zero = (-low / scale).round().clamp(0, top)
        codes = ((groups / scale).round() + zero).clamp(0, top)
        return codes.to(torch.uint8), scale.squeeze(-1), zero.squeeze(-1).to(torch.uint8)


def _require_matrix(shape: tuple[int, ...]) -> None:
    if len(shape) != 2:
        raise RecipeError(f"round-to-nearest takes matrices, not a tensor of shape {list(shape)}")
