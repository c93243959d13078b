"""A vision transformer on all patches of a picture at once, whatever its size: Qwen2-VL's (arXiv 2409.12191) and its
heirs', which differ in options of :class:`VisionConfig`.

A tile is what becomes one token. Positions are rows and columns, by which queries and keys turn.
"""

from __future__ import annotations

from torch import Tensor, nn

from pocketvlm.models.blocks.vision import VisionMlp, activation
from pocketvlm.models.operators import (
    AttendPicture,
    Channels,
    Join,
    LayerNorm,
    Linear,
    Patches,
    PicturePlace,
    PositionRows,
    RmsNorm,
)
from pocketvlm.models.tower import VisionConfig


class PlacedEmbeddings(nn.Module):
    """Patch embedding, and what a table that is laid over the picture has at each patch."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_embedding = Patches(config.patch_size, config.hidden_size, bias=config.patch_bias)
        self.position_rows = PositionRows()

    def forward(self, pixels: Tensor, place: PicturePlace) -> Tensor:
        """float [tiles, 3, size, size] -> [tiles, patches, hidden]"""
        rows: Tensor = self.position_rows(self.patch_embedding(pixels), place)
        return rows


class PictureAttention(nn.Module):
    """Full attention over the patches of a picture, or of each of its windows."""

    def __init__(self, config: VisionConfig, *, windowed: bool) -> None:
        super().__init__()
        self.q_proj = Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.k_proj = Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.v_proj = Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.attend = AttendPicture(config.num_attention_heads, config.head_dim, windowed=windowed)
        self.out_proj = Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, place: PicturePlace) -> Tensor:
        mixed = self.attend(self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden), place)
        output: Tensor = self.out_proj(mixed)
        return output


class GatedMlp(nn.Module):
    """SwiGLU (arXiv 2002.05202) with biases."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size)
        self.activation = activation(config.hidden_act)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.down_proj(self.activation(self.gate_proj(hidden)) * self.up_proj(hidden))
        return output


class PictureLayer(nn.Module):
    """A pre-norm transformer block. Outputs of earlier layers that are ``passing`` go past it, and where it is ``kept``
    its own is added behind them, as in ``blocks.vision``."""

    def __init__(self, config: VisionConfig, *, windowed: bool, passing: int = 0, kept: bool = False) -> None:
        super().__init__()
        norm, width = LayerNorm if config.layer_norm == "mean" else RmsNorm, config.hidden_size
        self.layer_norm1 = norm(width, eps=config.layer_norm_eps)
        self.self_attn = PictureAttention(config, windowed=windowed)
        self.layer_norm2 = norm(width, eps=config.layer_norm_eps)
        self.mlp = GatedMlp(config) if config.gated_mlp else VisionMlp(config)
        self.passing, self.kept = passing > 0, kept
        if passing:
            self.own, self.past, self.behind = Channels(0, width), Channels(width, passing * width), Join()
        if kept:
            self.join = Join()

    def forward(self, stream: Tensor, place: PicturePlace) -> Tensor:
        """[tiles, patches, width of the stream] -> the same, wider where this layer's output is kept"""
        hidden = self.own(stream) if self.passing else stream
        hidden = hidden + self.self_attn(self.layer_norm1(hidden), place)
        output: Tensor = hidden + self.mlp(self.layer_norm2(hidden))
        widened = self.behind(output, self.past(stream)) if self.passing else output
        return self.join(widened, output) if self.kept else widened
