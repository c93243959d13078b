"""Names and shapes of a model's weights, from its config alone: no PyTorch, no checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pocketvlm.models.names import EMBEDDING_TABLE, HEAD, IMAGE_ROW, NEWLINE, POSITIONS, QUERIES, ROWS_TABLE

if TYPE_CHECKING:
    from pocketvlm.models.config import DecoderConfig, VlmConfig
    from pocketvlm.models.tower import VisionConfig

Shape = tuple[int, ...]


def expected_shapes(config: VlmConfig) -> dict[str, Shape]:
    """Name and shape of every weight that a checkpoint stores, in the modules' order; a tied head is not among them."""
    return dict(_all(config))


def stored_shapes(config: VlmConfig) -> dict[str, Shape]:
    """The same with what a resampler's queries take in as they are read, under ``directory``'s names for it."""
    found = expected_shapes(config)
    if config.projector != "resampler":
        return found
    width = found[QUERIES][-1]
    return {**found, "projector.q_norm.weight": (width,), "projector.q_norm.bias": (width,)}


def _all(config: VlmConfig) -> Iterator[tuple[str, Shape]]:
    text = config.text
    if config.vision is not None:
        yield from _vision(config, config.vision)
    yield EMBEDDING_TABLE, (text.vocab_size, text.hidden_size)
    if text.rows_width:
        yield ROWS_TABLE, (text.vocab_size, text.rows_width)
    for layer in range(text.num_hidden_layers):
        yield from _decoder_layer(layer, text)
    yield "model.norm.weight", (text.hidden_size,)
    if not text.tie_word_embeddings:
        yield HEAD, (text.vocab_size, text.hidden_size)


def _vision(config: VlmConfig, vision: VisionConfig) -> Iterator[tuple[str, Shape]]:
    """Of the tower and of what makes tokens of its patches."""
    shape = vision.convolutions
    yield from _tower(vision) if shape is None else shape.shapes(vision.image_size)
    yield from _connector(config, vision)
    if config.packing is not None:
        yield NEWLINE, (config.text.hidden_size,)


def _connector(config: VlmConfig, vision: VisionConfig) -> Iterator[tuple[str, Shape]]:
    width, hidden = vision.hidden_size, config.text.hidden_size
    merged = vision.merged(config.downsample_ratio) ** 2 * width
    if config.projector == "matrix":
        yield from _linear("projector.linear", merged, hidden, bias=False)
    elif config.projector == "tile_mean":
        yield from _linear("projector.linear", width, hidden, bias=False)
    elif config.projector == "pooled":
        yield from _norm("projector.norm", width, bias=False)
        yield from _linear("projector.linear", width, hidden, bias=False)
    elif config.projector == "linear":
        yield from _linear("projector.linear", width, hidden)
    elif config.projector in ("blocks_mlp", "normed_mlp"):
        inner = config.projector_size or hidden
        if config.projector == "normed_mlp":
            yield from _norm("downsampler.norm", merged)
        yield from _linear("projector.linear_1", merged, inner)
        yield from _linear("projector.linear_2", inner, hidden)
    elif config.projector == "resampler":
        yield from _resampler(vision)
    elif config.projector == "merger":
        yield from _merger(vision, merged, hidden)
    else:
        if config.projector == "mlp":
            yield from _linear("downsampler.linear", merged, width)
        yield from _linear("projector.linear_1", vision.taken_width, hidden)
        yield from _linear("projector.linear_2", hidden, hidden)
    if config.text.rows_width:
        yield IMAGE_ROW, (config.text.rows_width,)


def _tower(config: VisionConfig) -> Iterator[tuple[str, Shape]]:
    width, patch = config.hidden_size, config.patch_size
    yield "vision_tower.embeddings.patch_embedding.weight", (width, 3, patch, patch)
    if config.patch_bias:
        yield "vision_tower.embeddings.patch_embedding.bias", (width,)
    if config.class_token:
        yield "vision_tower.embeddings.class_token.weight", (width,)
    if config.positions != "none":
        yield POSITIONS, _table_shape(config)
    if config.pre_norm:
        yield from _norm("vision_tower.embeddings.pre_layernorm", width)
    layer_of = _sandwiched_layer if config.sandwiched else _tower_layer
    for layer in range(config.num_hidden_layers):
        yield from layer_of(f"vision_tower.encoder.layers.{layer}", config)
        if config.merge_after == layer + 1:
            yield from _window_merger(f"vision_tower.encoder.layers.{layer}.merger", config)
    if config.post_norm:
        yield from _norm("vision_tower.post_layernorm", width)


