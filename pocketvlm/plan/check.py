"""How far a profile is from what was published of its device: which phases are checks, and which were fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pocketvlm.errors import PocketVlmError
from pocketvlm.models.presets import find_preset
from pocketvlm.plan.device import Device, Measurement, ReferenceRun
from pocketvlm.plan.memory import MODES, Use, memory_parts, peaks, picture_of
from pocketvlm.plan.model import PlannedModel, model_of_config
from pocketvlm.plan.times import PARAMETERS, phases
from pocketvlm.recipe import load_recipe

#: A phase that is the sum of others: it is fitted where they are.
MADE_OF = {"image": ("patch embedding", "vision encoder")}


@dataclass(frozen=True)
class Check:
    """A published number beside the profile's. ``fitted``: the parameters that were fitted to this very number, which
    makes it no check of anything; ``error``: relative to what was published."""

    phase: str
    predicted: float
    published: float
    unit: str
    parameters: tuple[str, ...]
    fitted: tuple[str, ...]
    source: str

    @property
    def error(self) -> float:
        return self.predicted / self.published - 1

    @property
    def kind(self) -> Literal["fitted", "check"]:
        return "fitted" if self.fitted else "check"


def check_device(device: Device) -> list[Check]:
    """The profile's predictions for what its published measurements ran, in the order of its file.

    :raises PocketVlmError: the reference is not possible: an unknown preset or recipe, a prompt longer than its KV
        cache
    """
    reference = device.reference
    if reference is None:
        return []
    model = model_of_config(
        reference.preset, find_preset(reference.preset).config, load_recipe(reference.recipe), reference.kv_length
    )
    predicted = predictions(model, device, reference)
    measured = (one for one in device.published if one.system == reference.system)
    return [_check(device, one, predicted[one.phase]) for one in measured if one.phase in predicted]


def predictions(model: PlannedModel, device: Device, reference: ReferenceRun) -> dict[str, float]:
    """By phase, in the units of what is published: seconds, tokens a second, GB with the vision part freed."""
    if reference.prompt > reference.kv_length:
        raise PocketVlmError(f"device {device.name}: reference.prompt is longer than reference.kv_length")
    picture = None if model.vision is None else picture_of(model.vision, model.vision.grid(reference.image))
    use = Use(picture, reference.kv_length)
    values = {phase.name: phase.seconds for phase in phases(model, device, use, reference.prompt)}
    values["decode"] = 1 / values["decode"]
    values["memory"] = peaks(memory_parts(model, device, use))[MODES[1]] / 1e9
    return values


def fitted_parameters(device: Device, phase: str) -> tuple[str, ...]:
    """The parameters of a phase that were fitted to what was published of it, or of what it is made of."""
    numbers = {phase, *MADE_OF.get(phase, ())}
    return tuple(name for name in PARAMETERS[phase] if numbers & set(device.number(name).fitted_to))


def _check(device: Device, measured: Measurement, predicted: float) -> Check:
    return Check(
        phase=measured.phase,
        predicted=predicted,
        published=measured.value,
        unit=measured.unit,
        parameters=PARAMETERS[measured.phase],
        fitted=fitted_parameters(device, measured.phase),
        source=measured.source,
    )
