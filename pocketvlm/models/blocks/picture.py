"""A vision transformer on all patches of a picture at once, whatever its size: Qwen2-VL's (arXiv 2409.12191) and its
heirs', which differ in options of :class:`VisionConfig`.

A tile is what becomes one token. Positions are rows and columns, by which queries and keys turn.
"""

from __future__ import annotations

from torch import Tensor, nn

from pocketvlm.models.blocks.vision import VisionMlp, activation
from pocketvlm.models.config import VisionConfig
from pocketvlm.models.operators import AttendPicture, LayerNorm, Linear, PicturePlace, RmsNorm


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
    """A pre-norm transformer block."""

    def __init__(self, config: VisionConfig, *, windowed: bool) -> None:
        super().__init__()
        norm, width = LayerNorm if config.layer_norm == "mean" else RmsNorm, config.hidden_size
        self.layer_norm1 = norm(width, eps=config.layer_norm_eps)
        self.self_attn = PictureAttention(config, windowed=windowed)
        self.layer_norm2 = norm(width, eps=config.layer_norm_eps)
        self.mlp = GatedMlp(config) if config.gated_mlp else VisionMlp(config)

    def forward(self, hidden: Tensor, place: PicturePlace) -> Tensor:
        """[tiles, patches, hidden] -> the same"""
        hidden = hidden + self.self_attn(self.layer_norm1(hidden), place)
        output: Tensor = hidden + self.mlp(self.layer_norm2(hidden))
        return output
