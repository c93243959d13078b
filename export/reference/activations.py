"""Calibration sequences on their way through the decoder, one layer in memory at a time.

What enters a layer has gone through the layers before it as they were stored, so that a quantizer makes up for their
errors too (GPTQ's reference does the same). The layer's own weights are still the original ones when it is looked at.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pocketvlm.errors import RecipeError
from pocketvlm.export.read.calibration import CalibrationSet
from pocketvlm.export.read.sample import Sample
from pocketvlm.export.reference.kv_ranges import kv_ranges
from pocketvlm.export.reference.stages import Known, LayerOutput, embed, through_layer
from pocketvlm.models.checkpoint import Checkpoint, ReadWeight
from pocketvlm.models.names import HEAD
from pocketvlm.models.operators import KvCache
from pocketvlm.models.stages import Stage, decoder_stages, linear_weights, normed


class Activations:
    """Gives the Gram matrix of any decoder layer's inputs and the ranges of its keys and values, in layer order.

    ``kv_length`` is the length of the cache that the ranges are for, None where none are asked for.
    """

    def __init__(self, checkpoint: Checkpoint, calibration: CalibrationSet, kv_length: int | None = None) -> None:
        self._checkpoint, self._calibration, self._kv_length = checkpoint, calibration, kv_length
        self._stages = decoder_stages(checkpoint.config.text)
        self._stage_of = {name: stage.index for stage in self._stages for name in linear_weights(stage)}
        self._stage_of[HEAD] = len(self._stages)
        self._hidden: list[Tensor] = []
        self._known: list[Known] = []
        self._layer = -1
        self._grams: dict[str, Tensor] = {}
        self._kv_ranges: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The conversations that are calibrated on."""
        return self._calibration.samples

    def gram(self, name: str, stored: ReadWeight) -> Tensor:
        """The sum of x xT over the inputs x of a weight: float32 [columns, columns].

        ``stored`` reads the weights of all layers before this one as the bundle has them.

        :raises RecipeError: for a weight that is not a linear layer of the decoder, nor its head
        """
        if name not in self._stage_of:
            raise RecipeError("only linear layers of the decoder and an untied head are calibrated; choose another")
        self._go_to(self._stage_of[name], stored)
        return self._grams[name]

    def kv_ranges(self, layer: int, stored: ReadWeight) -> tuple[Tensor, Tensor]:
        """Those of ``kv_ranges.kv_ranges`` of a layer; of one that was looked at, also later."""
        if layer not in self._kv_ranges:
            self._go_to(layer, stored)
        return self._kv_ranges[layer]

    def _go_to(self, layer: int, stored: ReadWeight) -> None:
        if layer == self._layer:
            return
        assert layer > self._layer, "layers are stored in order"
        if self._layer < 0:
            self._hidden = embed(self._checkpoint.config, self._checkpoint.tensor, self._calibration.samples)
            self._known = [Known() for _ in self._hidden]
        for stage in self._stages[max(self._layer, 0) : layer]:
            module = stage.loaded(stored)
            places = enumerate(self._known)
            self._hidden = [self._through(stage, module, place, known).hidden for place, known in places]
        self._layer = layer
        self._look_at_head() if layer == len(self._stages) else self._look_at_layer()

    @torch.no_grad()
    def _look_at_layer(self) -> None:
        stage = self._stages[self._layer]
        module = stage.loaded(self._checkpoint.tensor)
        groups = stage.traced.same_inputs()
        sums = [_Gram(module.get_submodule(names[0])) for names in groups]
        for place, sample in enumerate(self.samples):
            text, length = self._checkpoint.config.text, self._kv_length
            cache = self._through(stage, module, place, dict(self._known[place])).cache
            if length is not None and isinstance(cache, KvCache) and text.source(self._layer) is None:
                found = kv_ranges(text, self._layer, cache, length, sample.positions)
                before = self._kv_ranges.get(self._layer, found)
                key, value = (torch.maximum(*pair) for pair in zip(before, found, strict=True))
                self._kv_ranges[self._layer] = key, value
        self._grams = {
            f"{stage.prefix}{name}.weight": gram.total
            for gram, names in zip(sums, groups, strict=True)
            for name in names
        }

    @torch.no_grad()
    def _look_at_head(self) -> None:
        text = self._checkpoint.config.text
        total = torch.zeros(text.hidden_size, text.hidden_size)
        for hidden in self._hidden:
            states = normed(text, self._checkpoint.tensor, hidden)
            total += states.T @ states
        self._grams = {HEAD: total}

    def _through(self, stage: Stage, module: nn.Module, place: int, known: Known) -> LayerOutput:
        """The sequence at a place."""
        text = self._checkpoint.config.text
        return through_layer(text, stage.index, module, self._hidden[place], self.samples[place], known)


class _Gram:
    """Sums x xT of what goes into a module."""

    def __init__(self, module: nn.Module) -> None:
        self.total = torch.zeros(())
        module.register_forward_pre_hook(self._add)

    def _add(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        rows = inputs[0].flatten(0, -2)  # [1, tokens, columns] -> [tokens, columns]
        self.total = self.total + rows.T @ rows
