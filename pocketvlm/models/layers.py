"""How the layers of one decoder differ, in kind and in size, and which one reads what another keeps."""

from __future__ import annotations


class LayerKinds:
    """What a decoder's config says of its layers one by one."""

    hidden_size: int
    num_hidden_layers: int
    head_dim: int
    intermediate_size: int
    no_rope_layers: tuple[int, ...] | None
    no_rope_layer_interval: int
    sliding_window: int | None
    sliding_window_pattern: int
    layer_types: tuple[str, ...] | None
    deep_layers: int
    global_head_dim: int
    global_rotary_factor: float
    num_kv_shared_layers: int
    use_double_wide_mlp: bool
    hidden_size_per_layer_input: int

    def is_local(self, layer: int) -> bool:
        """Whether a layer sees a window."""
        raise NotImplementedError

    def _check_windows(self) -> None:
        if self.layer_types is not None and len(self.layer_types) < self.num_hidden_layers:
            raise ValueError(f"layer_types has {len(self.layer_types)} of {self.num_hidden_layers} layers")
        if self.layer_types is None and self.sliding_window_pattern == 0:
            raise ValueError("sliding_window_pattern is 0, and there are no layer_types")
        if self.sliding_window is None:
            raise ValueError("sliding_window is None, and some layers see one")

    def _check_shared(self) -> None:
        shared = self.num_kv_shared_layers
        if shared >= self.num_hidden_layers:
            raise ValueError(f"num_kv_shared_layers: {shared} of {self.num_hidden_layers} layers read another's cache")
        if shared and any(self.is_convolution(layer) or self.is_state(layer) for layer in self._layers):
            raise ValueError("num_kv_shared_layers: only layers with attention can read another's cache")
        own = {self.is_local(layer) for layer in self._layers[: self.num_hidden_layers - shared]}
        if not {self.is_local(layer) for layer in self._layers} <= own:
            raise ValueError("num_kv_shared_layers: a layer reads the cache of one of its kind, of which there is none")
        if self.global_head_dim and self.pairs_of_global_heads < 1:
            raise ValueError("partial_rotary_factor: no channels turn of heads that see all tokens")

    @property
    def _layers(self) -> range:
        return range(self.num_hidden_layers)

    @property
    def entering_width(self) -> int:
        """Channels that enter the first layer: the embeddings', and those of rows that are added later."""
        return self.stream_width(0)

    def stream_width(self, layer: int) -> int:
        """Channels that enter the layer with this index: each takes the first of the rows beside its stream."""
        deep = self.hidden_size * (1 + max(self.deep_layers - layer, 0))
        return deep + self.hidden_size_per_layer_input * self.rows_before(layer)

    def rows_before(self, layer: int) -> int:
        """How many layers' own rows enter one, of embeddings that each layer has; those behind the last are none."""
        return self.num_hidden_layers - layer if self.hidden_size_per_layer_input else 0

    @property
    def rows_width(self) -> int:
        """Channels of the rows that stand beside a token's embedding, of all layers."""
        return self.num_hidden_layers * self.hidden_size_per_layer_input

    @property
    def has_local(self) -> bool:
        """Whether some layers see a window."""
        return any(map(self.is_local, self._layers))

    def is_rotary(self, layer: int) -> bool:
        """Whether a layer's queries and keys have positions."""
        if self.no_rope_layers is not None:
            return self.no_rope_layers[layer] == 1
        return self.no_rope_layer_interval == 0 or (layer + 1) % self.no_rope_layer_interval != 0

    def is_convolution(self, layer: int) -> bool:
        """Whether a layer has a short convolution in place of attention."""
        return "conv" in (self.layer_types or ())[layer : layer + 1]

    @property
    def convolutions(self) -> int:
        """How many layers have."""
        return (self.layer_types or ())[: self.num_hidden_layers].count("conv")

    def is_state(self, layer: int) -> bool:
        """Whether a layer keeps a state in place of keys and values: linear attention."""
        return "linear_attention" in (self.layer_types or ())[layer : layer + 1]

    @property
    def states(self) -> int:
        """How many layers do."""
        return (self.layer_types or ())[: self.num_hidden_layers].count("linear_attention")

    def head_size(self, layer: int) -> int:
        """Channels of a head of a layer with attention."""
        return self.head_dim if self.is_local(layer) or not self.global_head_dim else self.global_head_dim

    @property
    def attentions(self) -> tuple[int, ...]:
        """Layers that keep keys and values."""
        kinds = self.is_convolution, self.is_state
        own = self._layers[: self.num_hidden_layers - self.num_kv_shared_layers]
        return tuple(layer for layer in own if not any(has(layer) for has in kinds))

    @property
    def pairs_of_global_heads(self) -> int:
        """How many pairs of a head's channels turn where it has a size of its own; the others stand still."""
        return int(self.global_rotary_factor * self.global_head_dim // 2)

    def source(self, layer: int) -> int | None:
        """The layer whose keys and values one reads in place of its own: the last of its kind that has some."""
        first = self.num_hidden_layers - self.num_kv_shared_layers
        if layer < first:
            return None
        return next(one for one in reversed(range(first)) if self.is_local(one) == self.is_local(layer))

    def is_source(self, layer: int) -> bool:
        """Whether others read a layer's keys and values."""
        first = self.num_hidden_layers - self.num_kv_shared_layers
        return any(self.source(other) == layer for other in range(first, self.num_hidden_layers))

    def inner_size(self, layer: int) -> int:
        """Channels inside a layer's MLP."""
        is_wide = self.use_double_wide_mlp and self.source(layer) is not None
        return self.intermediate_size * (2 if is_wide else 1)

    @property
    def is_uniform(self) -> bool:
        """Whether all layers with attention keep keys and values of one shape, and nothing enters beside embeddings."""
        return not (self.global_head_dim or self.num_kv_shared_layers or self.hidden_size_per_layer_input)
