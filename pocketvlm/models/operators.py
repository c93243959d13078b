"""The vocabulary of models: what every back end lowers, and what blocks are written with.

An operator is a small module that contains no other. It hides all reshaping, so that a block
(``pocketvlm.models.blocks``) is operators, ``+`` and ``*`` alone; ``pocketvlm.models.trace`` refuses anything else. A
back end is a table with a function an operator. A new operator is a class here, a line in ``OPERATORS`` and a function
in each back end's table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketvlm.models.config import DecoderConfig


class Operator(nn.Module):
    """What a trace of a block is made of."""


@dataclass
class KvCache:
    """Keys (after RoPE) and values of one layer: [batch, kv heads, positions, head_dim]."""

    key: Tensor
    value: Tensor

    @classmethod
    def empty(cls, config: DecoderConfig, batch: int = 1) -> KvCache:
        shape = (batch, config.num_key_value_heads, 0, config.head_dim)
        return cls(torch.zeros(shape), torch.zeros(shape))

    def append(self, key: Tensor, value: Tensor) -> None:
        self.key = torch.cat([self.key, key], dim=2)
        self.value = torch.cat([self.value, value], dim=2)


@dataclass
class RowCache:
    """What entered the convolution of one layer: [batch, positions, width]."""

    rows: Tensor

    @classmethod
    def empty(cls, config: DecoderConfig, batch: int = 1) -> RowCache:
        return cls(torch.zeros(batch, 0, config.hidden_size))

    def append(self, rows: Tensor) -> None:
        self.rows = torch.cat([self.rows, rows], dim=1)


@dataclass
class DeltaCache:
    """Of a layer with linear attention: what entered its convolution, [batch, positions, width], and a matrix a value
    head, float32 [batch, heads, key width, value width]."""

    rows: RowCache
    matrix: Tensor

    @classmethod
    def empty(cls, config: DecoderConfig, batch: int = 1) -> DeltaCache:
        sizes = config.linear_num_value_heads, config.linear_key_head_dim, config.linear_value_head_dim
        return cls(RowCache(torch.zeros(batch, 0, config.state_width)), torch.zeros(batch, *sizes))


LayerCache = KvCache | RowCache | DeltaCache


def empty_cache(config: DecoderConfig, layer: int) -> LayerCache:
    """The cache of a layer, of the kind that it has."""
    if config.is_state(layer):
        return DeltaCache.empty(config)
    return RowCache.empty(config) if config.is_convolution(layer) else KvCache.empty(config)


@dataclass
class Step:
    """Where the tokens of a decoder's step stand: RoPE's rows of them, the layer's cache (None: they are all), and the
    rows for layers that see a window, where there are some; ``last_seen``: the last place of the cache that each may
    see, int64 [tokens], where that is not its own (``pocketvlm.images.spans``)."""

    cos: Tensor
    sin: Tensor
    cache: LayerCache | None = None
    local: tuple[Tensor, Tensor] | None = None
    last_seen: Tensor | None = None


@dataclass
class PicturePlace:
    """Where the patches of one picture stand (``pocketvlm.images.patches``): RoPE's rows of them, [tiles, patches,
    head_dim / 2]; of windows, which tiles are in each, [windows, tiles of a window], which of their patches there are,
    bool [windows, tiles of a window * patches], and where among all of them each tile stands, [tiles]; ``rows`` are
    added to the patches at the beginning, [tiles, patches, width], ``key_rows`` to a resampler's keys, [tiles, 1, its
    width].
    """

    cos: Tensor
    sin: Tensor
    window_tiles: Tensor | None = None
    window_mask: Tensor | None = None
    window_positions: Tensor | None = None
    rows: Tensor | None = None
    key_rows: Tensor | None = None


# --- Products and what is added ---------------------------------------------------------------------------------------


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


class Scale(Operator):
    """Times a constant; right behind a linear layer or a norm a back end may multiply it into the weight."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, values: Tensor) -> Tensor:
        return values * self.factor


# --- Norms ------------------------------------------------------------------------------------------------------------


class LayerNorm(nn.LayerNorm, Operator):
    """Over the last axis, with weight and bias."""


