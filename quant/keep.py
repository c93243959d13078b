"""Keep a weight as it is, in float32."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pocketvlm.quant.tensors import Floats

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Keep:
    """No quantization."""

    CALIBRATED: ClassVar[bool] = False

    def quantize(self, weight: Tensor) -> Floats:
        """A weight of any float type -> float32 of the same shape"""
        result: Floats = weight.float().numpy()
        return result

    def stored_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes that a weight of ``shape`` takes."""
        return 4 * math.prod(shape)
