"""The NPU's program: the decoder in chunks of layers and the vision part behind patch embedding, in any arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pocketvlm.export.graph.lower import lower
from pocketvlm.export.npu.operators import TABLE, NpuArithmetic, NpuContext
from pocketvlm.models.config import DecoderConfig, VlmConfig
from pocketvlm.models.stages import Stage, decoder_stages, head_stage, stages_of

#: What hides a row of the cache is added to its score; MediaTek's runner adds this.
MASK_VALUE = -100.0
#: Names of values that have one range in every layer.
HIDDEN_INPUT, MASK, ROPE, PATCHES = "decoder.input", "decoder.mask", "decoder.rope", "vision.input"


def stream_name(stages: Sequence[Stage], layer: int) -> str:
    """The value that enters a decoder layer, or the last norm."""
    return HIDDEN_INPUT if layer == 0 else stages[layer - 1].value_name(stages[layer - 1].traced.result)


def decoder_layers(
    arithmetic: NpuArithmetic,
    config: DecoderConfig,
    layers: range,
    inputs: tuple[Any, Any, Any],
    cache: Sequence[Any],
    shape: tuple[int, int],
) -> tuple[Any, ...]:
    """Some layers: the residual stream as a value, and the cache with this step's rows: all keys, then all values.

    ``inputs``: numbers of hidden [1, tokens, hidden], mask [1, 1, tokens, length + tokens], and RoPE's cos and sin
    [1, 2, tokens, head size]. ``cache``: keys of all layers, then values, int8 [1, KV heads, length, head size].
    ``shape``: tokens of the step, rows of the cache.
    """
    (tokens, length), stages = shape, decoder_stages(config)
    stream = arithmetic.rounded(stream_name(stages, layers.start), inputs[0])
    at = NpuContext(
        arithmetic,
        mask=arithmetic.rounded(MASK, inputs[1]),
        rope=arithmetic.rounded(ROPE, inputs[2]),
        tokens=tokens,
        width=length + tokens,
        past={layer: (cache[place], cache[len(layers) + place]) for place, layer in enumerate(layers)},
    )
    for stage in stages[layers.start : layers.stop]:
        stream = lower(stage, TABLE, at, stream)
    return stream, *(at.present[layer][part] for part in (0, 1) for layer in layers)


def decoder_head(arithmetic: NpuArithmetic, config: DecoderConfig, stream: Any) -> Any:
    """The last norm and the head: value [1, tokens, hidden] -> logits [1, tokens, vocabulary]"""
    return lower(head_stage(config), TABLE, NpuContext(arithmetic), stream)


def vision_encoder(arithmetic: NpuArithmetic, config: VlmConfig, patches: Any, tiles: int) -> Any:
    """Numbers [tiles, patches, width] -> image tokens, a value [tiles, tokens per tile, hidden]"""
    at = NpuContext(arithmetic, tiles=tiles)
    stream = arithmetic.rounded(PATCHES, patches)
    for stage in stages_of(config).encoder:
        stream = lower(stage, TABLE, at, stream)
    return stream
