"""Calibration sequences on their way through the decoder, one layer in memory at a time.

What enters a layer has gone through the layers before it as they were stored, so that a quantizer makes up for their
errors too (GPTQ's reference does the same). The layer's own weights are still the original ones when it is looked at.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pocketvlm.errors import RecipeError
from pocketvlm.export.read.calibration import Calibration
from pocketvlm.export.read.sample import Sample
from pocketvlm.export.reference import stages as reference
from pocketvlm.export.reference.streams import embed
from pocketvlm.models.checkpoint import Checkpoint, ReadWeight, load
from pocketvlm.models.decoder import DecoderLayer

#: The linear layers of a decoder layer by the first of those that have the same inputs.
SAME_INPUTS = {
    "self_attn.q_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.o_proj": ("self_attn.o_proj",),
    "mlp.gate_proj": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj": ("mlp.down_proj",),
}
HEAD = "lm_head.weight"


class Activations:
    """Gives the Gram matrix of any decoder layer's inputs and the range of its keys and values, in layer order."""

    def __init__(self, checkpoint: Checkpoint, calibration: Calibration) -> None:
        self._checkpoint, self._calibration = checkpoint, calibration
        self._hidden: list[Tensor] = []
        self._layer = -1
        self._grams: dict[str, Tensor] = {}
        self._kv_ranges: dict[int, tuple[float, float]] = {}

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The conversations that are calibrated on."""
        return self._calibration.samples

    def gram(self, name: str, stored: ReadWeight) -> Tensor:
        """The sum of x xT over the inputs x of a weight: float32 [columns, columns].

        ``stored`` reads the weights of all layers before this one as the bundle has them.

        :raises RecipeError: for a weight that is not a linear layer of the decoder, nor its head
        """
        found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
        if found is None and name != HEAD:
            raise RecipeError("only linear layers of the decoder and an untied head are calibrated; choose another")
        layers = self._checkpoint.config.text.num_hidden_layers
        self._go_to(layers if found is None else int(found[1]), stored)
        return self._grams[HEAD if found is None else found[2]]

    def kv_range(self, layer: int, stored: ReadWeight) -> tuple[float, float]:
        """Largest |key| (after RoPE) and |value| of a layer; of one that was looked at, also later."""
        if layer not in self._kv_ranges:
            self._go_to(layer, stored)
        return self._kv_ranges[layer]

    def _go_to(self, layer: int, stored: ReadWeight) -> None:
        if layer == self._layer:
            return
        assert layer > self._layer, "layers are stored in order"
        if self._layer < 0:
            self._hidden = embed(self._checkpoint.config, self._checkpoint.tensor, self._calibration.samples)
        text = self._checkpoint.config.text
        for passed in range(max(self._layer, 0), layer):
            module = load(partial(DecoderLayer, text), stored, f"model.layers.{passed}.")
            self._hidden = [reference.through(text, module, hidden).hidden for hidden in self._hidden]
        self._layer = layer
        self._look_at_head() if layer == text.num_hidden_layers else self._look_at_layer()

    @torch.no_grad()
    def _look_at_layer(self) -> None:
        text = self._checkpoint.config.text
        module = load(partial(DecoderLayer, text), self._checkpoint.tensor, f"model.layers.{self._layer}.")
        sums = {first: _Gram(module.get_submodule(first)) for first in SAME_INPUTS}
        key, value = 0.0, 0.0
        for hidden in self._hidden:
            cache = reference.through(text, module, hidden).cache
            key, value = max(key, float(cache.key.abs().max())), max(value, float(cache.value.abs().max()))
        self._grams = {name: sums[first].total for first, names in SAME_INPUTS.items() for name in names}
        self._kv_ranges[self._layer] = key, value

    @torch.no_grad()
    def _look_at_head(self) -> None:
        text = self._checkpoint.config.text
        total = torch.zeros(text.hidden_size, text.hidden_size)
        for hidden in self._hidden:
            normed = reference.normed(text, self._checkpoint.tensor, hidden)
            total += normed.T @ normed
        self._grams = {HEAD: total}


class _Gram:
    """Sums x xT of what goes into a module."""

    def __init__(self, module: nn.Module) -> None:
        self.total = torch.zeros(())
        module.register_forward_pre_hook(self._add)

    def _add(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        rows = inputs[0].flatten(0, -2)  # [1, tokens, columns] -> [tokens, columns]
        self.total = self.total + rows.T @ rows
