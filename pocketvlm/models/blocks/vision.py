"""A vision transformer on the patches of a tile: SigLIP's (arXiv 2303.15343), CLIP's (arXiv 2103.00020) and InternViT's
(arXiv 2312.14238), which differ in options of :class:`VisionConfig`.

Parameter names are those of transformers' ``SiglipVisionModel``, so that its checkpoints load without renaming.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pocketvlm.models.operators import (
    Attend,
    Channels,
    ChannelScale,
    ClassToken,
    DropFirst,
    Gelu,
    Join,
    LayerNorm,
    Linear,
    Operator,
    Parameter,
    Patches,
    QuickGelu,
    RmsNorm,
    Silu,
)
from pocketvlm.models.tower import VisionConfig


class VisionEmbeddings(nn.Module):
    """Patch embedding, a class token in front where there is one, plus a learned position for each row."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_embedding = Patches(config.patch_size, config.hidden_size, bias=config.patch_bias)
        self.class_token = ClassToken(config.hidden_size) if config.class_token else None
        has_table = config.positions in ("own", "bucketized")
        self.position_embedding = Parameter(config.rows, config.hidden_size) if has_table else None
        self.pre_layernorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.pre_norm else None

    def forward(self, pixels: Tensor) -> Tensor:
        """float [tiles, 3, size, size] -> [tiles, rows, hidden]"""
        rows: Tensor = self.patch_embedding(pixels)
        if self.class_token is not None:
            rows = self.class_token(rows)
        if self.position_embedding is not None:
            rows = self.position_embedding(rows)
        return rows if self.pre_layernorm is None else self.pre_layernorm(rows)


class VisionAttention(nn.Module):
    """Full attention over the rows of one tile; ``rows``: how many, where there may be several tiles."""

    def __init__(self, config: VisionConfig, rows: int | None = None) -> None:
        super().__init__()
        self.q_proj = Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.k_proj = Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.v_proj = Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.has_norms = config.qk_norm
        if config.qk_norm:
            self.q_norm = RmsNorm(config.hidden_size, config.layer_norm_eps)
            self.k_norm = RmsNorm(config.hidden_size, config.layer_norm_eps)
        self.attend = Attend(config.num_attention_heads, config.head_dim, rows)
        self.out_proj = Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden)
        if self.has_norms:
            query, key = self.q_norm(query), self.k_norm(key)
        mixed = self.attend(query, key, value)
        output: Tensor = self.out_proj(mixed)
        return output


class VisionMlp(nn.Module):
    """Two layers with GELU."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.activation = activation(config.hidden_act)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.fc2(self.activation(self.fc1(hidden)))
        return output


def activation(name: str) -> Operator:
    """The function that a config names."""
    if name in ("silu", "quick_gelu"):
        return Silu() if name == "silu" else QuickGelu()
    return Gelu("tanh" if name == "gelu_pytorch_tanh" else "none")


class VisionLayer(nn.Module):
    """A pre-norm transformer block; what it adds may have a factor a channel.

    What it computes with are the first channels of its stream; the outputs of earlier layers that are ``passing`` go
    past it, and where it is ``kept`` its own is added behind them.
    """

    def __init__(self, config: VisionConfig, *, passing: int = 0, kept: bool = False) -> None:
        super().__init__()
        norm, width = LayerNorm if config.layer_norm == "mean" else RmsNorm, config.hidden_size
        self.layer_norm1 = norm(width, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.layer_norm2 = norm(width, eps=config.layer_norm_eps)
        self.mlp = VisionMlp(config)
        self.has_scales = config.layer_scale
        if config.layer_scale:
            self.attention_scale, self.mlp_scale = ChannelScale(width), ChannelScale(width)
        self.passing, self.kept = passing > 0, kept
        if passing:
            self.own, self.past, self.behind = Channels(0, width), Channels(width, passing * width), Join()
        if kept:
            self.join = Join()

    def forward(self, stream: Tensor) -> Tensor:
        """[tiles, rows, width of the stream] -> the same, wider where this layer's output is kept"""
        hidden = self.own(stream) if self.passing else stream
        added = self.self_attn(self.layer_norm1(hidden))
        hidden = hidden + (self.attention_scale(added) if self.has_scales else added)
        added = self.mlp(self.layer_norm2(hidden))
        output: Tensor = hidden + (self.mlp_scale(added) if self.has_scales else added)
        widened = self.behind(output, self.past(stream)) if self.passing else output
        return self.join(widened, output) if self.kept else widened


def layer_options(config: VisionConfig, index: int) -> dict[str, Any]:
    """How the layer with this index differs from others of its tower."""
    return {"passing": len(config.kept(index)), "kept": index + 1 in config.kept(index + 1)}


class VisionEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        layers = (layer_options(config, index) for index in range(config.num_hidden_layers))
        self.layers = nn.ModuleList(VisionLayer(config, **options) for options in layers)

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


class Taken(nn.Module):
    """Of the last stream, the last layer's output and then those that were kept, all in the order in which a config
    takes them."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        assert config.taken is not None
        width, last = config.hidden_size, config.num_hidden_layers
        places = {number: place for place, number in enumerate((last, *config.kept(last - 1)))}
        self.channels = nn.ModuleList(Channels(places[number] * width, width) for number in config.taken)
        self.joins = nn.ModuleList(Join() for _ in config.taken[1:])

    def forward(self, stream: Tensor) -> Tensor:
        """[tiles, rows, width of the stream] -> [tiles, rows, taken width]"""
        first, *rest = (channels(stream) for channels in self.channels)
        for join, values in zip(self.joins, rest, strict=True):
            first = join(first, values)
        taken: Tensor = first
        return taken


def after_layers(config: VisionConfig) -> dict[str, nn.Module]:
    """What stands behind the last layer, by name, in the order of its use: [tiles, rows, hidden] -> [tiles, patches,
    hidden]."""
    found: dict[str, nn.Module] = {} if config.taken is None else {"taken": Taken(config)}
    if config.class_token:
        found["patches_only"] = DropFirst(config.grid_size**2)
    if config.post_norm:
        found["post_layernorm"] = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
    return found


class VisionTower(nn.Module):
    """Tiles in, a token a patch out (no pooling head)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.encoder = VisionEncoder(config)
        behind = after_layers(config)
        self.behind = tuple(behind)
        for name, part in behind.items():
            self.add_module(name, part)

    def forward(self, pixels: Tensor) -> Tensor:
        """float [tiles, 3, size, size] -> [tiles, patches, hidden]"""
        hidden: Tensor = self.encoder(self.embeddings(pixels))
        for name in self.behind:
            hidden = self.get_submodule(name)(hidden)
        return hidden
