"""What the NPU's program is computed with in PyTorch: observed for its ranges, or rounded to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pocketvlm.models.checkpoint import ReadWeight
from pocketvlm.models.operators import Blocks

#: Steps of either sign of INT16 and INT8 values that a range is cut into.
TOP16, TOP8 = 32767, 127
#: Largest code of unsigned INT16.
TOP16_UNSIGNED = 65535
#: Ends the names of what leaves a linear layer before its bias is added.
PRODUCT = ".product"
#: Between what calibration saw and what INT16 can hold: one of its 15 bits, against clipping.
HEADROOM = 2.0
#: Rows of a weight that are widened to float64 at a time.
ROWS_AT_A_TIME = 8192


@dataclass(frozen=True)
class Roundings:
    """What one vendor's NPU rounds otherwise than another's; all else of the program is the same for all.

    ``probability_step`` and ``probability_top``: of what leaves a softmax, its step and its largest code.
    ``sigmoid_step``: of SiLU's and QuickGELU's sigmoid, whose largest code is a softmax's; None where it is not rounded
    by itself. ``norm_at_once``: an RMS norm is one operator, rounded behind its weight only. ``vectors``: weights of
    norms are INT16 with a scale each. ``biases``: so are biases, and a product is rounded before its bias is added.
    """

    probability_step: float
    probability_top: int
    sigmoid_step: float | None
    norm_at_once: bool
    vectors: bool
    biases: bool


#: MediaTek's quantizer in ExecuTorch 1.5, and TFLite's fixed scale of INT16 for softmax.
MEDIATEK = Roundings(2.0**-15, TOP16, None, norm_at_once=False, vectors=False, biases=False)
#: Qualcomm's HTP: unsigned 16 bits, whose softmax and sigmoid have all of them; every operand of every operator is
#: fixed point, weights of norms and biases too.
QUALCOMM = Roundings(2.0**-16, TOP16_UNSIGNED, 2.0**-16, norm_at_once=True, vectors=True, biases=True)
#: TensorFlow Lite's INT16: fixed scales of softmax and sigmoid, and biases that are added to a product's sums.
LITERT = Roundings(2.0**-15, TOP16, 2.0**-15, norm_at_once=True, vectors=True, biases=False)


class TensorArithmetic:
    """What is the same for all readers in PyTorch, where a value is the numbers that it stands for."""

    roundings = MEDIATEK

    def numbers(self, value: Tensor) -> Tensor:
        return value

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.matmul(left, right)

    def add(self, left: Tensor, right: Tensor) -> Tensor:
        return left + right

    def multiply(self, left: Tensor, right: Tensor) -> Tensor:
        return left * right

    def silu(self, numbers: Tensor, alpha: float = 1.0) -> Tensor:
        return F.silu(numbers) if alpha == 1.0 else numbers * torch.sigmoid(alpha * numbers)

    def gelu(self, numbers: Tensor, approximate: str) -> Tensor:
        return F.gelu(numbers, approximate=approximate)

    def softmax(self, numbers: Tensor) -> Tensor:
        return F.softmax(numbers, dim=-1)

    def normed(self, numbers: Tensor, epsilon: float) -> Tensor:
        return numbers * torch.rsqrt((numbers * numbers).mean(-1, keepdim=True) + epsilon)

    def rms_norm(self, numbers: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        return self.normed(numbers, epsilon) * weight

    def layer_norm(self, numbers: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        return F.layer_norm(numbers, weight.shape, weight, bias, epsilon)

    def turned(self, numbers: Tensor, size: int) -> Tensor:
        first, second = numbers.chunk(2, dim=-1)
        return torch.cat([-second, first], dim=-1)

    def cos_sin(self, rope: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = rope.split(1, dim=1)  # [1, 1, tokens, size] each
        return cos, sin

    def reshape(self, value: Tensor, *sizes: int) -> Tensor:
        return value.reshape([value.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)])

    def transpose(self, value: Tensor, *axes: int) -> Tensor:
        order = list(range(len(axes)))
        for place, axis in enumerate(axes):  # two axes at a time: what NPUs and MediaTek's patterns know
            other = order.index(axis)
            if other != place:
                value, order[other], order[place] = value.transpose(place, other), order[place], axis
        return value

    def joined(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.cat([left, right], dim=-1)

    def channels(self, value: Tensor, first: int, size: int) -> Tensor:
        return value[..., first : first + size]

    def without_first(self, value: Tensor, rows: int) -> Tensor:
        return value[:, 1:]

    def blocks(self, value: Tensor, blocks: Blocks, tiles: int) -> Tensor:
        grid, width, ratio = blocks.grid, blocks.width, blocks.ratio
        padding = -grid % ratio
        side = (grid + padding) // ratio
        # [tiles, patches, width] -> [tiles, rows, columns, width]
        rows = F.pad(value.reshape(tiles, grid, grid, width), (0, 0, 0, padding, 0, padding))
        # -> [tiles * side, ratio, side, ratio * width] -> [tiles * side, side, ratio, ratio * width]
        turned = rows.reshape(tiles * side, ratio, side, ratio * width).transpose(1, 2)
        return turned.reshape(tiles, side * side, ratio * ratio * width)

    def newest(self, extended: Tensor, tokens: int, width: int) -> Tensor:
        return extended[:, :, tokens:]


class Observed(TensorArithmetic):
    """Operations in float32 on the weights that ``read`` gives; ``ranges`` collects the largest magnitude by name."""

    def __init__(self, read: ReadWeight, names: Mapping[str, object]) -> None:
        self.ranges: dict[str, float] = {}
        self.read, self._names = read, names
        self._kept: dict[str, Tensor] = {}

    def rounded(self, name: str, values: Tensor) -> Tensor:
        self.ranges[name] = max(self.ranges.get(name, 0.0), float(values.abs().max()))
        return values

    def probabilities(self, values: Tensor) -> Tensor:
        return values

    def linear(self, name: str, hidden: Tensor, factor: float) -> Tensor:
        bias = name.removesuffix("weight") + "bias"
        if bias not in self._names:
            return F.linear(hidden, self._weight(name)) * factor
        result = F.linear(hidden, self._weight(name), self._weight(bias)) * factor
        self.rounded(f"{name}{PRODUCT}", result - self._weight(bias) * factor)
        return result

    def vector(self, name: str, factor: float = 1.0) -> Tensor:
        return self._weight(name) * factor

    def extended(self, name: str, past: Tensor, value: Tensor) -> Tensor:
        return torch.cat([past, self.rounded(name, value)], dim=2)

    def known(self, name: str, extended: Tensor) -> Tensor:
        return extended

    def forget(self) -> None:
        """Let go of the weights that were read."""
        self._kept.clear()

    def _weight(self, name: str) -> Tensor:
        if name not in self._kept:
            self._kept[name] = self.read(name).float()
        return self._kept[name]


@dataclass(frozen=True)
class Scales:
    """The step of each INT16 value and of each INT8 cache, by name; ``mask`` is what hides a row, below zero."""

    values: Mapping[str, float]
    cache: Mapping[str, float]
    mask: float


class SimulatedNpu(Observed):
    """The same with values rounded as an NPU rounds them, in float64: exact but for 15 digits where it rounds."""

    def __init__(
        self, read: ReadWeight, names: Mapping[str, object], scales: Scales, roundings: Roundings = MEDIATEK
    ) -> None:
        super().__init__(read, names)
        self._scales, self.roundings = scales, roundings

    def rounded(self, name: str, values: Tensor) -> Tensor:
        return _steps(values, self._scales.values[name], TOP16) * self._scales.values[name]

    def probabilities(self, values: Tensor) -> Tensor:
        step = self.roundings.probability_step
        return _steps(values, step, self.roundings.probability_top) * step

    def linear(self, name: str, hidden: Tensor, factor: float) -> Tensor:
        weight, bias = self._weight(name), name.removesuffix("weight") + "bias"
        product = torch.cat([hidden @ rows.double().T for rows in weight.split(ROWS_AT_A_TIME)], dim=-1)
        if bias not in self._names:
            return product * factor
        if self.roundings.biases:
            return self.rounded(f"{name}{PRODUCT}", product * factor) + self.vector(bias, factor)
        return (product + self._weight(bias)) * factor

    def vector(self, name: str, factor: float = 1.0) -> Tensor:
        values = self._weight(name).double() * factor
        if not self.roundings.vectors:
            return values
        step = vector_step(float(values.abs().max()))
        return _steps(values, step, TOP16) * step

    def silu(self, numbers: Tensor, alpha: float = 1.0) -> Tensor:
        step = self.roundings.sigmoid_step
        if step is None:
            return super().silu(numbers, alpha)
        return numbers * _steps(torch.sigmoid(alpha * numbers), step, self.roundings.probability_top) * step

    def extended(self, name: str, past: Tensor, value: Tensor) -> Tensor:
        return torch.cat([past, _steps(value, self._scales.cache[name], TOP8).to(torch.int8)], dim=2)

    def known(self, name: str, extended: Tensor) -> Tensor:
        return extended.double() * self._scales.cache[name]


def vector_step(largest: float) -> float:
    """The step of a weight of one dimension as INT16, whose largest magnitude this is: a float32 number."""
    return float(np.float32(largest / TOP16)) or 1.0


def _steps(values: Tensor, step: float, top: int) -> Tensor:
    """Whole numbers from -top - 1 to top in float64, halves to even: ONNX's QuantizeLinear."""
    return (values.double() / step).round().clamp(-top - 1, top)
