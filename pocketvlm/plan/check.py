"""How far a profile is from what was published of its device: which phases are checks, and which were fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pocketvlm.errors import PocketVlmError
from pocketvlm.models.directory import read_config
from pocketvlm.models.presets import find_preset
from pocketvlm.plan.device import DEVICES, Device, Measurement, ReferenceRun
from pocketvlm.plan.memory import MODES, Use, memory_parts, peaks, picture_at
from pocketvlm.plan.model import PlannedModel, model_of_config
from pocketvlm.plan.times import PARAMETERS, phases
from pocketvlm.recipe import load_recipe

#: Shapes and recipes of what was published that are no presets, nor recipes that one would choose.
MODELS, RECIPES = DEVICES / "models", DEVICES / "recipes"
#: A phase that is the sum of others: it is fitted where they are.
MADE_OF = {"image": ("patch embedding", "vision encoder")}


@dataclass(frozen=True)
class Check:
    """A published number of ``system`` beside the profile's.

    ``fitted``: the parameters that were fitted to this very number, which makes it no check of anything; ``error``:
    relative to what was published.
    """

    system: str
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

    :raises PocketVlmError: a reference is not possible: an unknown model or recipe, a prompt longer than its KV cache
    """
    checks = []
    for number, reference in enumerate(device.reference):
        predicted = predictions(_model(reference), device, reference)
        measured = (one for one in device.published if one.system == reference.system)
        checks += [
            _check(device, one, predicted[one.phase], first=number == 0) for one in measured if one.phase in predicted
        ]
    return checks


def _model(reference: ReferenceRun) -> PlannedModel:
    config, recipe = MODELS / f"{reference.model}.json", RECIPES / f"{reference.recipe}.toml"
    return model_of_config(
        reference.model,
        read_config(config)[1] if config in MODELS.iterdir() else find_preset(reference.model).config,
        load_recipe(recipe if recipe in RECIPES.iterdir() else reference.recipe),
        reference.kv_length,
    )


def predictions(model: PlannedModel, device: Device, reference: ReferenceRun) -> dict[str, float]:
    """By phase, in the units of what is published: seconds, tokens a second, GB with the vision part freed."""
    if reference.prompt > reference.kv_length:
        raise PocketVlmError(f"device {device.name}: reference.prompt is longer than reference.kv_length")
    image = None if model.vision is None else reference.image
    picture = None if model.vision is None or image is None else picture_at(model.vision, image)
    use = Use(picture, reference.kv_length)
    values = {phase.name: phase.seconds for phase in phases(model, device, use, reference.prompt)}
    values["decode"] = 1 / values["decode"]
    values["memory"] = peaks(memory_parts(model, device, use))[MODES[1]] / 1e9
    return values


def fitted_parameters(device: Device, phase: str) -> tuple[str, ...]:
    """The parameters of a phase that were fitted to what was published of it, or of what it is made of."""
    numbers = {phase, *MADE_OF.get(phase, ())}
    return tuple(name for name in PARAMETERS[phase] if numbers & set(device.number(name).fitted_to))


def _check(device: Device, measured: Measurement, predicted: float, *, first: bool) -> Check:
    return Check(
        system=measured.system,
        phase=measured.phase,
        predicted=predicted,
        published=measured.value,
        unit=measured.unit,
        parameters=PARAMETERS[measured.phase],
        fitted=fitted_parameters(device, measured.phase) if first else (),
        source=measured.source,
    )
