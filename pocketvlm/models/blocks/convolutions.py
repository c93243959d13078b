"""A vision tower of convolutions: FastViT's stem and layers (arXiv 2303.14189), as they compute once trained.

After timm's ``models/fastvit.py`` in inference mode. Points of a map are rows, [tiles, side * side, width], so that a
convolution of one point is a linear layer, which recipes quantize.
"""

from __future__ import annotations

from torch import Tensor, nn

from pocketvlm.models.convolutions import (
    END_MULTIPLIER,
    LARGE_KERNEL,
    SMALL_KERNEL,
    SQUEEZE,
    STAGE_STRIDE,
    Convolutions,
    TowerLayer,
)
from pocketvlm.models.operators import (
    Attend,
    ChannelScale,
    Depthwise,
    Gelu,
    LayerNorm,
    Linear,
    MeanOfRows,
    Patches,
    Relu,
    Sigmoid,
)
from pocketvlm.models.tower import VisionConfig


class Stem(nn.Module):
    """A tile's pixels to a map of a quarter of its sides, by three convolutions."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        assert config.convolutions is not None
        width, side = config.convolutions.widths[0], config.image_size
        self.patch_embedding = Patches(SMALL_KERNEL, width, stride=2)
        self.depthwise = Depthwise(side // 2, width, SMALL_KERNEL, stride=2)
        self.pointwise = Linear(width, width)
        self.first, self.second, self.third = Gelu(), Gelu(), Gelu()

    def forward(self, pixels: Tensor) -> Tensor:
        """float [tiles, 3, size, size] -> [tiles, (size / 4) ** 2, width]"""
        rows: Tensor = self.first(self.patch_embedding(pixels))
        rows = self.second(self.depthwise(rows))
        given: Tensor = self.third(self.pointwise(rows))
        return given


class Down(nn.Module):
    """A map of half the sides and more channels; ``positions``: what its points' neighbours say of where they are."""

    def __init__(self, layer: TowerLayer) -> None:
        super().__init__()
        width = layer.width
        self.depthwise = Depthwise(layer.side, layer.entering, LARGE_KERNEL, stride=STAGE_STRIDE, width=width)
        self.pointwise = Linear(width, width)
        self.first, self.second = Gelu(), Gelu()
        self.depthwise_positions = Depthwise(layer.side_behind, width, LARGE_KERNEL) if layer.positions else None

    def forward(self, rows: Tensor) -> Tensor:
        rows = self.first(self.depthwise(rows))
        rows = self.second(self.pointwise(rows))
        return rows if self.depthwise_positions is None else self.depthwise_positions(rows)


class ConvolutionalMlp(nn.Module):
    """A large convolution a channel, and two layers with GELU."""

    def __init__(self, side: int, width: int, inner: int) -> None:
        super().__init__()
        self.depthwise = Depthwise(side, width, LARGE_KERNEL)
        self.fc1 = Linear(width, inner)
        self.activation = Gelu()
        self.fc2 = Linear(inner, width)

    def forward(self, rows: Tensor) -> Tensor:
        output: Tensor = self.fc2(self.activation(self.fc1(self.depthwise(rows))))
        return output


class MixerBlock(nn.Module):
    """A convolution over neighbours, and an MLP beside it."""

    def __init__(self, layer: TowerLayer, inner: int) -> None:
        super().__init__()
        self.depthwise = Depthwise(layer.side, layer.width, SMALL_KERNEL)
        self.mlp = ConvolutionalMlp(layer.side, layer.width, inner)
        self.mlp_scale = ChannelScale(layer.width)

    def forward(self, rows: Tensor) -> Tensor:
        mixed = self.depthwise(rows)
        output: Tensor = mixed + self.mlp_scale(self.mlp(mixed))
        return output


class MapAttention(nn.Module):
    """Full attention over the points of a map; queries, keys and values have no biases."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.q_proj = Linear(width, width, bias=False)
        self.k_proj = Linear(width, width, bias=False)
        self.v_proj = Linear(width, width, bias=False)
        self.attend = Attend(width // head_dim, head_dim)
        self.out_proj = Linear(width, width)

    def forward(self, rows: Tensor) -> Tensor:
        mixed = self.attend(self.q_proj(rows), self.k_proj(rows), self.v_proj(rows))
        output: Tensor = self.out_proj(mixed)
        return output


class AttentionBlock(nn.Module):
    """Attention over the map, and an MLP; the norm's epsilon is PyTorch's own."""

    def __init__(self, layer: TowerLayer, inner: int, head_dim: int) -> None:
        super().__init__()
        self.layer_norm1 = LayerNorm(layer.width)
        self.self_attn = MapAttention(layer.width, head_dim)
        self.attention_scale = ChannelScale(layer.width)
        self.mlp = ConvolutionalMlp(layer.side, layer.width, inner)
        self.mlp_scale = ChannelScale(layer.width)

    def forward(self, rows: Tensor) -> Tensor:
        rows = rows + self.attention_scale(self.self_attn(self.layer_norm1(rows)))
        output: Tensor = rows + self.mlp_scale(self.mlp(rows))
        return output


class End(nn.Module):
    """Twice the channels, each times a factor of its own that follows from the whole map (squeeze and excitation, arXiv
    1709.01507)."""

    def __init__(self, layer: TowerLayer) -> None:
        super().__init__()
        width, few = layer.width, layer.width // SQUEEZE
        assert width == END_MULTIPLIER * layer.entering
        self.depthwise = Depthwise(layer.side, layer.entering, SMALL_KERNEL, width=width)
        self.mean, self.squeeze, self.relu = MeanOfRows(), Linear(width, few), Relu()
        self.excite, self.sigmoid, self.activation = Linear(few, width), Sigmoid(), Gelu()

    def forward(self, rows: Tensor) -> Tensor:
        rows = self.depthwise(rows)
        factors = self.sigmoid(self.excite(self.relu(self.squeeze(self.mean(rows)))))
        output: Tensor = self.activation(rows * factors)
        return output


def tower_layer(config: VisionConfig, *, index: int) -> nn.Module:
    """The layer with this index, [tiles, side * side, channels] -> the same of the next map."""
    shape: Convolutions | None = config.convolutions
    assert shape is not None
    layer = shape.layers(config.image_size)[index]
    if layer.kind in ("down", "end"):
        return Down(layer) if layer.kind == "down" else End(layer)
    inner = shape.mlp_ratio * layer.width
    return MixerBlock(layer, inner) if layer.kind == "mixer" else AttentionBlock(layer, inner, shape.head_dim)
