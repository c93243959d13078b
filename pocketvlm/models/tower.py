"""The shape of a vision tower, as a ``vision_config`` gives it (``pocketvlm.models.config`` has the rest)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from pydantic import with_config as read_by

from pocketvlm.images.patches import Laid
from pocketvlm.models.convolutions import Convolutions
from pocketvlm.models.values import READ, Heads, Layers, Pixels, Positive, Tiles, Width

#: Patches along a side of those that ``merge_after`` makes one of.
MERGED = 2


@read_by(READ)
@dataclass(frozen=True)
class VisionConfig:
    """A vision transformer: SigLIP's as it stands (the defaults are so400m at 384 px, the paper's encoder), CLIP's and
    InternViT's by the options behind ``positions``."""

    hidden_size: Width = 1152
    image_size: Pixels = 384
    patch_size: Pixels = 14
    num_hidden_layers: Layers = 27
    num_attention_heads: Heads = 16
    intermediate_size: Width = 4304
    layer_norm_eps: Positive = 1e-6
    hidden_act: Literal["gelu_pytorch_tanh", "gelu", "quick_gelu", "silu"] = "gelu_pytorch_tanh"
    #: Which row of the table of positions a patch has: its own, or that of the bucket which its place falls into
    #: (``pocketvlm.models.positions``); "none": there is no table; "stretched": a mean of its rows, since a table of
    #: ``table_side`` squared is laid over a picture of native resolution.
    positions: Literal["own", "bucketized", "none", "stretched"] = "own"
    table_side: Annotated[int, Field(gt=0, le=1 << 14)] | None = None
    #: Whether it is resized as an image is, not stretched from corner to corner (``pocketvlm.images.patches``).
    table_resized: bool = False
    #: Or each patch takes the entry of the table that it falls into.
    table_bucketed: bool = False
    #: Or there are two tables of so many rows, and a patch has one of each, by its column and by its row.
    table_by_axis: bool = False
    #: A resampler behind the tower: so many learned queries, of so many channels, which become the tokens of a picture
    #: or of a part of it, whatever its size. A tile is then a patch.
    queries: Annotated[int, Field(gt=0, le=4096)] | None = None
    query_width: Width | None = None
    #: A learned row, with a position of its own, in front of the patches through all layers, and left out behind them.
    class_token: bool = False
    #: Of the patch embedding.
    patch_bias: bool = True
    #: A norm between positions and layers, and one behind the last layer.
    pre_norm: bool = False
    post_norm: bool = True
    #: Of queries, keys and values.
    qkv_bias: bool = True
    #: An RMS norm over all heads together of queries, and one of keys.
    qk_norm: bool = False
    #: The two norms of a layer: with a mean and a bias, or without.
    layer_norm: Literal["mean", "rms"] = "mean"
    #: A learned factor a channel on what attention and the MLP add (arXiv 2103.17239).
    layer_scale: bool = False
    #: Gemma 4's: a norm of what attention and the MLP add; a norm over each head of queries and keys, and one without
    #: weights of values, whose scores are not divided; no biases; inputs and outputs of matrices between two learned
    #: numbers.
    sandwiched: bool = False
    head_norms: bool = False
    clipped: bool = False
    #: SwiGLU in place of two layers.
    gated_mlp: bool = False
    #: Pictures of native resolution, as with ``table_side``: all patches of a picture see one another, and each pair of
    #: a head's channels turns by row or column, at this base (``pocketvlm.images.patches``). A tile is what becomes one
    #: token.
    axial_theta: Positive | None = None
    #: Then, tiles along a side of the squares whose patches see each other alone, but in ``full_layers`` (from 0).
    window: Tiles | None = None
    full_layers: Annotated[tuple[Annotated[int, Field(ge=0, le=4096)], ...], Field(max_length=4096)] = ()
    #: Layers, counted from 1, whose outputs become tokens too, each by a projector of its own (DeepStack, arXiv
    #: 2406.04334), which lie behind the picture's own in one row.
    deep: Annotated[tuple[Layers, ...], Field(max_length=16)] = ()
    #: A layer, counted from 1, behind which each 2 x 2 patches see one another and become one (MiniCPM-V 4.6): those
    #: behind it have a quarter of the patches.
    merge_after: Layers | None = None
    #: The layers whose outputs are taken, side by side, counted from 1; None: the last one's, of those that run.
    taken: Annotated[tuple[Layers, ...], Field(min_length=1, max_length=16)] | None = None
    #: Layers that a checkpoint has behind the last one that runs.
    unused_layers: Annotated[int, Field(ge=0, le=4096)] = 0
    #: A tower of convolutions in place of a transformer; a patch is a point of its last map.
    convolutions: Convolutions | None = None

    def __post_init__(self) -> None:
        if self.convolutions is not None:
            self._check_convolutions(self.convolutions)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.grid_size == 0:
            raise ValueError("image_size is less than patch_size: a tile has no patch")
        if self.taken is not None and max(self.taken) != self.num_hidden_layers:
            raise ValueError(f"taken: {max(self.taken)} is not the last of {self.num_hidden_layers} layers")
        if self.taken is not None and self.post_norm:
            raise ValueError("taken: the norm behind the last layer is not of several")
        self._check_native()
        if self.deep and (sorted(set(self.deep)) != list(self.deep) or self.deep[-1] > self.num_hidden_layers):
            raise ValueError(f"deep: {self.deep} are not some of {self.num_hidden_layers} layers in their order")
        if self.axial_theta is not None and self.head_dim % 4:
            raise ValueError(f"head_dim {self.head_dim} is not a multiple of 4: rows and columns turn pairs each")

    def _check_native(self) -> None:
        if (self.positions == "stretched") != (self.table_side is not None):
            raise ValueError("table_side and positions that are stretched belong together")
        if self.table_by_axis and self.table_side is None:
            raise ValueError("table_by_axis: there is no table_side")
        if self.sandwiched != self.head_norms or (self.sandwiched and not (self.gated_mlp and self.is_native)):
            raise ValueError("sandwiched and head_norms are of towers of native resolution with a gated MLP")
        if sum((self.table_resized, self.table_bucketed, self.table_by_axis)) > 1:
            raise ValueError("table_resized and table_bucketed: a table is laid over pictures in one way")
        if (self.queries is None) != (self.query_width is None):
            raise ValueError("queries and query_width belong together")
        if self.queries is not None and (self.grid_size != 1 or self.window is not None or not self.is_native):
            raise ValueError("queries: a resampler is behind towers of native resolution whose tiles are a patch each")
        if self.query_width is not None and self.query_width % 4:
            raise ValueError(f"query_width {self.query_width} is not a multiple of 4: sines and cosines of two axes")
        if self.merge_after is not None:
            self._check_merger(self.merge_after)

    def _check_merger(self, layer: int) -> None:
        if layer > self.num_hidden_layers:
            raise ValueError(f"merge_after: {layer} is none of {self.num_hidden_layers} layers")
        if not self.is_native or self.window is not None or self.deep or self.queries is not None:
            raise ValueError("merge_after: patches are merged in towers of native resolution that have nothing else")
        if self.grid_size % MERGED:
            raise ValueError(
                f"merge_after: {self.grid_size} patches along a side of a tile are not a multiple of {MERGED}"
            )

    def _check_convolutions(self, shape: Convolutions) -> None:
        layers = len(shape.layers(self.image_size))
        own = self.hidden_size, self.patch_size, self.num_hidden_layers
        if own != (shape.width, shape.patch_size, layers):
            wanted = f"{shape.width} channels, patches of {shape.patch_size} pixels and {layers} layers"
            raise ValueError(f"hidden_size, patch_size and num_hidden_layers are {own}; its convolutions have {wanted}")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is no multiple of {self.patch_size}, which become one point"
            )

    @property
    def is_native(self) -> bool:
        """Whether pictures go through as a whole, in their own resolution."""
        return self.axial_theta is not None or self.table_side is not None

    @property
    def laid(self) -> Laid:
        """How a table of positions is laid over a picture."""
        if self.table_bucketed:
            return "bucketed"
        if self.table_by_axis:
            return "by_axis"
        return "resized" if self.table_resized else "stretched"

    def is_windowed(self, layer: int) -> bool:
        """Whether the patches of a layer, counted from 0, see those of their window alone."""
        return self.window is not None and layer not in self.full_layers

    @property
    def grid_size(self) -> int:
        """Patches along one side of a tile."""
        return self.image_size // self.patch_size

    def side(self, layer: int) -> int:
        """The same of what enters the layer with this index; the index behind the last layer's is what leaves that."""
        is_merged = self.merge_after is not None and layer >= self.merge_after
        return self.grid_size // MERGED if is_merged else self.grid_size

    @property
    def last_side(self) -> int:
        """And of what leaves the last layer."""
        return self.side(self.num_hidden_layers)

    def merged(self, ratio: int) -> int:
        """So many patches along a side, counted in those that leave the last layer."""
        return ratio * self.last_side // self.grid_size

    @property
    def rows(self) -> int:
        """Rows of a tile in the first layer: its patches, and the class token."""
        return self.grid_size**2 + self.class_token

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def taken_width(self) -> int:
        """Channels of what is taken of a patch."""
        return self.hidden_size * len(self.taken or (0,))

    def kept(self, layer: int) -> tuple[int, ...]:
        """The layers, counted from 1, whose outputs go past the one with this index, counted from 0, to be taken."""
        if self.deep:
            return tuple(number for number in self.deep if number <= layer)
        before = min(layer, self.num_hidden_layers - 1)
        return tuple(sorted(number for number in set(self.taken or ()) if number <= before))

    def stream(self, layer: int) -> tuple[int, int]:
        """Rows of a tile and channels that enter the layer with this index: those that it computes with, and those that
        go past it. The index behind the last layer's is what leaves that."""
        if self.convolutions is None:
            return self.side(layer) ** 2 + self.class_token, self.hidden_size * (1 + len(self.kept(layer)))
        layers = self.convolutions.layers(self.image_size)
        if layer == len(layers):
            return self.rows, self.hidden_size
        return layers[layer].side ** 2, layers[layer].entering
