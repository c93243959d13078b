"""From the tower's patches to the decoder's tokens: norm, 2x2 downsampler, two-layer MLP (paper, section 3.1)."""

from __future__ import annotations

from torch import Tensor, nn

from pocketvlm.models.config import VisionConfig, VlmConfig
from pocketvlm.models.operators import Blocks, Gelu, LayerNorm, Linear


class Downsampler(nn.Module):
    """ratio x ratio tokens to one."""

    def __init__(self, config: VisionConfig, ratio: int) -> None:
        super().__init__()
        self.blocks = Blocks(config.grid_size, config.hidden_size, ratio)
        self.linear = Linear(ratio * ratio * config.hidden_size, config.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        merged: Tensor = self.linear(self.blocks(tokens))
        return merged


class Projector(nn.Module):
    """Two-layer MLP from the vision width to the decoder's."""

    def __init__(self, vision_size: int, text_size: int) -> None:
        super().__init__()
        self.linear_1 = Linear(vision_size, text_size)
        self.activation = Gelu()
        self.linear_2 = Linear(text_size, text_size)

    def forward(self, tokens: Tensor) -> Tensor:
        projected: Tensor = self.linear_2(self.activation(self.linear_1(tokens)))
        return projected


class Projection(nn.Module):
    """What follows the last layer of the tower: its norm, the downsampler, the projector."""

    def __init__(self, config: VlmConfig) -> None:
        super().__init__()
        assert config.vision is not None
        width = config.vision.hidden_size
        self.vision_tower = nn.ModuleDict({"post_layernorm": LayerNorm(width, eps=config.vision.layer_norm_eps)})
        self.downsampler = Downsampler(config.vision, config.downsample_ratio)
        self.projector = Projector(width, config.text.hidden_size)

    def forward(self, patches: Tensor) -> Tensor:
        """[tiles, patches, width] -> image tokens [tiles, tokens per tile, hidden]"""
        tokens: Tensor = self.projector(self.downsampler(self.vision_tower["post_layernorm"](patches)))
        return tokens
