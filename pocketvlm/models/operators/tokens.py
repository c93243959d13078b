"""Tokens and channels taken apart and put together."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketvlm.models.operators.operator import Operator


class ClassToken(Operator):
    """A learned row, [width], in front of a tile's: [tiles, rows, width] -> [tiles, 1 + rows, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, values: Tensor) -> Tensor:
        # [width] -> [tiles, 1, width]
        return torch.cat([self.weight.expand(len(values), 1, -1), values], dim=1)


class DropFirst(Operator):
    """Without a tile's first row: [tiles, 1 + ``rows``, width] -> [tiles, rows, width]."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, values: Tensor) -> Tensor:
        return values[:, 1:]


class MeanOfRows(Operator):
    """Of each channel over a tile's rows: [tiles, rows, width] -> [tiles, 1, width]."""

    def forward(self, values: Tensor) -> Tensor:
        return values.mean(1, keepdim=True)


class MeanOfBlocks(Operator):
    """Of each channel over each ``ratio`` x ``ratio`` block of a ``grid`` x ``grid`` of tokens of this width: [tiles,
    grid * grid, width] -> [tiles, side * side, width], of whole blocks along the grid's rows."""

    def __init__(self, grid: int, width: int, ratio: int) -> None:
        super().__init__()
        self.grid, self.width, self.ratio = grid, width, ratio

    @property
    def side(self) -> int:
        """Blocks along one side."""
        return self.grid // self.ratio

    def forward(self, tokens: Tensor) -> Tensor:
        # [tiles, grid * grid, width] -> [tiles, side, ratio, side, ratio, width] -> [tiles, side, side, width]
        blocks = tokens.unflatten(1, (self.side, self.ratio, self.side, self.ratio)).mean((2, 4))
        # -> [tiles, side * side, width]
        return blocks.flatten(1, 2)


class Channels(Operator):
    """``size`` of the channels, from ``first`` on: [..., width] -> [..., size]."""

    def __init__(self, first: int, size: int) -> None:
        super().__init__()
        self.first, self.size = first, size

    def forward(self, values: Tensor) -> Tensor:
        return values[..., self.first : self.first + self.size]


class Regroup(Operator):
    """The same values as ``rows`` of so much ``width`` a tile, of more tiles or fewer: [tiles, ...] -> [others, rows,
    width]."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.rows, self.width = rows, width

    def forward(self, values: Tensor) -> Tensor:
        return values.reshape(-1, self.rows, self.width)


class Join(Operator):
    """Two side by side: [..., width], [..., other] -> [..., width + other]."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.cat([left, right], dim=-1)


class Blocks(Operator):
    """Each ``ratio`` x ``ratio`` block of a ``grid`` x ``grid`` of tokens of this width side by side in one token; they
    go along the grid's rows, or ``by_column`` down its columns."""

    def __init__(self, grid: int, width: int, ratio: int, *, by_column: bool = False) -> None:
        super().__init__()
        self.grid, self.width, self.ratio, self.by_column = grid, width, ratio, by_column

    @property
    def side(self) -> int:
        """Blocks along one side."""
        return -(-self.grid // self.ratio)

    def forward(self, tokens: Tensor) -> Tensor:
        blocks = space_to_depth(tokens, self.ratio)
        if not self.by_column:
            return blocks
        # [tiles, side * side, width] -> [tiles, side, side, width], and the first side is the columns'
        return blocks.unflatten(1, (self.side, self.side)).transpose(1, 2).flatten(1, 2)


def space_to_depth(tokens: Tensor, ratio: int) -> Tensor:
    """Concatenate each ratio x ratio block of tokens; an odd grid is padded with zeros at its right and bottom.

    [tiles, grid * grid, width] -> [tiles, ceil(grid / ratio) ** 2, ratio * ratio * width] (paper, section 3.1: VILA's
    downsampler, 27x27 -> 28x28 -> 14x14). Within a block the order is row by row.
    """
    tiles, patches, width = tokens.shape
    grid = round(patches**0.5)
    padding = -grid % ratio
    side = (grid + padding) // ratio
    tokens = tokens.view(tiles, grid, grid, width)  # [tiles, patches, width] -> [tiles, rows, columns, width]
    tokens = F.pad(tokens, (0, 0, 0, padding, 0, padding))
    # [tiles, rows, columns, width] -> [tiles, side, ratio, side, ratio, width]
    tokens = tokens.view(tiles, side, ratio, side, ratio, width)
    # -> [tiles, side, side, ratio, ratio, width] -> [tiles, side * side, ratio * ratio * width]
    return tokens.transpose(2, 3).reshape(tiles, side * side, ratio * ratio * width)
