"""The KV cache that a recipe asks for: one shape, and one scale a channel of it, the same for all back ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
#: Largest |key| and |value| that a layer's channels have to hold, float32 [KV heads, head size] each; asked for when
#: the layers before it and its projections are stored.
KvRanges = Callable[[int], tuple[FloatArray, FloatArray]]
#: The largest code of INT8.
LARGEST_CODE = 127


@dataclass(frozen=True)
class KvLayout:
    """The KV cache of a text decoder; ``ranges`` for an INT8 one."""

    length: int
    dtype: str
    ranges: KvRanges | None = None

    def scales(self, layer: int) -> tuple[FloatArray, FloatArray]:
        """What one step of each channel of a layer's keys, and of its values, is worth (INT8 only).

        float32 [KV heads, head size], above zero and not so small that its inverse is infinite.
        """
        assert self.ranges is not None
        key, value = (
            np.maximum(largest / np.float32(LARGEST_CODE), np.finfo(np.float32).tiny) for largest in self.ranges(layer)
        )
        return key, value
