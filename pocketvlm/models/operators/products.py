"""Products, and what is added and multiplied."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pocketvlm.models.operators.operator import Operator
from pocketvlm.models.operators.places import PicturePlace


class Linear(nn.Linear, Operator):
    """[..., columns] -> [..., rows]; its weight is what recipes quantize."""


class Patches(nn.Conv2d, Operator):
    """float [tiles, 3, size, size] -> [tiles, patches, width]: each patch times one matrix, row by row.

    With a ``stride`` below ``patch_size`` patches overlap, and those at the edges have zeros around the tile.
    """

    def __init__(self, patch_size: int, width: int, *, bias: bool = True, stride: int | None = None) -> None:
        padding = 0 if stride is None else patch_size // 2
        super().__init__(3, width, patch_size, stride=stride or patch_size, padding=padding, bias=bias)

    def forward(self, pixels: Tensor) -> Tensor:
        # [tiles, width, grid, grid] -> [tiles, width, patches] -> [tiles, patches, width]
        return super().forward(pixels).flatten(2).transpose(1, 2)


class Depthwise(nn.Conv2d, Operator):
    """A convolution of each channel by itself, over rows that are points of a map, with zeros around it.

    [tiles, side * side, channels] -> [tiles, (side / stride) ** 2, width]; of each channel ``width / channels`` become
    neighbours.
    """

    def __init__(self, side: int, channels: int, kernel: int, *, stride: int = 1, width: int | None = None) -> None:
        width = channels if width is None else width
        super().__init__(channels, width, kernel, stride=stride, padding=kernel // 2, groups=channels)
        self.side = side

    def forward(self, rows: Tensor) -> Tensor:
        # [tiles, side * side, channels] -> [tiles, channels, side, side]
        points = rows.transpose(1, 2).unflatten(2, (self.side, self.side))
        # [tiles, width, side behind, side behind] -> [tiles, rows behind, width]
        return super().forward(points).flatten(2).transpose(1, 2)


class Parameter(Operator):
    """Adds a learned [rows, width] to [..., rows, width]: positions."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))
        nn.init.normal_(self.weight)

    def forward(self, values: Tensor) -> Tensor:
        return values + self.weight


class PositionRows(Operator):
    """Adds rows that follow from where a picture's patches stand, on [tiles, patches, width]."""

    def forward(self, values: Tensor, place: PicturePlace) -> Tensor:
        assert place.rows is not None
        return values + place.rows


class KeyRows(Operator):
    """Adds rows that follow from where a picture's patches stand to a resampler's keys, [tiles, 1, width]."""

    def forward(self, values: Tensor, place: PicturePlace) -> Tensor:
        assert place.key_rows is not None
        return values + place.key_rows


class ChannelScale(Operator):
    """Times a learned factor a channel, [width], on [..., width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, values: Tensor) -> Tensor:
        return values * self.weight


class Clip(Operator):
    """Between two learned numbers, [1] each."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Parameter(torch.full((1,), -1e38)), nn.Parameter(torch.full((1,), 1e38))

    def forward(self, values: Tensor) -> Tensor:
        return torch.maximum(torch.minimum(values, self.high), self.low)


class RowBehind(Operator):
    """A learned row, [width], times ``factor``, behind each one: [..., rows, channels] -> [..., rows, channels +
    width]"""

    def __init__(self, width: int, factor: float) -> None:
        super().__init__()
        self.weight, self.factor = nn.Parameter(torch.zeros(width)), factor

    def forward(self, values: Tensor) -> Tensor:
        row = (self.weight * self.factor).expand(*values.shape[:-1], -1)
        return torch.cat([values, row], dim=-1)


class Scale(Operator):
    """Times a constant; right behind a linear layer or a norm a back end may multiply it into the weight."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, values: Tensor) -> Tensor:
        return values * self.factor
