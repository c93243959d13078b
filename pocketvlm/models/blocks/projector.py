"""From the tower's patches to the decoder's tokens: a downsampler or blocks and an MLP, or one matrix."""

from __future__ import annotations

from torch import Tensor, nn

from pocketvlm.models.blocks.vision import after_layers
from pocketvlm.models.config import DecoderConfig, VlmConfig
from pocketvlm.models.operators import (
    AttendLearned,
    Blocks,
    Channels,
    Gelu,
    Join,
    KeyRows,
    LayerNorm,
    Linear,
    MeanOfBlocks,
    PicturePlace,
    RmsNorm,
    RowBehind,
    Scale,
)
from pocketvlm.models.tower import VisionConfig


class Downsampler(nn.Module):
    """ratio x ratio tokens to one (BlueLM-V's paper, section 3.1)."""

    def __init__(self, config: VisionConfig, ratio: int) -> None:
        super().__init__()
        self.blocks = Blocks(config.last_side, config.hidden_size, ratio)
        self.linear = Linear(ratio * ratio * config.hidden_size, config.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        merged: Tensor = self.linear(self.blocks(tokens))
        return merged


class NormedBlocks(nn.Module):
    """ratio x ratio tokens side by side, and a norm (InternVL 1.5, arXiv 2404.16821)."""

    def __init__(self, config: VisionConfig, ratio: int, eps: float, *, by_column: bool) -> None:
        super().__init__()
        self.blocks = Blocks(config.last_side, config.hidden_size, ratio, by_column=by_column)
        self.norm = LayerNorm(ratio * ratio * config.hidden_size, eps=eps)

    def forward(self, tokens: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.blocks(tokens))
        return normed


class BlocksOfNormed(nn.Module):
    """A norm of each token, and ratio x ratio of them side by side (Qwen2-VL, arXiv 2409.12191)."""

    def __init__(self, config: VisionConfig, ratio: int) -> None:
        super().__init__()
        norm = LayerNorm if config.layer_norm == "mean" else RmsNorm
        self.norm = norm(config.hidden_size, eps=config.layer_norm_eps)
        self.blocks = Blocks(config.last_side, config.hidden_size, ratio)

    def forward(self, tokens: Tensor) -> Tensor:
        blocks: Tensor = self.blocks(self.norm(tokens))
        return blocks


class DeepProjectors(nn.Module):
    """The projector's tokens of the last layer, and beside them those of earlier ones, each by blocks, a norm and two
    layers of its own."""

    def __init__(self, config: VisionConfig, ratio: int, text_size: int) -> None:
        super().__init__()
        width, merged = config.hidden_size, ratio * ratio * config.hidden_size
        self.own = Channels(0, width)
        self.downsampler = BlocksOfNormed(config, ratio)
        self.mlp = Projector(merged, text_size, inner=merged)
        places = range(1, 1 + len(config.deep))
        self.channels = nn.ModuleList(Channels(place * width, width) for place in places)
        self.blocks = nn.ModuleList(Blocks(config.last_side, width, ratio) for _ in places)
        self.norms = nn.ModuleList(LayerNorm(merged, eps=config.layer_norm_eps) for _ in places)
        self.mlps = nn.ModuleList(Projector(merged, text_size, inner=merged) for _ in places)
        self.joins = nn.ModuleList(Join() for _ in places)

    def forward(self, stream: Tensor) -> Tensor:
        """[tiles, patches, (1 + deep) * width] -> [tiles, tokens, (1 + deep) * hidden]"""
        tokens: Tensor = self.mlp(self.downsampler(self.own(stream)))
        parts = zip(self.channels, self.blocks, self.norms, self.mlps, self.joins, strict=True)
        for channels, blocks, norm, mlp, join in parts:
            tokens = join(tokens, mlp(norm(blocks(channels(stream)))))
        return tokens


class Projector(nn.Module):
    """Two-layer MLP from the vision width to the decoder's, times a factor; ``inner``: between them, the decoder's."""

    def __init__(self, vision_size: int, text_size: int, factor: float = 1.0, inner: int | None = None) -> None:
        super().__init__()
        inner = text_size if inner is None else inner
        self.linear_1 = Linear(vision_size, inner)
        self.activation = Gelu()
        self.linear_2 = Linear(inner, text_size)
        self.scale = None if factor == 1.0 else Scale(factor)

    def forward(self, tokens: Tensor) -> Tensor:
        projected: Tensor = self.linear_2(self.activation(self.linear_1(tokens)))
        return projected if self.scale is None else self.scale(projected)


class Matrix(nn.Module):
    """ratio x ratio tokens to one of the decoder's width, without bias (Idefics3's pixel shuffle, arXiv 2408.12637)."""

    def __init__(self, config: VisionConfig, ratio: int, text_size: int) -> None:
        super().__init__()
        self.blocks = Blocks(config.last_side, config.hidden_size, ratio)
        self.linear = Linear(ratio * ratio * config.hidden_size, text_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        projected: Tensor = self.linear(self.blocks(tokens))
        return projected


class Resampler(nn.Module):
    """Learned queries that look at all patches of a picture, or of a part of it (MiniCPM-V, arXiv 2408.01800, section
    3.1; Perceiver, arXiv 2103.03206). What enters the queries' product with their matrix is learned too, so that
    ``attend`` has what that gives."""

    eps = 1e-6

    def __init__(self, config: VisionConfig, heads: int) -> None:
        super().__init__()
        assert config.queries is not None and config.query_width is not None
        width = config.query_width
        self.kv_proj = None if config.hidden_size == width else Linear(config.hidden_size, width, bias=False)
        self.kv_norm = LayerNorm(width, eps=self.eps)
        self.key_rows = KeyRows()
        self.k_proj, self.v_proj = Linear(width, width), Linear(width, width)
        self.attend = AttendLearned(config.queries, heads, width // heads)
        self.out_proj = Linear(width, width)
        self.norm = LayerNorm(width, eps=self.eps)
        self.linear = Linear(width, width, bias=False)

    def forward(self, patches: Tensor, place: PicturePlace) -> Tensor:
        """[tiles, 1, vision width] -> [queries, 1, width]"""
        states = self.kv_norm(patches if self.kv_proj is None else self.kv_proj(patches))
        mixed = self.attend(self.k_proj(self.key_rows(states, place)), self.v_proj(states))
        tokens: Tensor = self.linear(self.norm(self.out_proj(mixed)))
        return tokens


class PooledMatrix(nn.Module):
    """The mean of ratio x ratio tokens, a norm, and a matrix to the decoder's width (Gemma 3, arXiv 2503.19786)."""

    def __init__(self, config: VisionConfig, ratio: int, text_size: int) -> None:
        super().__init__()
        self.mean = MeanOfBlocks(config.last_side, config.hidden_size, ratio)
        self.norm = RmsNorm(config.hidden_size, config.layer_norm_eps)
        self.linear = Linear(config.hidden_size, text_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        projected: Tensor = self.linear(self.norm(self.mean(tokens)))
        return projected


class TokenMatrix(nn.Module):
    """Each token to the decoder's width, with a bias (PaliGemma, arXiv 2407.07726)."""

    def __init__(self, config: VisionConfig, ratio: int, text_size: int) -> None:
        super().__init__()
        self.linear = Linear(config.hidden_size, text_size)

    def forward(self, tokens: Tensor) -> Tensor:
        projected: Tensor = self.linear(tokens)
        return projected


class TileMean(nn.Module):
    """The mean of a tile's patches times the root of the width, a norm without weights, and a matrix to the decoder's
    width (Gemma 4; transformers: ``Gemma4VisionPooler``, ``Gemma4MultimodalEmbedder``); behind it the ``row`` that a
    decoder has beside each token."""

    def __init__(self, config: VisionConfig, text: DecoderConfig) -> None:
        super().__init__()
        self.mean = MeanOfBlocks(config.grid_size, config.hidden_size, config.grid_size)
        self.root = Scale(config.hidden_size**0.5)
        self.norm = RmsNorm(config.hidden_size, config.layer_norm_eps, weighted=False)
        self.linear = Linear(config.hidden_size, text.hidden_size, bias=False)
        self.row = RowBehind(text.rows_width, text.rows_scale)

    def forward(self, tokens: Tensor) -> Tensor:
        """[tiles, patches, width] -> [tiles, 1, hidden and rows beside it]"""
        projected: Tensor = self.row(self.linear(self.norm(self.root(self.mean(tokens)))))
        return projected


TILE_MEAN = "tile_mean"
#: Those of one matrix, by ``projector`` of a config.
ONE_MATRIX: dict[str, type[Matrix | PooledMatrix | TokenMatrix]] = {
    "matrix": Matrix,
    "pooled": PooledMatrix,
    "linear": TokenMatrix,
}


def connector(config: VlmConfig) -> dict[str, nn.Module]:
    """What makes image tokens [tiles, tokens per tile, hidden] of the tower's [tiles, patches, width], by name, in the
    order of its use."""
    assert config.vision is not None
    vision, hidden = config.vision, config.text.hidden_size
    ratio = vision.merged(config.downsample_ratio)
    if config.projector in (TILE_MEAN, *ONE_MATRIX):
        of_tile = config.projector == TILE_MEAN
        own = TileMean(vision, config.text) if of_tile else ONE_MATRIX[config.projector](vision, ratio, hidden)
        return {"projector": own}
    if config.projector in ("blocks_mlp", "normed_mlp"):
        by_column, merged = config.blocks_by_column, ratio * ratio * vision.hidden_size
        blocks: nn.Module = Blocks(vision.last_side, vision.hidden_size, ratio, by_column=by_column)
        if config.projector == "normed_mlp":
            blocks = NormedBlocks(vision, ratio, config.projector_eps, by_column=by_column)
        return {"downsampler": blocks, "projector": Projector(merged, hidden, inner=config.projector_size)}
    if config.projector == "merger" and vision.deep:
        return {"projector": DeepProjectors(vision, ratio, hidden)}
    if config.projector == "merger":
        width = ratio * ratio * vision.hidden_size
        return {"downsampler": BlocksOfNormed(vision, ratio), "projector": Projector(width, hidden, inner=width)}
    if config.projector == "layers":
        return {"projector": Projector(vision.taken_width, hidden, config.image_scale)}
    return {"downsampler": Downsampler(vision, ratio), "projector": Projector(vision.hidden_size, hidden)}


class Resampling(nn.Module):
    """The same of a tower with a resampler, which has to know where patches stand."""

    def __init__(self, config: VlmConfig) -> None:
        super().__init__()
        assert config.vision is not None and config.resampler_heads is not None
        self.vision_tower = nn.ModuleDict(after_layers(config.vision))
        self.projector = Resampler(config.vision, config.resampler_heads)

    def forward(self, patches: Tensor, place: PicturePlace) -> Tensor:
        """[tiles, 1, width] of a picture or of a part of one -> image tokens [queries, 1, hidden]"""
        for part in self.vision_tower.values():
            patches = part(patches)
        tokens: Tensor = self.projector(patches, place)
        return tokens


class Projection(nn.Module):
    """What follows the last layer of the tower: its norm, where it has one, and the connector. Names are those of the
    whole model."""

    def __init__(self, config: VlmConfig) -> None:
        super().__init__()
        assert config.vision is not None
        self.vision_tower = nn.ModuleDict(after_layers(config.vision))
        parts = connector(config)
        self.parts = tuple(parts)
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, patches: Tensor) -> Tensor:
        """[tiles, rows, width] -> image tokens [tiles, tokens per tile, hidden]"""
        tokens = patches
        for part in self.vision_tower.values():
            tokens = part(tokens)
        for name in self.parts:
            tokens = self.get_submodule(name)(tokens)
        return tokens
