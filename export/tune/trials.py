"""What a search of recipes measures: how much each layer feels bits, and what each recipe costs in divergence.

Each trial stands for itself: what is measured here in one go may be measured in parts, wherever the checkpoint lies.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from torch import Tensor

from pocketvlm.errors import DataError
from pocketvlm.export.read.calibration import CalibrationSet, read_calibration
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.read.sample import Sample
from pocketvlm.export.reference.simulate import Simulated, divergence, scored_logits, sensitivities
from pocketvlm.models.checkpoint import Checkpoint
from pocketvlm.quant.allocate import Choice
from pocketvlm.recipe import CalibrationConfig, Recipe, Rule, load_recipe

#: What a linear layer may become: (bits, group size), from small to large.
CANDIDATES: tuple[tuple[int, int | str], ...] = ((4, "channel"), (4, 128), (4, 64), (4, 32), (8, 128))
#: The recipe that the rest of the weights and the KV cache follow.
BASE = "gptq-g128"
#: Sequences that sensitivities are measured on: each goes through a layer once for each weight and candidate.
SENSITIVITY_SEQUENCES = 8

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Search:
    """What trials are made on. ``source`` and ``sequences`` are what it was read from, ``sha256`` is of what was read.

    ``calibration`` is what recipes are calibrated on, ``measured`` what they are measured on: none is in both.
    """

    checkpoint: Checkpoint
    source: str
    sequences: int
    calibration: CalibrationSet
    measured: tuple[Sample, ...]
    sha256: str

    @cached_property
    def original(self) -> Tensor:
        """The logits of the original weights over the measured text: float32 [tokens, vocabulary]"""
        return scored_logits(self.checkpoint, self.checkpoint.tensor, self.measured)

    @property
    def tokens(self) -> int:
        """Of the measured text."""
        return sum(sample.scored for sample in self.measured)


class Trials(Protocol):
    """Where a search's trials are made. Whoever makes them gives what ``Here`` gives, digit for digit."""

    def sensitivities(self, search: Search, layers: Collection[int], advance: Advance) -> dict[str, list[Choice]]:
        """The candidates' errors in these decoder layers, by weights in the layers' order."""

    def divergences(self, search: Search, recipes: Sequence[Recipe], advance: Advance) -> list[float]:
        """Mean KL divergence of each recipe, nats."""


class Here:
    """Trials one after the other in this process."""

    def sensitivities(self, search: Search, layers: Collection[int], advance: Advance) -> dict[str, list[Choice]]:
        """By rounding to nearest, which says how much a layer feels bits, not how GPTQ mends it."""
        samples = search.calibration.samples[:SENSITIVITY_SEQUENCES]
        return sensitivities(search.checkpoint, samples, candidate_rules(), advance, layers)

    def divergences(self, search: Search, recipes: Sequence[Recipe], advance: Advance) -> list[float]:
        found = []
        for recipe in recipes:
            simulated = Simulated(search.checkpoint, recipe, search.calibration)
            found.append(divergence(search.checkpoint, simulated.read, search.measured, search.original))
            advance(1)
        return found


def open_search(checkpoint: Checkpoint, source: str, sequences: int) -> Search:
    """Read the data of a search; every second sequence calibrates, the others measure.

    :raises DataError: it cannot be read, or is too little
    """
    data = read_calibration(source, read_frontend(checkpoint), base_recipe(sequences), checkpoint.config.text.positions)
    if len(data.samples) < 2:
        raise DataError(f"{source}: one sequence cannot both calibrate and measure; give more")
    calibration = replace(data, samples=data.samples[::2])
    return Search(checkpoint, source, sequences, calibration, data.samples[1::2], data.sha256)


def base_recipe(sequences: int) -> Recipe:
    """What all recipes of a search begin with."""
    return replace(load_recipe(BASE), calibration=CalibrationConfig(sequences=sequences))


def candidate_rules() -> list[Rule]:
    """What a linear layer may become."""
    return [
        Rule(("*",), "round-to-nearest", {"bits": bits, "group_size": group_size}) for bits, group_size in CANDIDATES
    ]
