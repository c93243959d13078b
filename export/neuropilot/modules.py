"""The NPU's program as PyTorch modules whose roundings are operators: what MediaTek's converter reads."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketvlm.export.npu import program
from pocketvlm.export.npu.rounding import TOP8, TOP16, Scales, TensorArithmetic

if TYPE_CHECKING:
    from pocketvlm.export.store.weights import WeightStore
    from pocketvlm.models.config import DecoderConfig, VlmConfig


class Explicit(nn.Module, TensorArithmetic):
    """Arithmetic whose roundings are operators of the graph, and whose weights are the module's."""

    def __init__(self, store: WeightStore, scales: Scales) -> None:
        super().__init__()
        # Registers the operators torch.ops.quantized_decomposed; it takes 0.2 s, so only where they are used.
        importlib.import_module("torch.ao.quantization.fx._decomposed")
        self._store, self._scales, self._names = store, scales, store.checkpoint.tensors

    def rounded(self, name: str, values: Tensor) -> Tensor:
        return self._through(values, self._scales.values[name], -TOP16 - 1, TOP16, torch.int16)

    def probabilities(self, values: Tensor) -> Tensor:
        return self._through(values, self.roundings.probability_step, -TOP16 - 1, TOP16, torch.int16)

    def linear(self, name: str, hidden: Tensor, factor: float) -> Tensor:
        bits = self._store.precision[name].bits
        weight = self._kept(name, lambda: self._store.read(name) * factor)
        scales = self._kept(f"{name}.scales", lambda: torch.from_numpy(np.array(self._store.row_scales(name))))
        zeros = self._kept(f"{name}.zeros", lambda: torch.zeros(len(scales), dtype=torch.int64))
        span = (0, -(1 << (bits - 1)), (1 << (bits - 1)) - 1, torch.int8)
        ops: Any = torch.ops.quantized_decomposed
        codes = ops.quantize_per_channel(weight, scales, zeros, *span)
        bias = f"{name.removesuffix('weight')}bias"
        known = self._kept(bias, lambda: self._store.read(bias) * factor) if bias in self._names else None
        return F.linear(hidden, ops.dequantize_per_channel(codes, scales, zeros, *span), known)

    def vector(self, name: str, factor: float = 1.0) -> Tensor:
        return self._kept(name, lambda: self._store.read(name) * factor)

    def extended(self, name: str, past: Tensor, value: Tensor) -> Tensor:
        ops: Any = torch.ops.quantized_decomposed
        rows = ops.quantize_per_tensor(value, self._scales.cache[name], 0, -TOP8 - 1, TOP8, torch.int8)
        return torch.cat([past, rows], dim=2)

    def known(self, name: str, extended: Tensor) -> Tensor:
        ops: Any = torch.ops.quantized_decomposed
        found: Tensor = ops.dequantize_per_tensor(extended, self._scales.cache[name], 0, -TOP8 - 1, TOP8, torch.int8)
        return found

    def _through(self, values: Tensor, step: float, low: int, high: int, dtype: torch.dtype) -> Tensor:
        ops: Any = torch.ops.quantized_decomposed
        codes = ops.quantize_per_tensor(values, step, 0, low, high, dtype)
        return ops.dequantize_per_tensor(codes, step, 0, low, high, dtype)

    def _kept(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A buffer, made when it is first asked for: the module has to run once before it is traced."""
        key = name.replace(".", "__")
        if not hasattr(self, key):
            self.register_buffer(key, make().contiguous())
        found: Tensor = getattr(self, key)
        return found


class DecoderChunk(nn.Module):
    """Some layers, and the head behind the last ones: inputs and outputs as MediaTek's runner has them."""

    def __init__(self, arithmetic: Explicit, config: DecoderConfig, layers: range) -> None:
        super().__init__()
        self.arithmetic, self._config, self._layers = arithmetic, config, layers

    def forward(self, hidden: Tensor, mask: Tensor, rope: Tensor, *cache: Tensor) -> tuple[Tensor, ...]:
        shape = hidden.shape[1], cache[0].shape[2]
        stream, *rows = program.decoder_layers(
            self.arithmetic, self._config, self._layers, (hidden, mask, rope), cache, shape
        )
        if self._layers.stop == self._config.num_hidden_layers:
            stream = program.decoder_head(self.arithmetic, self._config, stream)
        return stream, *rows


class Encoder(nn.Module):
    """The vision part behind patch embedding."""

    def __init__(self, arithmetic: Explicit, config: VlmConfig) -> None:
        super().__init__()
        self.arithmetic, self._config = arithmetic, config

    def forward(self, patches: Tensor) -> Tensor:
        encoded: Tensor = program.vision_encoder(self.arithmetic, self._config, patches, patches.shape[0])
        return encoded


def exported(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """The module as ``torch.export`` has it, its weights in place."""
    with torch.no_grad():
        module.eval()(*inputs)
        return torch.export.export(module, inputs, strict=False)