def _tower_layer(prefix: str, config: VisionConfig) -> Iterator[tuple[str, Shape]]:
    width = config.hidden_size
    yield from _norm(f"{prefix}.layer_norm1", width, bias=config.layer_norm == "mean")
    for name in ("q_proj", "k_proj", "v_proj"):
        yield from _linear(f"{prefix}.self_attn.{name}", width, width, bias=config.qkv_bias)
    if config.qk_norm:
        for name in ("q_norm", "k_norm"):
            yield f"{prefix}.self_attn.{name}.weight", (width,)
    yield from _linear(f"{prefix}.self_attn.out_proj", width, width)
    yield from _norm(f"{prefix}.layer_norm2", width, bias=config.layer_norm == "mean")
    yield from _tower_mlp(f"{prefix}.mlp", config)
    if config.layer_scale:
        for name in ("attention_scale", "mlp_scale"):
            yield f"{prefix}.{name}.weight", (width,)


def _window_merger(prefix: str, config: VisionConfig) -> Iterator[tuple[str, Shape]]:
    width, merged, inner = config.hidden_size, 4 * config.hidden_size, 4 * config.intermediate_size
    yield from _norm(f"{prefix}.layer_norm1", width)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        yield from _linear(f"{prefix}.self_attn.{name}", width, width)
    yield from _norm(f"{prefix}.pre_norm", merged)
    yield from _linear(f"{prefix}.linear_1", merged, inner)
    yield from _linear(f"{prefix}.linear_2", inner, width)


def _table_shape(config: VisionConfig) -> Shape:
    """Of the table of positions."""
    if config.table_by_axis:
        return 2, config.table_side or 0, config.hidden_size
    return config.rows if config.table_side is None else config.table_side**2, config.hidden_size


