"""What the NPU's program is computed with in PyTorch: observed for its ranges, or rounded to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pocketvlm.models.checkpoint import ReadWeight

#: Steps of either sign of INT16 and INT8 values that a range is cut into.
TOP16, TOP8 = 32767, 127
#: Softmax's: TFLite's fixed scale of INT16.
PROBABILITY_STEP = 2.0**-15
#: Between what calibration saw and what INT16 can hold: one of its 15 bits, against clipping.
HEADROOM = 2.0
#: Rows of a weight that are widened to float64 at a time.
ROWS_AT_A_TIME = 8192


class Observed:
    """Operations in float32 on the weights that ``read`` gives; ``ranges`` collects the largest magnitude by name."""

    def __init__(self, read: ReadWeight, names: Mapping[str, object]) -> None:
        self.ranges: dict[str, float] = {}
        self._read, self._names = read, names
        self._kept: dict[str, Tensor] = {}

    def rounded(self, name: str, values: Tensor) -> Tensor:
        self.ranges[name] = max(self.ranges.get(name, 0.0), float(values.abs().max()))
        return values

    def probabilities(self, values: Tensor) -> Tensor:
        return values

    def linear(self, name: str, hidden: Tensor, factor: float = 1.0) -> Tensor:
        bias = name.removesuffix("weight") + "bias"
        return F.linear(hidden, self._weight(name), self._weight(bias) if bias in self._names else None) * factor

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        return left @ right

    def vector(self, name: str, factor: float = 1.0) -> Tensor:
        return self._weight(name) * factor

    def cached(self, name: str, values: Tensor) -> Tensor:
        return self.rounded(name, values)

    def known(self, name: str, codes: Tensor) -> Tensor:
        return codes

    def forget(self) -> None:
        """Let go of the weights that were read."""
        self._kept.clear()

    def _weight(self, name: str) -> Tensor:
        if name not in self._kept:
            self._kept[name] = self._read(name).float()
        return self._kept[name]


@dataclass(frozen=True)
class Scales:
    """The step of each INT16 value and of each INT8 cache, by name; ``mask`` is what hides a row, below zero."""

    values: Mapping[str, float]
    cache: Mapping[str, float]
    mask: float


class Simulated(Observed):
    """The same with values rounded as an NPU rounds them, in float64: exact but for 15 digits where it rounds."""

    def __init__(self, read: ReadWeight, names: Mapping[str, object], scales: Scales) -> None:
        super().__init__(read, names)
        self._scales = scales

    def rounded(self, name: str, values: Tensor) -> Tensor:
        return _steps(values, self._scales.values[name], TOP16) * self._scales.values[name]

    def probabilities(self, values: Tensor) -> Tensor:
        return _steps(values, PROBABILITY_STEP, TOP16) * PROBABILITY_STEP

    def linear(self, name: str, hidden: Tensor, factor: float = 1.0) -> Tensor:
        weight, bias = self._weight(name), name.removesuffix("weight") + "bias"
        product = torch.cat([hidden @ rows.double().T for rows in weight.split(ROWS_AT_A_TIME)], dim=-1)
        return (product + self._weight(bias) if bias in self._names else product) * factor

    def vector(self, name: str, factor: float = 1.0) -> Tensor:
        return self._weight(name).double() * factor

    def cached(self, name: str, values: Tensor) -> Tensor:
        return _steps(values, self._scales.cache[name], TOP8).to(torch.int8)

    def known(self, name: str, codes: Tensor) -> Tensor:
        return codes.double() * self._scales.cache[name]


def _steps(values: Tensor, step: float, top: int) -> Tensor:
    """Whole numbers from -top - 1 to top in float64, halves to even: ONNX's QuantizeLinear."""
    return (values.double() / step).round().clamp(-top - 1, top)
