"""What an export will take, said before it starts."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.quant import quantizer_of
from pocketvlm.recipe import Recipe

#: Measured with ``bluelm-v-3b`` on small models, two cores of an EPYC 9004: weights read, rounded, written and checked.
WEIGHTS_PER_SECOND = 25e6
START_SECONDS = 3.0
#: Python, torch and ONNX Runtime before any weight is read.
BASE_BYTES = 700 << 20


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


def estimate(checkpoint: Checkpoint, recipe: Recipe) -> Estimate:
    """Sizes follow from the recipe exactly; time and memory from what was measured."""
    rules = recipe.assign(checkpoint.tensors)
    disk = sum(quantizer_of(rules[name]).stored_bytes(info.shape) for name, info in checkpoint.tensors.items())
    largest = max(math.prod(info.shape) for info in checkpoint.tensors.values())
    layers: dict[str, int] = defaultdict(int)
    for name, info in checkpoint.tensors.items():
        layers[".".join(name.split(".")[:5])] += math.prod(info.shape)
    # A layer is held three times in float32 (PyTorch, a graph, its dequantized weights); codes take a byte a weight.
    memory = BASE_BYTES + max(12 * max(layers.values()), 9 * largest)
    return Estimate(START_SECONDS + checkpoint.parameters / WEIGHTS_PER_SECOND, disk, memory)
