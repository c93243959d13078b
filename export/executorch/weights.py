"""Weights of an ExecuTorch program: as the recipe says, on grids that XNNPACK can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy.typing as npt
from torch import Tensor

from pocketvlm.errors import RecipeError
from pocketvlm.export.store.weights import StoredVectors
from pocketvlm.models.checkpoint import ReadWeight
from pocketvlm.quant import GroupedTensor, GroupQuantizer, quantizer_of
from pocketvlm.quant.groups import APART, CHANNEL
from pocketvlm.recipe import Recipe

Array = npt.NDArray[Any]
Matrix = Array | GroupedTensor


def with_scales_for_xnnpack(recipe: Recipe) -> Recipe:
    """The recipe with quantizers whose scales XNNPACK holds exactly: above zero, bfloat16 where 4 bits are in groups.

    They are chosen before any code is rounded, so the codes are the best ones for these scales.

    :raises RecipeError: for a recipe that ExecuTorch parts cannot be made with
    """
    rules = []
    for rule in recipe.rules:
        quantizer = quantizer_of(rule)
        if isinstance(quantizer, GroupQuantizer):
            if not quantizer.symmetric:
                raise RecipeError(
                    f"recipe {recipe.name}: {rule.quantizer} for {rule.match[0]} has zero points, and XNNPACK's "
                    "weights have none: choose a symmetric quantizer"
                )
            in_groups = quantizer.bits == 4 and quantizer.group_size != CHANNEL
            if in_groups and quantizer.scales == "multiples":
                raise RecipeError(f"{rule.match[0]} is in groups, {APART}")
            rule = replace(rule, options={**rule.options, "scales": "bfloat16" if in_groups else "positive"})
        rules.append(rule)
    return replace(recipe, rules=tuple(rules))


class Weights(Protocol):
    """Where the builders get weights: float32 arrays, or codes with scales."""

    def matrix(self, name: str) -> Matrix:
        """A linear layer's [rows, columns]."""

    def table(self, name: str) -> Matrix:
        """An embedding table's [rows, columns]."""

    def vector(self, name: str) -> Array:
        """A norm, bias, convolution or position embedding, float32."""

    def optional_vector(self, name: str) -> Array | None:
        """A bias, where the model has it."""


class StoredWeights(StoredVectors):
    """Each weight quantized as the recipe says, once, and kept in a file until the program is written."""

    def matrix(self, name: str) -> Matrix:
        return self._store.values(self._store.linear(name))

    def table(self, name: str) -> Matrix:
        return self._store.values(self._store.table(name))


class FloatWeights:
    """The same numbers in float32: with them the graphs compute what PyTorch does, to rounding."""

    def __init__(self, read: ReadWeight, names: Mapping[str, object]) -> None:
        self._read = read
        self._names = names

    def matrix(self, name: str) -> Array:
        values: Tensor = self._read(name)
        return values.float().numpy()

    table = matrix
    vector = matrix

    def optional_vector(self, name: str) -> Array | None:
        return self.vector(name) if name in self._names else None
