"""Random weights, streamed to safetensors files: one block in memory, the same bytes for the same seed everywhere.

A weight is one of the 65,536 quantiles of a normal distribution that lie at the middles of equal probabilities, picked
by 16 bits of a stream that is seeded with the tensor's name. NumPy promises that a bit stream stays as it is; of its
normal distribution it does not.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.models.config import DecoderConfig
from pocketvlm.models.families.family import never
from pocketvlm.models.names import ROWS_TABLE

Shape = tuple[int, ...]
Bits = npt.NDArray[np.uint16]
#: A weight's name and shape here -> in a file; None: it lies in another's.
Stored = Callable[[str, Shape], tuple[str, Shape] | None]

BYTES_PER_WEIGHT = 2
QUANTILES = 1 << 16
#: Weights that are drawn and written at a time: what fits a core's cache. A multiple of 4, the weights of 64 bits.
BLOCK = 1 << 18
#: Largest file of weights.
SHARD_BYTES = 2_000_000_000
#: The safetensors format: data begins at a multiple of 8 bytes.
ALIGNMENT = 8
BIAS_SPREAD = 0.02
#: Standard deviation of the logits. Random layers make more of a rounding than trained ones do: with 2 the 24 layers of
#: Qwen2-0.5B diverge by 0.49 nats in INT4, at a recipe's bound.
LOGITS_SPREAD = 1.0
#: The matrices behind attention and behind the MLP.
ENDS = (".o_proj.weight", ".down_proj.weight")
#: The norms of what attention and the MLP add, where there are some.
ADDED = ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight", "row_gate.norm.weight")
#: What numbers are held between that are not to be held.
FAR = {".low": -1e30, ".high": 1e30}


def as_it_is(name: str, shape: Shape) -> tuple[str, Shape]:
    """Files have our own."""
    return name, shape


def in_files(shapes: Mapping[str, Shape], stored: Stored) -> dict[str, tuple[str, Shape]]:
    """Name and shape in a file of each tensor that has a place of its own there."""
    placed = ((name, stored(name, shape)) for name, shape in shapes.items())
    return {name: place for name, place in placed if place is not None}


def write_weights(
    directory: Path,
    shapes: Mapping[str, Shape],
    text: DecoderConfig,
    *,
    seed: int,
    advance: Callable[[int], None],
    shard_bytes: int = SHARD_BYTES,
    stored: Stored = as_it_is,
    is_less_one: Callable[[str], bool] = never,
) -> None:
    """Write tensors of these names and shapes in bfloat16, as Hugging Face shards them.

    ``advance`` is told of every so many bytes that are written; ``stored`` gives the name and the shape that a tensor
    has in a file; of one that ``is_less_one`` what is written is one less.
    """
    placed = in_files(shapes, stored)
    own = {name: shape for name, (_, shape) in placed.items()}
    shards = _shards(own, shard_bytes)
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for file, shard in zip(names, shards, strict=True):
        with (directory / file).open("wb") as stream:
            stream.write(_header({placed[name][0]: shape for name, shape in shard.items()}))
            for name, shape in shard.items():
                for block in _less_one(name, shape, text) if is_less_one(name) else draw(name, shape, text, seed):
                    advance(stream.write(block.data))
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": weight_bytes(own)},
            "weight_map": {placed[name][0]: file for file, shard in zip(names, shards, strict=True) for name in shard},
        }
        text_of_index = json.dumps(index, indent=2) + "\n"
        (directory / "model.safetensors.index.json").write_text(text_of_index, encoding="utf-8")


def weight_bytes(shapes: Mapping[str, Shape]) -> int:
    """Size of all tensors, without the files' headers."""
    return sum(BYTES_PER_WEIGHT * math.prod(shape) for shape in shapes.values())


