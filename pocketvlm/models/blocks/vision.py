"""SigLIP's vision tower (arXiv 2303.15343).

Parameter names are those of transformers' ``SiglipVisionModel``, so that its checkpoints load without renaming.
"""

from __future__ import annotations

from torch import Tensor, nn

from pocketvlm.models.config import VisionConfig
from pocketvlm.models.operators import Attend, Gelu, LayerNorm, Linear, Parameter, Patches


class VisionEmbeddings(nn.Module):
    """Patch embedding plus a learned position for each patch."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_embedding = Patches(config.patch_size, config.hidden_size)
        self.position_embedding = Parameter(config.grid_size**2, config.hidden_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """float [tiles, 3, size, size] -> [tiles, patches, hidden]"""
        patches: Tensor = self.position_embedding(self.patch_embedding(pixels))
        return patches


class VisionAttention(nn.Module):
    """Full attention over the patches of one tile."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.q_proj = Linear(config.hidden_size, config.hidden_size)
        self.k_proj = Linear(config.hidden_size, config.hidden_size)
        self.v_proj = Linear(config.hidden_size, config.hidden_size)
        self.attend = Attend(config.num_attention_heads, config.head_dim)
        self.out_proj = Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        mixed = self.attend(self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden))
        output: Tensor = self.out_proj(mixed)
        return output


class VisionMlp(nn.Module):
    """Two layers with GELU."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.activation = Gelu("tanh" if config.hidden_act == "gelu_pytorch_tanh" else "none")
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.fc2(self.activation(self.fc1(hidden)))
        return output


class VisionLayer(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.layer_norm2 = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMlp(config)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        output: Tensor = hidden + self.mlp(self.layer_norm2(hidden))
        return output


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
        self.post_layernorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """float [tiles, 3, size, size] -> [tiles, patches, hidden]"""
        hidden: Tensor = self.post_layernorm(self.encoder(self.embeddings(pixels)))
        return hidden
