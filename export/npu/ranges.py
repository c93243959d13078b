"""The scales of the NPU's program, from conversations that go through it layer by layer in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pocketvlm.export.npu import program
from pocketvlm.export.npu.operators import KEY, MASKED, SCORES, VALUE
from pocketvlm.export.npu.rounding import (
    HEADROOM,
    MEDIATEK,
    TOP8,
    TOP16,
    Observed,
    Roundings,
    Scales,
    SimulatedNpu,
)
from pocketvlm.export.read.sample import Sample
from pocketvlm.export.reference.stages import enter_decoder
from pocketvlm.models.checkpoint import ReadWeight
from pocketvlm.models.config import DecoderConfig, VlmConfig
from pocketvlm.models.rope import rope_tables
from pocketvlm.models.stages import stages_of

#: Tiles that go through the vision part at once.
TILES_AT_A_TIME = 4
#: A hidden row's score has to be lower than any other by so much: e ** -20 of 2,048 rows is below INT16's step.
CLEARANCE = 20.0


@dataclass(frozen=True)
class Streams:
    """Conversations in the program: what leaves the vision part [tiles, tokens, hidden] (None without pictures), the
    residual stream before each decoder layer and after the last, and what leaves the head, [tokens, vocabulary]."""

    image_tokens: Tensor | None
    hidden: tuple[Tensor, ...]
    logits: Tensor


def observe(
    config: VlmConfig,
    read: ReadWeight,
    names: Mapping[str, object],
    samples: Sequence[Sample],
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, float]:
    """The largest magnitude of every value of the program, by name; ``names`` are those of the checkpoint's weights."""
    arithmetic = Observed(read, names)
    tokens = [_image_tokens(arithmetic, config, sample) for sample in samples]
    arithmetic.forget()
    streams = enter_decoder(config, read, samples, tokens)
    inputs = [positions(config.text, stream.shape[1], program.MASK_VALUE) for stream in streams]
    for layer in range(config.text.num_hidden_layers):
        streams = [
            _through(arithmetic, config.text, layer, stream, at) for stream, at in zip(streams, inputs, strict=True)
        ]
        arithmetic.forget()
        progress(1)
    ends = torch.cat([stream[0, sample.first_scored :] for stream, sample in zip(streams, samples, strict=True)])
    _head(arithmetic, config.text, ends)
    return arithmetic.ranges


def scales_of(ranges: Mapping[str, float], headroom: float) -> Scales:
    """Steps for those ranges; ``headroom`` is the INT8 cache's.

    A score with its mask needs no more room than both have.
    """
    cached = {name: largest for name, largest in ranges.items() if name.endswith((KEY, VALUE))}
    wide = {name: largest * HEADROOM for name, largest in ranges.items() if name not in cached}
    scores = {name: wide[name.removesuffix(MASKED) + SCORES] for name in wide if name.endswith(MASKED)}
    mask = min(program.MASK_VALUE, -(2 * max(scores.values()) + CLEARANCE))
    wide |= {name: largest - mask for name, largest in scores.items()}
    wide |= {program.MASK: -mask, program.ROPE: ranges[program.ROPE]}
    return Scales(
        {name: _step(largest, TOP16) for name, largest in wide.items()},
        {name: _step(largest * headroom, TOP8) for name, largest in cached.items()},
        mask,
    )


def _step(largest: float, top: int) -> float:
    """A float32 number; 1 where there is nothing to scale."""
    return float(np.float32(largest / top)) or 1.0


def simulate(
    config: VlmConfig,
    read: ReadWeight,
    names: Mapping[str, object],
    sample: Sample,
    scales: Scales,
    roundings: Roundings = MEDIATEK,
    tokens: Tensor | None = None,
) -> Streams:
    """One conversation through the rounded program, all of its tokens in one step.

    ``tokens``: what leaves a vision part that is not the program's.
    """
    arithmetic = SimulatedNpu(read, names, scales, roundings)
    tokens = _image_tokens(arithmetic, config, sample) if tokens is None else tokens
    arithmetic.forget()
    hidden = enter_decoder(config, read, [sample], [tokens])
    inputs = positions(config.text, hidden[0].shape[1], scales.mask)
    for layer in range(config.text.num_hidden_layers):
        hidden.append(_through(arithmetic, config.text, layer, hidden[-1], inputs))
        arithmetic.forget()
    return Streams(tokens, tuple(hidden), _head(arithmetic, config.text, hidden[-1][0, sample.first_scored :]))


def simulated_logits(
    config: VlmConfig,
    read: ReadWeight,
    names: Mapping[str, object],
    scales: Scales,
    rows: Tensor,
    roundings: Roundings = MEDIATEK,
) -> Tensor:
    """What leaves the last layer [tokens, hidden] -> logits [tokens, vocabulary]."""
    return _head(SimulatedNpu(read, names, scales, roundings), config.text, rows)


def positions(config: DecoderConfig, tokens: int, mask_value: float) -> tuple[Tensor, Tensor]:
    """Mask [1, 1, tokens, tokens] and RoPE's cos and sin [1, 2, tokens, head size] of a step from position 0 on."""
    mask = torch.full((tokens, tokens), mask_value).triu(1)[None, None]
    cos, sin = rope_tables(config, torch.arange(tokens))  # [tokens, head size / 2]
    return mask, torch.stack([cos.repeat(1, 2), sin.repeat(1, 2)])[None]


@torch.no_grad()
def _image_tokens(arithmetic: Observed, config: VlmConfig, sample: Sample) -> Tensor | None:
    patch_embedding = stages_of(config).patch_embedding
    if sample.pixels is None or patch_embedding is None:
        return None
    embed = patch_embedding.loaded(arithmetic.read)
    encoded = [
        program.vision_encoder(arithmetic, config, embed(part), len(part))
        for part in sample.pixels.split(TILES_AT_A_TIME)
    ]
    return torch.cat(encoded).float()


@torch.no_grad()
def _through(
    arithmetic: Observed, config: DecoderConfig, layer: int, hidden: Tensor, at: tuple[Tensor, Tensor]
) -> Tensor:
    """[1, tokens, hidden] from position 0 on, through one layer with an empty cache."""
    dtype = torch.int8 if isinstance(arithmetic, SimulatedNpu) else torch.float32
    empty, one = torch.zeros(1, config.num_key_value_heads, 0, config.head_dim, dtype=dtype), range(layer, layer + 1)
    stream: Tensor = program.decoder_layers(
        arithmetic, config, one, (hidden, *at), (empty, empty), (hidden.shape[1], 0)
    )[0]
    return stream


@torch.no_grad()
def _head(arithmetic: Observed, config: DecoderConfig, rows: Tensor) -> Tensor:
    """[tokens, hidden] -> [tokens, vocabulary]"""
    logits: Tensor = program.decoder_head(arithmetic, config, rows[None])[0]
    arithmetic.forget()
    return logits
