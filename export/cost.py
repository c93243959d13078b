"""What an export will take, said before it starts."""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import torch

from pocketvlm.bundle.kv import STATES, kv_cache_bytes, row_cache_bytes
from pocketvlm.export.backends import backend_of, compiler_bytes
from pocketvlm.export.read.calibration import default_source, is_calibrated, most_sequences, most_tokens
from pocketvlm.export.read.sample import CARD_TOKENS
from pocketvlm.export.store.as_stored import with_stored
from pocketvlm.export.store.weights import WEIGHTS_AT_A_TIME
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.quant import Keep, quantizer_of
from pocketvlm.quant.sizes import stored_bytes
from pocketvlm.recipe import Recipe

#: Measured on two cores of an EPYC without VNNI: 3.4 B weights read, rounded, written, read back.
WEIGHTS_PER_SECOND = 70e6
#: Measured as time on one CPU, of exports of 0.1 to 4 M weights by int8 and gptq-g32: Python's and PyTorch's imports; a
#: layer's graphs and sessions for its check, whatever its size; reading calibration data, of texts and of pictures; and
#: each sequence's way through a layer beside its products.
START_SECONDS, LAYER_SECONDS = 2.15, 0.1
DATA_SECONDS, PICTURES_SECONDS, STEP_SECONDS = 0.3, 0.5, 0.6e-3
#: The sample's text; it goes through the original weights and through each back end's graphs as shipped, a weight of 4
#: or 8 bits costing about what a float32 one does; a layer's lowering adds few tokens to that.
SAMPLE_TEXT_TOKENS, ORIGINAL_PASSES, SHIPPED_PASSES = 140, 1.0, 1.2
#: Each layer sees the calibration twice, as it was and as it is stored; the Gram matrices of what enters its matrices
#: cost as many products as one of these passes (SmolLM2-135M's shape: 0.95, Llama's 1.2).
CALIBRATION_PASSES, WITH_GRAMS = 2, 3
#: What a layer's matrices reach of what one large matrix reaches.
SHARE_OF_MATMUL = 0.8
#: Python, torch and ONNX Runtime before any weight is read, and what lies freed between blocks in use.
BASE_BYTES = 800 << 20
#: Memory by weight: of a layer, in float32 in PyTorch, in a graph, and as it is read; of a single matrix that is kept
#: (as stored, in float32, transposed) or quantized (as stored, codes in blocks, joined and packed), at most some rows
#: at a time where its quantizer looks at nothing else.
LAYER_BYTES, KEPT_BYTES, QUANTIZED_BYTES = 12, 12, 6
#: The nodes of a layer in a graph file.
GRAPH_BYTES_OF_LAYER = 6000


@dataclass(frozen=True)
class Estimate:
    """Time, disk and peak memory of an export, roughly."""

    seconds: float
    disk_bytes: int
    memory_bytes: int

    def __str__(self) -> str:
        return (
            f"about {self.seconds:.0f} s, {self.disk_bytes / 1e6:,.1f} MB on disk, "
            f"{self.memory_bytes / 1e9:.1f} GB of memory"
        )


