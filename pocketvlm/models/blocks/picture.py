"""A vision transformer on all patches of a picture at once, whatever its size: Qwen2-VL's (arXiv 2409.12191) and its
heirs', which differ in options of :class:`VisionConfig`.

A tile is what becomes one token. Positions are rows and columns, by which queries and keys turn.
"""

from __future__ import annotations

from torch import Tensor, nn

from pocketvlm.models.blocks.vision import VisionAttention, VisionMlp, activation
from pocketvlm.models.operators import (
    AttendPicture,
    Blocks,
    Channels,
    Clip,
    Gelu,
    Join,
    LayerNorm,
    Linear,
    Patches,
    PicturePlace,
    PositionRows,
    Regroup,
    RmsNorm,
    Scale,
)
from pocketvlm.models.tower import MERGED, VisionConfig


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
    """Full attention over the patches of a picture, or of each of its windows; ``merged``: so many a tile are left."""

    def __init__(self, config: VisionConfig, *, windowed: bool, merged: int | None = None) -> None:
        super().__init__()
        self.q_proj = Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.k_proj = Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.v_proj = Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.attend = AttendPicture(config.num_attention_heads, config.head_dim, windowed=windowed, merged=merged)
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


class WindowMerger(nn.Module):
    """Each 2 x 2 patches of a tile see one another, and an MLP makes one of them, beside their mean (MiniCPM-V 4.6)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, count = config.hidden_size, MERGED**2
        merged, inner = count * width, count * config.intermediate_size
        self.blocks, self.windows = Blocks(config.grid_size, width, MERGED), Regroup(count, width)
        self.layer_norm1 = LayerNorm(width, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config, count)
        self.side_by_side = Regroup(1, merged)
        self.pre_norm = LayerNorm(merged, eps=config.layer_norm_eps)
        self.linear_1, self.activation, self.linear_2 = Linear(merged, inner), Gelu("tanh"), Linear(inner, width)
        self.parts = nn.ModuleList(Channels(place * width, width) for place in range(count))
        self.mean = Scale(1 / count)
        self.tiles = Regroup(config.last_side**2, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """[tiles, patches, width] -> [tiles, patches / 4, width]"""
        windows = self.windows(self.blocks(hidden))
        windows = windows + self.self_attn(self.layer_norm1(windows))
        # [windows, 4, width] -> [windows, 1, 4 * width]
        joined = self.side_by_side(windows)
        first, *others = (part(joined) for part in self.parts)
        for other in others:
            first = first + other
        added = self.linear_2(self.activation(self.linear_1(self.pre_norm(joined))))
        merged: Tensor = self.tiles(self.mean(first) + added)
        return merged


class PictureLayer(nn.Module):
    """A pre-norm transformer block. Outputs of earlier layers that are ``passing`` go past it, and where it is ``kept``
    its own is added behind them, as in ``blocks.vision``. ``merged``: so many patches a tile are left; ``merging``:
    behind it they are made fewer."""

    def __init__(
        self,
        config: VisionConfig,
        *,
        windowed: bool,
        passing: int = 0,
        kept: bool = False,
        merged: int | None = None,
        merging: bool = False,
    ) -> None:
        super().__init__()
        norm, width = LayerNorm if config.layer_norm == "mean" else RmsNorm, config.hidden_size
        self.layer_norm1 = norm(width, eps=config.layer_norm_eps)
        self.self_attn = PictureAttention(config, windowed=windowed, merged=merged)
        self.layer_norm2 = norm(width, eps=config.layer_norm_eps)
        self.mlp = GatedMlp(config) if config.gated_mlp else VisionMlp(config)
        self.passing, self.kept = passing > 0, kept
        if passing:
            self.own, self.past, self.behind = Channels(0, width), Channels(width, passing * width), Join()
        if kept:
            self.join = Join()
        self.merger = WindowMerger(config) if merging else None

    def forward(self, stream: Tensor, place: PicturePlace) -> Tensor:
        """[tiles, patches, width of the stream] -> the same, wider where this layer's output is kept, fewer patches
        where they are merged"""
        hidden = self.own(stream) if self.passing else stream
        hidden = hidden + self.self_attn(self.layer_norm1(hidden), place)
        output: Tensor = hidden + self.mlp(self.layer_norm2(hidden))
        if self.merger is not None:
            output = self.merger(output)
        widened = self.behind(output, self.past(stream)) if self.passing else output
        return self.join(widened, output) if self.kept else widened


class BoundedLinear(nn.Module):
    """A matrix, before and behind which numbers may be held between two learned ones (``Gemma4ClippableLinear``)."""

    def __init__(self, columns: int, rows: int, *, clipped: bool) -> None:
        super().__init__()
        self.linear = Linear(columns, rows, bias=False)
        self.is_clipped = clipped
        if clipped:
            self.before, self.behind = Clip(), Clip()

    def forward(self, values: Tensor) -> Tensor:
        given: Tensor = self.linear(self.before(values) if self.is_clipped else values)
        return self.behind(given) if self.is_clipped else given


class HeadNormedAttention(nn.Module):
    """Full attention over the patches of a picture, whose queries, keys and values are normed by head."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, heads, size = config.hidden_size, config.num_attention_heads, config.head_dim
        self.q_proj = BoundedLinear(width, width, clipped=config.clipped)
        self.k_proj = BoundedLinear(width, width, clipped=config.clipped)
        self.v_proj = BoundedLinear(width, width, clipped=config.clipped)
        self.query_norm = RmsNorm(size, config.layer_norm_eps, heads)
        self.undivided = Scale(size**0.5)  # attention divides scores by it
        self.key_norm = RmsNorm(size, config.layer_norm_eps, heads)
        self.value_norm = RmsNorm(size, config.layer_norm_eps, heads, weighted=False)
        self.attend = AttendPicture(heads, size, windowed=False)
        self.out_proj = BoundedLinear(width, width, clipped=config.clipped)

    def forward(self, hidden: Tensor, place: PicturePlace) -> Tensor:
        query = self.undivided(self.query_norm(self.q_proj(hidden)))
        mixed = self.attend(query, self.key_norm(self.k_proj(hidden)), self.value_norm(self.v_proj(hidden)), place)
        output: Tensor = self.out_proj(mixed)
        return output


class BoundedMlp(nn.Module):
    """A gated MLP without biases."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = BoundedLinear(width, inner, clipped=config.clipped)
        self.up_proj = BoundedLinear(width, inner, clipped=config.clipped)
        self.activation = activation(config.hidden_act)
        self.down_proj = BoundedLinear(inner, width, clipped=config.clipped)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.down_proj(self.activation(self.gate_proj(hidden)) * self.up_proj(hidden))
        return output


class SandwichedPictureLayer(nn.Module):
    """Gemma 4's: a norm before and one behind attention and MLP."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, epsilon = config.hidden_size, config.layer_norm_eps
        self.layer_norm1, self.attention_norm = RmsNorm(width, epsilon), RmsNorm(width, epsilon)
        self.self_attn = HeadNormedAttention(config)
        self.layer_norm2, self.mlp_norm = RmsNorm(width, epsilon), RmsNorm(width, epsilon)
        self.mlp = BoundedMlp(config)

    def forward(self, hidden: Tensor, place: PicturePlace) -> Tensor:
        """[tiles, patches, width] -> the same"""
        hidden = hidden + self.attention_norm(self.self_attn(self.layer_norm1(hidden), place))
        output: Tensor = hidden + self.mlp_norm(self.mlp(self.layer_norm2(hidden)))
        return output
