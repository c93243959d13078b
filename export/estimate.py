"""What an export will take, said before it starts."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass

from pocketvlm.errors import RecipeError, located
from pocketvlm.export.calibration import is_calibrated
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.quant import Keep, quantizer_of
from pocketvlm.recipe import Recipe

#: Measured on two cores of an EPYC 9004 with 0.9 B and 3.4 B weights: read, rounded, written and checked.
WEIGHTS_PER_SECOND = 25e6
START_SECONDS = 3.0
#: Each layer sees the calibration twice, as it was and as it is stored; at 2 operations a weight and token.
CALIBRATION_PASSES, CALIBRATION_FLOPS = 2, 60e9
#: Python, torch and ONNX Runtime before any weight is read.
BASE_BYTES = 500 << 20
#: Memory by weight: of a layer, in float32 in PyTorch, in a graph, and as it is read; of a single matrix that is kept
#: (as stored, in float32, transposed) or quantized (as stored, codes in blocks, joined and packed).
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


def estimate(checkpoint: Checkpoint, recipe: Recipe, kv_length: int) -> Estimate:
    """Sizes follow from the recipe; time and memory from what was measured.

    :raises RecipeError: naming a weight that its quantizer cannot take
    """
    rules = recipe.assign(checkpoint.tensors)
    disk, matrix = _fixed_bytes(checkpoint, kv_length), 0
    seconds = START_SECONDS + checkpoint.parameters / WEIGHTS_PER_SECOND
    layers: dict[str, int] = defaultdict(int)
    for name, info in checkpoint.tensors.items():
        quantizer, count = quantizer_of(rules[name]), math.prod(info.shape)
        with located(name, RecipeError):
            disk += quantizer.stored_bytes(info.shape)
        matrix = max(matrix, count * (KEPT_BYTES if isinstance(quantizer, Keep) else QUANTIZED_BYTES))
        seconds += 0 if isinstance(quantizer, Keep) else count / quantizer.WEIGHTS_PER_SECOND
        layer = re.match(r".*?layers\.\d+\.", name)
        layers[layer.group() if layer else ""] += count if layer else 0
    if is_calibrated(recipe):
        tokens = recipe.calibration.sequences * recipe.calibration.text_tokens
        seconds += CALIBRATION_PASSES * 2 * sum(layers.values()) * tokens / CALIBRATION_FLOPS
    memory = BASE_BYTES + max(LAYER_BYTES * max(layers.values()), matrix)
    return Estimate(seconds, disk, memory)


def _fixed_bytes(checkpoint: Checkpoint, kv_length: int) -> int:
    """Tokenizer, RoPE tables (cos and sin, half a head each) and graph files."""
    text, vision = checkpoint.config.text, checkpoint.config.vision
    layers = text.num_hidden_layers + (vision.num_hidden_layers if vision is not None else 0)
    tokenizer = checkpoint.directory / "tokenizer.json"
    size = tokenizer.stat().st_size if tokenizer.is_file() else 0
    return size + 4 * text.head_dim * kv_length + GRAPH_BYTES_OF_LAYER * layers