def estimate(
    checkpoint: Checkpoint,
    recipe: Recipe,
    kv_length: int,
    backends: Collection[str] = ("onnx",),
    calibration: str | None = None,
) -> Estimate:
    """Sizes follow from the recipe and the number of back ends; time and memory from what was measured.
    ``calibration`` is the source of a calibrated recipe's data, the model's default if None.

    :raises RecipeError: naming a weight that its quantizer cannot take
    """
    recipe = with_stored(recipe, checkpoint)
    disk, matrix = disk_bytes(checkpoint, recipe, kv_length), 0
    rules, times = recipe.assign(checkpoint.tensors), len(set(backends))
    seconds, products = START_SECONDS + times * checkpoint.parameters / WEIGHTS_PER_SECOND, 0.0
    passes = ORIGINAL_PASSES + times * SHIPPED_PASSES
    layers: dict[str, int] = defaultdict(int)
    for name, info in checkpoint.tensors.items():
        quantizer, count = quantizer_of(rules[name]), math.prod(info.shape)
        at_once = count if isinstance(quantizer, Keep) or quantizer.CALIBRATED else min(count, WEIGHTS_AT_A_TIME)
        matrix = max(matrix, at_once * (KEPT_BYTES if isinstance(quantizer, Keep) else QUANTIZED_BYTES))
        # What looks at data is quantized once for all back ends.
        rounds = 1 if quantizer.CALIBRATED else times
        seconds += 0 if isinstance(quantizer, Keep) else rounds * count / quantizer.WEIGHTS_PER_SECOND
        layer = re.match(r".*?layers\.\d+\.", name)
        layers[layer.group() if layer else ""] += count if layer else 0
        products += passes * count * _sample_tokens(checkpoint, name) if layer else 0
    if is_calibrated(recipe):
        data = calibration or default_source(checkpoint.config)
        sequences, tokens, text = most_sequences(data, recipe), most_tokens(data, recipe), checkpoint.config.text
        products += WITH_GRAMS * sum(layers.values()) * tokens
        # attention: queries by keys, and those by values
        width = 2 * text.num_attention_heads * text.head_dim
        products += CALIBRATION_PASSES * text.num_hidden_layers * width * tokens * recipe.calibration.text_tokens
        seconds += DATA_SECONDS + (0 if checkpoint.config.vision is None else PICTURES_SECONDS)
        seconds += STEP_SECONDS * CALIBRATION_PASSES * sum(map(bool, layers)) * sequences
    seconds += times * LAYER_SECONDS * sum(map(bool, layers))
    seconds += 2 * products / (SHARE_OF_MATMUL * matmul_flops())
    most = max(LAYER_BYTES * max(layers.values()), matrix)
    cache = _kv_cache_bytes(checkpoint, recipe, kv_length)
    most = max(
        max(backend_of(name).memory_bytes(most, disk, cache), compiler_bytes(name, checkpoint, recipe))
        for name in backends
    )
    return Estimate(seconds, times * disk, BASE_BYTES + most)


def disk_bytes(checkpoint: Checkpoint, recipe: Recipe, kv_length: int) -> int:
    """Size of the bundle; it follows from the recipe, nothing is timed.

    :raises RecipeError: naming a weight that its quantizer cannot take
    """
    rules, size = recipe.assign(checkpoint.tensors), _fixed_bytes(checkpoint, kv_length)
    for name, info in checkpoint.tensors.items():
        size += stored_bytes(name, info.shape, rules[name])
    return size


def _sample_tokens(checkpoint: Checkpoint, name: str) -> int:
    """How many tokens of the sample a layer sees."""
    config = checkpoint.config
    if config.vision is None:
        return SAMPLE_TEXT_TOKENS
    tiles = CARD_TOKENS**2 if config.is_native else 1
    if name.startswith("vision"):
        return tiles * config.vision.rows
    return SAMPLE_TEXT_TOKENS + tiles * config.tokens_per_tile


def matmul_flops() -> float:
    """Floating-point operations by second that this machine reaches, from some products in float32: a blink.

    By the time on the CPU: what other work takes meanwhile it need not take later.
    """
    left, right = torch.ones(256, 2048), torch.ones(2048, 2048)
    seconds = []
    for _ in range(6):
        start = time.thread_time()
        left @ right
        seconds.append(time.thread_time() - start)
    return 2 * left.numel() * right.shape[1] / sorted(seconds)[2]


def _kv_cache_bytes(checkpoint: Checkpoint, recipe: Recipe, kv_length: int) -> int:
    """Keys and values of all layers, as the recipe stores them."""
    text = checkpoint.config.text
    rows = row_cache_bytes(layers=text.convolutions, width=text.hidden_size, rows=kv_length)
    return (
        rows
        + STATES * text.state_bytes
        + kv_cache_bytes(
            layers=1,
            heads=text.num_key_value_heads,
            head_size=sum(map(text.head_size, text.attentions)),
            tokens=kv_length,
            dtype=recipe.kv_cache.dtype,
        )
    )


def _fixed_bytes(checkpoint: Checkpoint, kv_length: int) -> int:
    """Tokenizer, RoPE tables (cos and sin, half a head each) and graph files."""
    text, vision = checkpoint.config.text, checkpoint.config.vision
    layers = text.num_hidden_layers + (vision.num_hidden_layers if vision is not None else 0)
    tokenizer = checkpoint.directory / "tokenizer.json"
    size = tokenizer.stat().st_size if tokenizer.is_file() else 0
    return size + 4 * text.head_dim * kv_length + GRAPH_BYTES_OF_LAYER * layers