class RmsNorm(Operator):
    """Root-mean-square norm (arXiv 1910.07467), without a mean and without a bias: over the last axis, or over each of
    ``heads`` that lie side by side in it."""

    def __init__(self, size: int, eps: float, heads: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps, self.heads = eps, heads

    def forward(self, hidden: Tensor) -> Tensor:
        # [..., heads * size] -> [..., heads, size]
        rows = hidden.unflatten(-1, (self.heads, -1))
        scale = torch.rsqrt(rows.float().pow(2).mean(-1, keepdim=True) + self.eps)
        # -> [..., heads * size]
        return (self.weight * (rows * scale.to(hidden.dtype))).flatten(-2)


# --- Activation functions ---------------------------------------------------------------------------------------------


class Gelu(Operator):
    """``approximate``: "none", or "tanh", as in PyTorch."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, values: Tensor) -> Tensor:
        return F.gelu(values, approximate=self.approximate)


class QuickGelu(Operator):
    """x times sigmoid(``alpha`` x): CLIP's."""

    alpha = 1.702

    def forward(self, values: Tensor) -> Tensor:
        return values * torch.sigmoid(self.alpha * values)


class Silu(Operator):
    """x times sigmoid(x)."""

    def forward(self, values: Tensor) -> Tensor:
        return F.silu(values)


class Relu(Operator):
    """x where it is positive, else 0."""

    def forward(self, values: Tensor) -> Tensor:
        return F.relu(values)


class Sigmoid(Operator):
    """1 / (1 + exp(-x))"""

    def forward(self, values: Tensor) -> Tensor:
        return torch.sigmoid(values)


# --- Attention --------------------------------------------------------------------------------------------------------


class Attend(Operator):
    """Full attention within a tile: query, key and value [tiles, patches, width] -> [tiles, patches, width]."""

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim, self.scale = heads, head_dim, 1 / math.sqrt(head_dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # [tiles, patches, width] -> [tiles, heads, patches, head_dim]
        query, key, value = (states.unflatten(-1, (self.heads, -1)).transpose(1, 2) for states in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value)
        # [tiles, heads, patches, head_dim] -> [tiles, patches, width]
        return mixed.transpose(1, 2).flatten(-2)


class AttendPicture(Operator):
    """Full attention among the patches of a picture, or of each of its windows, turned by row and column.

    query, key and value [tiles, patches, width] -> [tiles, patches, width].
    """

    def __init__(self, heads: int, head_dim: int, *, windowed: bool) -> None:
        super().__init__()
        self.heads, self.head_dim, self.windowed = heads, head_dim, windowed

    def forward(self, query: Tensor, key: Tensor, value: Tensor, place: PicturePlace) -> Tensor:
        # [tiles, patches, width] -> [tiles, patches, heads, head_dim]
        query, key, value = (states.unflatten(-1, (self.heads, -1)) for states in (query, key, value))
        # [tiles, patches, head_dim / 2] -> [tiles, patches, 1, head_dim / 2]
        cos, sin = place.cos[:, :, None], place.sin[:, :, None]
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        if not self.windowed:
            return self._mix(query[None], key[None], value[None], None)[0]
        assert place.window_tiles is not None and place.window_mask is not None and place.window_positions is not None
        # [tiles, ...] -> [windows, tiles of a window, ...]
        query, key, value = (states[place.window_tiles] for states in (query, key, value))
        mixed = self._mix(query, key, value, place.window_mask[:, None, None])
        # [windows, tiles of a window, patches, width] -> [windows * tiles of a window, ...] -> [tiles, patches, width]
        return mixed.flatten(0, 1)[place.window_positions]

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """[windows, tiles, patches, heads, head_dim] -> [windows, tiles, patches, width]"""
        tiles, patches = query.shape[1:3]
        # -> [windows, heads, tiles * patches, head_dim]
        query, key, value = (states.flatten(1, 2).transpose(1, 2) for states in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        # -> [windows, tiles * patches, width] -> [windows, tiles, patches, width]
        return mixed.transpose(1, 2).flatten(-2).unflatten(1, (tiles, patches))


class AttendLearned(Operator):
    """Learned queries, [queries, width], attend to all patches of a picture or of a part of one, however many: key and
    value [tiles, 1, width] -> [queries, 1, width]."""

    def __init__(self, queries: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.queries, self.heads, self.head_dim = queries, heads, head_dim
        self.weight = nn.Parameter(torch.empty(queries, heads * head_dim))
        nn.init.normal_(self.weight)

    def forward(self, key: Tensor, value: Tensor) -> Tensor:
        # [queries, width] and [tiles, 1, width] -> [rows, heads, head_dim] -> [heads, rows, head_dim]
        query, key, value = (
            states.flatten(0, -2).unflatten(-1, (self.heads, -1)).transpose(0, 1)
            for states in (self.weight, key, value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        # [heads, queries, head_dim] -> [queries, width] -> [queries, 1, width]
        return mixed.transpose(0, 1).flatten(1)[:, None]


class Rotate(Operator):
    """Rotary embeddings (arXiv 2104.09864) on [batch, tokens, heads * head_dim], heads side by side; ``local``: at the
    base of layers that see a window."""

    def __init__(self, heads: int, head_dim: int, *, local: bool = False) -> None:
        super().__init__()
        self.heads, self.head_dim, self.local = heads, head_dim, local

    def forward(self, states: Tensor, step: Step) -> Tensor:
        cos, sin = (step.cos, step.sin) if step.local is None or not self.local else step.local
        # [batch, tokens, heads * head_dim] -> [batch, heads, tokens, head_dim]
        by_head = states.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
        # and back
        return rotate(by_head, cos, sin).transpose(1, 2).flatten(-2)


class CachedAttend(Operator):
    """Grouped-query attention over a layer's cache, which it extends: causal, but for tokens that see further.

    query [batch, tokens, heads * head_dim], key and value [batch, tokens, kv_heads * head_dim] -> the query's shape.
    ``scale``: factor on the products of queries and keys; ``window``: how many tokens up to itself one sees at most,
    itself among them (None: all); it does not end what is behind a token.
    """

    def __init__(self, heads: int, kv_heads: int, head_dim: int, scale: float, window: int | None = None) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.scale = heads, kv_heads, head_dim, scale
        self.window = window

    def forward(self, query: Tensor, key: Tensor, value: Tensor, step: Step) -> Tensor:
        tokens, past = query.shape[1], 0
        # [batch, tokens, heads * head_dim] -> [batch, heads, tokens, head_dim]
        query, key, value = (
            states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for states in (query, key, value)
        )
        if step.cache is not None:
            assert isinstance(step.cache, KvCache)
            past = step.cache.key.shape[2]
            step.cache.append(key, value)
            key, value = step.cache.key, step.cache.value
        # token i sees the past and itself, of them those in its window: [tokens, past + tokens]
        mask = torch.ones(tokens, past + tokens, dtype=torch.bool).tril(past)
        if step.last_seen is not None:
            mask = torch.arange(past + tokens) <= step.last_seen[:, None]
        if self.window is not None:
            mask = mask.triu(past - self.window + 1)
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=self.scale, enable_gqa=self.heads != self.kv_heads
        )
        # [batch, heads, tokens, head_dim] -> [batch, tokens, heads * head_dim]
        return mixed.transpose(1, 2).flatten(-2)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply RoPE to [batch, heads, tokens, head_dim]; the halves are pairs (Llama's layout, not interleaved)."""
    first, second = states.chunk(2, dim=-1)  # two of [batch, heads, tokens, head_dim / 2]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


# --- Convolution ------------------------------------------------------------------------------------------------------


class CausalConvolution(Operator):
    """Of each channel its last ``kernel`` rows times a factor each, summed: over a layer's rows, which it extends and
    before whose first there are zeros. [batch, tokens, width] -> the same shape. ``of_state``: the rows are a part of
    the layer's state, which needs no more than the last of them."""

    def __init__(self, width: int, kernel: int, *, bias: bool, of_state: bool = False) -> None:
        super().__init__()
        self.width, self.kernel, self.of_state = width, kernel, of_state
        self.weight = nn.Parameter(torch.empty(width, 1, kernel))
        nn.init.normal_(self.weight)
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, rows: Tensor, step: Step) -> Tensor:
        tokens, known = rows.shape[1], rows
        if step.cache is not None:
            cache = step.cache.rows if isinstance(step.cache, DeltaCache) else step.cache
            assert isinstance(cache, RowCache)
            cache.append(rows)
            known = cache.rows
        # [batch, positions, width] -> [batch, kernel - 1 + tokens, width]
        known = F.pad(known, (0, 0, self.kernel - 1, 0))[:, -(tokens + self.kernel - 1) :]
        # -> [batch, width, kernel - 1 + tokens] -> [batch, width, tokens] -> [batch, tokens, width]
        return F.conv1d(known.transpose(1, 2), self.weight, self.bias, groups=self.width).transpose(1, 2)


# --- State ------------------------------------------------------------------------------------------------------------


class Decay(Operator):
    """How fast a head forgets, by the logarithm: [..., heads] -> -exp(weight) * softplus(x + bias), never positive."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads))
        self.bias = nn.Parameter(torch.zeros(heads))

    def forward(self, values: Tensor) -> Tensor:
        return -self.weight.exp() * F.softplus(values + self.bias)


class GatedDelta(Operator):
    """The gated delta rule (arXiv 2412.06464) over a layer's state, which it replaces.

    query, key [batch, tokens, key heads * key width], whose heads are made of length 1 here; value [batch, tokens,
    heads * value width]; decay (a logarithm) and rate [batch, tokens, heads] -> [batch, tokens, heads * value width].
    Each key head serves so many value heads that follow one another. A head's matrix S becomes, token by token,
    exp(decay) S + rate * key (value - exp(decay) S^T key)^T, and S^T query by the root of the key width is given.
    """

    #: Under the root of the sum of squares of a head.
    EPSILON = 1e-6

    def __init__(self, key_heads: int, heads: int, key_size: int, value_size: int) -> None:
        super().__init__()
        self.key_heads, self.heads, self.key_size, self.value_size = key_heads, heads, key_size, value_size

    def forward(self, query: Tensor, key: Tensor, value: Tensor, decay: Tensor, rate: Tensor, step: Step) -> Tensor:
        # [batch, tokens, key heads * key width] -> [batch, heads, tokens, key width]
        query, key = (self._by_head(states) for states in (query, key))
        # [batch, tokens, heads * value width] -> [batch, heads, tokens, value width]
        value = value.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        # [batch, tokens, heads] -> [batch, heads, tokens]
        decay, rate = decay.transpose(1, 2), rate.transpose(1, 2)
        matrix = torch.zeros(*key.shape[:2], self.key_size, self.value_size)
        if step.cache is not None:
            assert isinstance(step.cache, DeltaCache)
            matrix = step.cache.matrix
        mixed, matrix = gated_delta(query * self.key_size**-0.5, key, value, decay, rate, matrix)
        if step.cache is not None:
            assert isinstance(step.cache, DeltaCache)
            step.cache.matrix = matrix
        # [batch, heads, tokens, value width] -> [batch, tokens, heads * value width]
        return mixed.transpose(1, 2).flatten(-2)

    def _by_head(self, states: Tensor) -> Tensor:
        heads = states.unflatten(-1, (self.key_heads, -1)).transpose(1, 2)
        heads = heads * torch.rsqrt(heads.square().sum(-1, keepdim=True) + self.EPSILON)
        return heads.repeat_interleave(self.heads // self.key_heads, dim=1)


#: Tokens whose updates of a state are solved at once.
CHUNK = 64


def gated_delta(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, rate: Tensor, matrix: Tensor
) -> tuple[Tensor, Tensor]:
    """The rule of ``GatedDelta`` by chunks: query, key [batch, heads, tokens, key width], value [batch, heads, tokens,
    value width], decay and rate [batch, heads, tokens] -> what it gives, and the state behind the last token.

    What the tokens of a chunk write is a triangular system, since each sees what those before it wrote (arXiv
    2412.06464, section 3.3).
    """
    mixed = []
    for start in range(0, query.shape[2], CHUNK):
        part = slice(start, start + CHUNK)
        queries, keys, values, rates = query[:, :, part], key[:, :, part], value[:, :, part], rate[:, :, part, None]
        passed = decay[:, :, part].cumsum(-1)  # [batch, heads, tokens]
        # of token i what is left of token j, [batch, heads, tokens, tokens]
        left = (passed[..., :, None] - passed[..., None, :]).tril().exp().tril()
        since = passed.exp()[..., None]  # [batch, heads, tokens, 1]
        system = (rates * (keys @ keys.mT) * left).tril(-1)
        system = system + torch.eye(keys.shape[2])
        wanted = rates * (values - since * (keys @ matrix))
        written = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
        mixed.append(since * (queries @ matrix) + ((queries @ keys.mT) * left) @ written)
        to_end = (passed[..., -1:] - passed).exp()[..., None]
        matrix = since[:, :, -1:] * matrix + (keys * to_end).mT @ written
    return torch.cat(mixed, dim=2), matrix


# --- Tokens -----------------------------------------------------------------------------------------------------------


class ClassToken(Operator):
    """A learned row, [width], in front of a tile's: [tiles, rows, width] -> [tiles, 1 + rows, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, values: Tensor) -> Tensor:
        # [width] -> [tiles, 1, width]
        return torch.cat([self.weight.expand(len(values), 1, -1), values], dim=1)


class DropFirst(Operator):
    """Without a tile's first row: [tiles, 1 + ``rows``, width] -> [tiles, rows, width]."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, values: Tensor) -> Tensor:
        return values[:, 1:]


class MeanOfRows(Operator):
    """Of each channel over a tile's rows: [tiles, rows, width] -> [tiles, 1, width]."""

    def forward(self, values: Tensor) -> Tensor:
        return values.mean(1, keepdim=True)


class MeanOfBlocks(Operator):
    """Of each channel over each ``ratio`` x ``ratio`` block of a ``grid`` x ``grid`` of tokens of this width: [tiles,
    grid * grid, width] -> [tiles, side * side, width], of whole blocks along the grid's rows."""

    def __init__(self, grid: int, width: int, ratio: int) -> None:
        super().__init__()
        self.grid, self.width, self.ratio = grid, width, ratio

    @property
    def side(self) -> int:
        """Blocks along one side."""
        return self.grid // self.ratio

    def forward(self, tokens: Tensor) -> Tensor:
        # [tiles, grid * grid, width] -> [tiles, side, ratio, side, ratio, width] -> [tiles, side, side, width]
        blocks = tokens.unflatten(1, (self.side, self.ratio, self.side, self.ratio)).mean((2, 4))
        # -> [tiles, side * side, width]
        return blocks.flatten(1, 2)


class Channels(Operator):
    """``size`` of the channels, from ``first`` on: [..., width] -> [..., size]."""

    def __init__(self, first: int, size: int) -> None:
        super().__init__()
        self.first, self.size = first, size

    def forward(self, values: Tensor) -> Tensor:
        return values[..., self.first : self.first + self.size]


class Join(Operator):
    """Two side by side: [..., width], [..., other] -> [..., width + other]."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.cat([left, right], dim=-1)


class Blocks(Operator):
    """Each ``ratio`` x ``ratio`` block of a ``grid`` x ``grid`` of tokens of this width side by side in one token; they
    go along the grid's rows, or ``by_column`` down its columns."""

    def __init__(self, grid: int, width: int, ratio: int, *, by_column: bool = False) -> None:
        super().__init__()
        self.grid, self.width, self.ratio, self.by_column = grid, width, ratio, by_column

    @property
    def side(self) -> int:
        """Blocks along one side."""
        return -(-self.grid // self.ratio)

    def forward(self, tokens: Tensor) -> Tensor:
        blocks = space_to_depth(tokens, self.ratio)
        if not self.by_column:
            return blocks
        # [tiles, side * side, width] -> [tiles, side, side, width], and the first side is the columns'
        return blocks.unflatten(1, (self.side, self.side)).transpose(1, 2).flatten(1, 2)


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


OPERATORS: tuple[type[Operator], ...] = (
    Linear,
    Patches,
    Depthwise,
    Parameter,
    PositionRows,
    KeyRows,
    ChannelScale,
    Scale,
    LayerNorm,
    RmsNorm,
    Gelu,
    QuickGelu,
    Silu,
    Relu,
    Sigmoid,
    Attend,
    AttendPicture,
    AttendLearned,
    Rotate,
    CachedAttend,
    CausalConvolution,
    Decay,
    GatedDelta,
    ClassToken,
    DropFirst,
    MeanOfRows,
    MeanOfBlocks,
    Channels,
    Join,
    Blocks,
)