def draw(name: str, shape: Shape, text: DecoderConfig, seed: int) -> Iterator[Bits]:
    """A tensor's values in order, as the bits of little-endian bfloat16, block by block."""
    count = math.prod(shape)
    if name.endswith(".weight") and math.prod(shape[1:]) == 1:  # a norm's, or a factor's a channel
        yield _bfloat16(np.full(count, norm_weight(name, text), np.float32))
        return
    bound = next((value for end, value in FAR.items() if name.endswith(end)), None)
    if bound is not None:
        yield _bfloat16(np.full(count, bound, np.float32))
        return
    table = _quantiles(spread(name, shape, text))
    seeds = np.random.SeedSequence(int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()))
    source = np.random.SFC64(seeds)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        picked = source.random_raw(-(-size // 4)).astype("<u8", copy=False).view("<u2")[:size]
        yield table.take(picked, mode="clip")  # nothing to clip: it is the fastest mode


def _less_one(name: str, shape: Shape, text: DecoderConfig) -> Iterator[Bits]:
    """A norm's ones, less one."""
    yield _bfloat16(np.full(math.prod(shape), norm_weight(name, text) - 1, np.float32))


def spread(name: str, shape: Shape, text: DecoderConfig) -> float:
    """The standard deviation of a tensor's values, so that logits have one of ``LOGITS_SPREAD`` at any width.

    A linear layer's is 1 / sqrt(inputs): what it gives has the size of what it is given (LeCun 1998). Where embeddings
    are multiplied and their table is the head too, what ends a branch gives more, as in ``norm_weight``.
    """
    if name == "lm_head.weight" or (name == "model.embed_tokens.weight" and text.tie_word_embeddings):
        return LOGITS_SPREAD / (math.sqrt(text.hidden_size) * text.logits_scale)
    if name == "model.embed_tokens.weight":
        return 1 / text.embedding_scale
    if name == ROWS_TABLE:
        return 1 / text.rows_scale
    if name.endswith(".bias"):
        return BIAS_SPREAD
    more = 1.0
    if name.endswith(ENDS) and text.tie_word_embeddings and text.embedding_scale > 1 and not text.sandwiched:
        more = text.embedding_scale / math.sqrt(text.num_hidden_layers)
    return more / math.sqrt(math.prod(shape[1:]))


def norm_weight(name: str, text: DecoderConfig) -> float:
    """What a norm's weights are all: 1, mostly.

    Where all that layers add is normed, and the table of embeddings is the head too, they add more: each token would
    predict itself. A sum of 2 n parts of this size leaves a token's own logit at about 1.5. Where scores are not
    divided the norms of queries do it.
    """
    factor = 1.0
    if text.value_norm and name.startswith("model.layers.") and name.endswith("q_norm.weight"):
        factor = 1 / math.sqrt(text.head_dim)
    if text.sandwiched and text.tie_word_embeddings and name.endswith(ADDED):
        factor = math.sqrt(text.hidden_size / (4.5 * text.num_hidden_layers))
    return factor


@functools.lru_cache(maxsize=32)
def _quantiles(deviation: float) -> Bits:
    """Quantiles of the normal distribution of this standard deviation, ascending."""
    return _bfloat16((_standard_quantiles() * deviation).astype(np.float32))


@functools.cache
def _standard_quantiles() -> npt.NDArray[np.float64]:
    normal = NormalDist()
    lower = np.array([normal.inv_cdf((index + 0.5) / QUANTILES) for index in range(QUANTILES // 2)])
    return np.concatenate([lower, -lower[::-1]])


def _bfloat16(values: npt.NDArray[np.float32]) -> Bits:
    """The upper half of a float32, rounded to nearest, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


def _shards(shapes: Mapping[str, Shape], shard_bytes: int) -> list[dict[str, Shape]]:
    """Tensors in order, as many in a shard as fit; one that is larger has its own."""
    shards: list[dict[str, Shape]] = [{}]
    size = 0
    for name, shape in shapes.items():
        more = BYTES_PER_WEIGHT * math.prod(shape)
        if shards[-1] and size + more > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += more
    return shards


def _header(shard: Mapping[str, Shape]) -> bytes:
    """What precedes the data of a safetensors file: the length of a JSON object, and it."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shard.items():
        end = offset + BYTES_PER_WEIGHT * math.prod(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    content = json.dumps(entries, separators=(",", ":")).encode()
    content += b" " * (-len(content) % ALIGNMENT)
    return len(content).to_bytes(8, "little") + content
