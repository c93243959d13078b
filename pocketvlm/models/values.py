"""What numbers and texts of a ``config.json`` may be."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field

#: No conversions, no NaN.
READ = ConfigDict(strict=True, allow_inf_nan=False)

#: Bounds that keep every product of sizes below what PyTorch can count.
Width = Annotated[int, Field(gt=0, le=1 << 20)]
Pixels = Annotated[int, Field(gt=0, le=4096)]
Layers = Annotated[int, Field(gt=0, le=4096)]
Heads = Annotated[int, Field(gt=0, le=1 << 16)]
Text = Annotated[str, Field(max_length=4096)]
Tiles = Annotated[int, Field(gt=0, le=64)]
Byte = Annotated[int, Field(ge=0, le=255)]
Positions = Annotated[int, Field(gt=0, le=1 << 31)]
Positive = Annotated[float, Field(gt=0, le=1e18)]


def rounded_to(dtype: str | None, number: float) -> float:
    """A number as a type of weights holds it; None: float32."""
    if dtype == "bfloat16":
        bits = int(np.float32(number).view(np.uint32))
        even = bits + 0x7FFF + (bits >> 16 & 1)  # half to even, as PyTorch rounds
        return float(np.uint32(even & 0xFFFF0000).view(np.float32))
    return float((np.float16 if dtype == "float16" else np.float32)(number))
