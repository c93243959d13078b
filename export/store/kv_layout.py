"""The KV cache that a recipe asks for: one shape and one pair of scales a layer, the same for all back ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pocketvlm.export.job import Job
from pocketvlm.models.checkpoint import ReadWeight

#: Largest |key| and |value| of a layer, asked for when the layers before it and its projections are stored.
KvRanges = Callable[[int], tuple[float, float]]
#: The largest code of INT8.
LARGEST_CODE = 127


@dataclass(frozen=True)
class KvLayout:
    """The KV cache of a text decoder; ``ranges`` for an INT8 one."""

    length: int
    dtype: str
    ranges: KvRanges | None = None

    def scales(self, layer: int) -> tuple[float, float]:
        """What one step of a layer's keys, and one of its values, is worth: float32 numbers above zero (INT8 only)."""
        assert self.ranges is not None
        least = float(np.finfo(np.float32).tiny)
        key, value = (max(float(np.float32(largest / LARGEST_CODE)), least) for largest in self.ranges(layer))
        return key, value


def kv_layout(job: Job, read: ReadWeight) -> KvLayout:
    """The job's cache; an INT8 one has the calibration's ranges, or the sample's where nothing is calibrated.

    The recipe's headroom comes on top. ``read`` gives the weights as stored.
    """
    cache, calibrated, known = job.recipe.kv_cache, job.calibrated, job.reference.kv_ranges
    if cache.dtype != "int8":
        return KvLayout(job.kv_length, cache.dtype)

    def ranges(layer: int) -> tuple[float, float]:
        key, value = known[layer] if calibrated is None else calibrated.activations.kv_range(layer, read)
        return key * cache.headroom, value * cache.headroom

    return KvLayout(job.kv_length, cache.dtype, ranges)
