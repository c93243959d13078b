"""What a conversation keeps, layer by layer: a layer's cache is of a kind.

Attention and convolutions have a row of each token up to the KV length, so that a conversation can be set back to any
token and go on from there. A state is one for all tokens so far: it goes back to where a copy was kept, or to nothing.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pocketvlm.strict import Closed, dropping_none

Size = Annotated[int, Field(gt=0, le=1 << 40)]


class AttentionCache(Closed):
    """Keys and values, [1, heads, length, head_dim] each, of the cache's type; ``head_dim``: a layer's own, where it
    is another than the others'."""

    kind: Literal["attention"]
    head_dim: Annotated[int, Field(gt=0, le=1 << 16)] | None = None

    _serialize = dropping_none("head_dim")


class SharedCache(Closed):
    """None of its own: it reads keys and values of an earlier ``layer`` with attention."""

    kind: Literal["shared"]
    layer: Annotated[int, Field(ge=0, lt=4096)]


class ConvolutionCache(Closed):
    """What entered a causal convolution of ``kernel`` rows, float32 [1, kernel - 1 + length, width]: the first rows
    stand for what was before the first token, and are zeros."""

    kind: Literal["convolution"]
    width: Annotated[int, Field(gt=0, le=1 << 20)]
    kernel: Annotated[int, Field(gt=0, le=64)]

    def shape(self, length: int) -> tuple[int, int, int]:
        """Of its buffer."""
        return 1, self.kernel - 1 + length, self.width


class StateCache(Closed):
    """A matrix for each of ``heads``, float32 [1, heads, key_width, value_width], and of what entered a causal
    convolution of ``kernel`` rows before it the last, float32 [1, kernel - 1, width]. All are zeros at first."""

    kind: Literal["state"]
    heads: Annotated[int, Field(gt=0, le=1 << 12)]
    key_width: Annotated[int, Field(gt=0, le=1 << 12)]
    value_width: Annotated[int, Field(gt=0, le=1 << 12)]
    width: Annotated[int, Field(gt=0, le=1 << 20)]
    kernel: Annotated[int, Field(gt=1, le=64)]

    @property
    def matrix_shape(self) -> tuple[int, int, int, int]:
        """Of its matrices."""
        return 1, self.heads, self.key_width, self.value_width

    @property
    def rows_shape(self) -> tuple[int, int, int]:
        """Of the last rows."""
        return 1, self.kernel - 1, self.width


Kind = AttentionCache | SharedCache | ConvolutionCache | StateCache
LayerCache = Annotated[Kind, Field(discriminator="kind")]


class KvCacheSpec(Closed):
    """The cache of a layer with attention, and which kind each layer's is: None where all have attention."""

    length: Annotated[int, Field(gt=0, le=1 << 20)]
    dtype: Literal["float32", "int8"]
    heads: Size
    head_dim: Size
    layers: Annotated[tuple[LayerCache, ...], Field(min_length=1, max_length=4096)] | None = None

    _serialize = dropping_none("layers")

    @property
    def format_version(self) -> int:
        """The oldest format that can say it."""
        return 1 if self.layers is None else 5

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of a layer's keys, and of its values, where it does not say another size of a head."""
        return 1, self.heads, self.length, self.head_dim

    def shape_of(self, layer: AttentionCache) -> tuple[int, int, int, int]:
        """Of this layer's keys, and of its values."""
        return 1, self.heads, self.length, layer.head_dim or self.head_dim

    @property
    def has_states(self) -> bool:
        """Whether a conversation cannot be set back to any token."""
        return any(layer.kind == "state" for layer in self.layers or ())

    def of_layers(self, count: int) -> tuple[Kind, ...]:
        """Of each of a model's layers."""
        return (AttentionCache(kind="attention"),) * count if self.layers is None else self.layers

    def check_layers(self, count: int) -> None:
        """That there is a kind for each of a model's layers.

        :raises ValueError: there is not
        """
        if self.layers is not None and len(self.layers) != count:
            raise ValueError(f"kv_cache.layers has {len(self.layers)} layers, the model {count}")

    @model_validator(mode="after")
    def _is_said_in_one_way(self) -> KvCacheSpec:
        if self.layers is None:
            return self
        if all(layer == AttentionCache(kind="attention") for layer in self.layers):
            raise ValueError("layers has attention alone, which is said by leaving it out")
        for index, layer in enumerate(self.layers):
            if isinstance(layer, AttentionCache) and layer.head_dim == self.head_dim:
                raise ValueError(f"layers.{index}.head_dim is kv_cache's own, which is said by leaving it out")
            if isinstance(layer, SharedCache) and (
                layer.layer >= index or not isinstance(self.layers[layer.layer], AttentionCache)
            ):
                raise ValueError(f"layers.{index}.layer is {layer.layer}, no earlier layer with attention")
        return self
