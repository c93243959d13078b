"""The KV cache that a recipe asks for: one shape and one pair of scales a layer, the same for all back ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

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
