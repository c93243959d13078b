"""SigLIP's vision tower (arXiv 2303.15343), the token downsampler and the projector.

Parameter names are those of transformers' ``SiglipVisionModel``, so that its checkpoints load without renaming.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from pocketvlm.models.config import VisionConfig


class VisionEmbeddings(nn.Module):
    """Patch embedding (a convolution with stride = patch) plus a learned position for each patch."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, config.hidden_size, config.patch_size, stride=config.patch_size)
        self.position_embedding = nn.Embedding(config.grid_size**2, config.hidden_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """float [tiles, 3, size, size] -> [tiles, patches, hidden]"""
        patches = self.patch_embedding(pixels)  # [tiles, hidden, grid, grid]
        patches = patches.flatten(2).transpose(1, 2)  # [tiles, hidden, patches] -> [tiles, patches, hidden]
        return patches + self.position_embedding.weight


class VisionAttention(nn.Module):
    """Full attention over the patches of one tile."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        tiles, patches, width = hidden.shape
        query, key, value = (
            # [tiles, patches, hidden] -> [tiles, heads, patches, head_dim]
            projection(hidden).view(tiles, patches, self.heads, -1).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        # [tiles, heads, patches, head_dim] -> [tiles, patches, hidden]
        return self.out_proj(mixed.transpose(1, 2).reshape(tiles, patches, width))


class VisionMlp(nn.Module):
    """Two layers with GELU."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.approximate = "tanh" if config.hidden_act == "gelu_pytorch_tanh" else "none"
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(hidden), approximate=self.approximate))


class VisionLayer(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMlp(config)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        return hidden + self.mlp(self.layer_norm2(hidden))


class VisionEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


class VisionTower(nn.Module):
    """Tiles in, patch tokens after the last layer norm out (no pooling head, no class token)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.encoder = VisionEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """float [tiles, 3, size, size] -> [tiles, patches, hidden]"""
        hidden: Tensor = self.post_layernorm(self.encoder(self.embeddings(pixels)))
        return hidden


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


class Downsampler(nn.Module):
    """2x2 tokens to one (paper, section 3.1)."""

    def __init__(self, hidden_size: int, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.linear = nn.Linear(ratio * ratio * hidden_size, hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        merged: Tensor = self.linear(space_to_depth(tokens, self.ratio))
        return merged


class Projector(nn.Module):
    """Two-layer MLP from the vision width to the decoder's."""

    def __init__(self, vision_size: int, text_size: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(vision_size, text_size)
        self.linear_2 = nn.Linear(text_size, text_size)

    def forward(self, tokens: Tensor) -> Tensor:
        projected: Tensor = self.linear_2(F.gelu(self.linear_1(tokens)))
        return projected