def _sandwiched_layer(prefix: str, config: VisionConfig) -> Iterator[tuple[str, Shape]]:
    width, inner = config.hidden_size, config.intermediate_size
    for norm in ("layer_norm1", "attention_norm", "layer_norm2", "mlp_norm"):
        yield from _norm(f"{prefix}.{norm}", width, bias=False)
    for norm in ("query_norm", "key_norm"):
        yield f"{prefix}.self_attn.{norm}.weight", (config.head_dim,)
    matrices = {f"self_attn.{name}": (width, width) for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
    matrices |= {"mlp.gate_proj": (width, inner), "mlp.up_proj": (width, inner), "mlp.down_proj": (inner, width)}
    for name, (columns, rows) in matrices.items():
        yield from _linear(f"{prefix}.{name}.linear", columns, rows, bias=False)
        for bound in ("before.low", "before.high", "behind.low", "behind.high") if config.clipped else ():
            yield f"{prefix}.{name}.{bound}", (1,)


def _merger(vision: VisionConfig, merged: int, hidden: int) -> Iterator[tuple[str, Shape]]:
    norm, own = ("projector.downsampler", "projector.mlp") if vision.deep else ("downsampler", "projector")
    yield from _norm(f"{norm}.norm", vision.hidden_size, bias=vision.layer_norm == "mean")
    yield from _linear(f"{own}.linear_1", merged, merged)
    yield from _linear(f"{own}.linear_2", merged, hidden)
    for place in range(len(vision.deep)):
        yield from _norm(f"projector.norms.{place}", merged)
    for place in range(len(vision.deep)):
        yield from _linear(f"projector.mlps.{place}.linear_1", merged, merged)
        yield from _linear(f"projector.mlps.{place}.linear_2", merged, hidden)


def _resampler(vision: VisionConfig) -> Iterator[tuple[str, Shape]]:
    width, prefix = vision.query_width or 0, "projector"
    if vision.hidden_size != width:
        yield from _linear(f"{prefix}.kv_proj", vision.hidden_size, width, bias=False)
    yield from _norm(f"{prefix}.kv_norm", width)
    for name in ("k_proj", "v_proj"):
        yield from _linear(f"{prefix}.{name}", width, width)
    yield QUERIES, (vision.queries or 0, width)
    yield from _linear(f"{prefix}.out_proj", width, width)
    yield from _norm(f"{prefix}.norm", width)
    yield from _linear(f"{prefix}.linear", width, width, bias=False)


def _tower_mlp(prefix: str, config: VisionConfig) -> Iterator[tuple[str, Shape]]:
    for name in ("gate_proj", "up_proj") if config.gated_mlp else ("fc1",):
        yield from _linear(f"{prefix}.{name}", config.hidden_size, config.intermediate_size)
    down = "down_proj" if config.gated_mlp else "fc2"
    yield from _linear(f"{prefix}.{down}", config.intermediate_size, config.hidden_size)


#: What a layer does not have that reads another's keys and values.
KEYS_AND_VALUES = ("k_proj", "v_proj", "k_norm")


def is_unused(name: str, config: VlmConfig) -> bool:
    """Whether a checkpoint's weight is of a part that does not run: layers of the tower behind the one that is taken,
    the norm behind those, and keys and values of layers that read another's."""
    if name.startswith("model.layers.") and any(f".self_attn.{part}." in name for part in KEYS_AND_VALUES):
        layer = name.split(".")[2]
        known = layer in map(str, range(config.text.num_hidden_layers))
        return known and config.text.source(int(layer)) is not None
    vision = config.vision
    if vision is None or not name.startswith("vision_tower."):
        return False
    _, _, behind = name.partition("vision_tower.encoder.layers.")
    last = vision.num_hidden_layers + vision.unused_layers
    if behind:
        return behind.partition(".")[0] in map(str, range(vision.num_hidden_layers, last))
    return not vision.post_norm and name.startswith("vision_tower.post_layernorm.")


def _decoder_layer(layer: int, config: DecoderConfig) -> Iterator[tuple[str, Shape]]:
    prefix, hidden, inner = f"model.layers.{layer}", config.hidden_size, config.inner_size(layer)
    yield f"{prefix}.input_layernorm.weight", (hidden,)
    if config.is_convolution(layer):
        yield from _convolution(f"{prefix}.conv", config)
    elif config.is_state(layer):
        yield from _linear_attention(f"{prefix}.linear_attn", config)
    else:
        yield from _attention(f"{prefix}.self_attn", layer, config)
    yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
    if config.sandwiched:
        yield f"{prefix}.pre_feedforward_layernorm.weight", (hidden,)
        yield f"{prefix}.post_feedforward_layernorm.weight", (hidden,)
    for name, columns, rows in (("gate", hidden, inner), ("up", hidden, inner), ("down", inner, hidden)):
        yield from _linear(f"{prefix}.mlp.{name}_proj", columns, rows, bias=config.mlp_bias)
    if config.rows_width:
        yield from _row(layer, prefix, config)


def _row(layer: int, prefix: str, config: DecoderConfig) -> Iterator[tuple[str, Shape]]:
    hidden, width = config.hidden_size, config.hidden_size_per_layer_input
    if layer == 0:
        yield from _linear(f"{prefix}.rows.projection", hidden, config.rows_width, bias=False)
        yield f"{prefix}.rows.norm.weight", (width,)
    yield from _linear(f"{prefix}.row_gate.gate", hidden, width, bias=False)
    yield from _linear(f"{prefix}.row_gate.projection", width, hidden, bias=False)
    yield f"{prefix}.row_gate.norm.weight", (hidden,)
    yield f"{prefix}.layer_scale.weight", (1,)


def _attention(prefix: str, layer: int, config: DecoderConfig) -> Iterator[tuple[str, Shape]]:
    hidden, heads = config.hidden_size, (config.num_attention_heads, config.num_key_value_heads)
    queries, keys = (count * config.head_size(layer) for count in heads)
    own = config.source(layer) is None
    yield from _linear(f"{prefix}.q_proj", hidden, queries, bias=config.qkv_bias)
    for name in ("k_proj", "v_proj") if own else ():
        yield from _linear(f"{prefix}.{name}", hidden, keys, bias=config.qkv_bias)
    if config.qk_norm:
        for name in ("q_norm", "k_norm") if own else ("q_norm",):
            yield f"{prefix}.{name}.weight", (config.head_size(layer),)
    if config.gated:
        yield from _linear(f"{prefix}.output_gate", hidden, queries, bias=config.qkv_bias)
    yield from _linear(f"{prefix}.o_proj", queries, hidden, bias=config.output_bias)


def _linear_attention(prefix: str, config: DecoderConfig) -> Iterator[tuple[str, Shape]]:
    hidden, heads = config.hidden_size, config.linear_num_value_heads
    values = heads * config.linear_value_head_dim
    for name, rows in (("qkv", config.state_width), ("z", values), ("b", heads), ("a", heads)):
        yield from _linear(f"{prefix}.in_proj_{name}", hidden, rows, bias=False)
    yield f"{prefix}.kernel.weight", (config.state_width, 1, config.linear_conv_kernel_dim)
    yield from _norm(f"{prefix}.decay", heads)
    yield f"{prefix}.norm.weight", (config.linear_value_head_dim,)
    yield from _linear(f"{prefix}.out_proj", values, hidden, bias=False)


def _convolution(prefix: str, config: DecoderConfig) -> Iterator[tuple[str, Shape]]:
    hidden, bias = config.hidden_size, config.conv_bias
    yield from _linear(f"{prefix}.in_proj", hidden, 3 * hidden, bias=bias)
    yield f"{prefix}.kernel.weight", (hidden, 1, config.conv_kernel)
    if bias:
        yield f"{prefix}.kernel.bias", (hidden,)
    yield from _linear(f"{prefix}.out_proj", hidden, hidden, bias=bias)


def _linear(name: str, columns: int, rows: int, *, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (rows, columns)
    if bias:
        yield f"{name}.bias", (rows,)


def _norm(name: str, size: int, *, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (size,)
    if bias:
        yield f"{name}.bias", (size,)
