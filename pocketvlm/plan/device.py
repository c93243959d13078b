"""Device profiles: what a plan knows of a device, each number with its source, and what was published about it.

A new device is one TOML file in ``devices/``, or a file of one's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pocketvlm.errors import PocketVlmError, one_line
from pocketvlm.files import read_bounded
from pocketvlm.strict import Strict, checked, parse_toml

#: The profiles that ship with the package.
DEVICES = Path(__file__).parent / "devices"
DEFAULT_DEVICE = "dimensity-9300"
#: Largest file that is read, bytes.
MAX_BYTES = 1 << 20

PhaseName = Literal[
    "load", "patch embedding", "hidden patch embedding", "vision encoder", "image", "prefill", "decode", "memory"
]  # fmt: skip
Unit = Literal["GB/s", "TOPS", "GB", "s", "share", "bytes", "tokens/s"]
Text = Annotated[str, Field(min_length=1, max_length=1000)]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\x20-\x7e]+$")]
Size = Annotated[int, Field(gt=0, le=1 << 20)]
Side = Annotated[int, Field(gt=0, le=8192)]
Amount = Annotated[float, Field(ge=0, lt=1e9)]

#: The unit of each number of a profile, which its file has to say.
UNITS: Mapping[str, Unit] = {
    "memory_bandwidth": "GB/s",
    "bandwidth_share": "share",
    "load_bandwidth": "GB/s",
    "prefill_rate": "TOPS",
    "vision_rate": "TOPS",
    "patch_rate": "TOPS",
    "step_overhead": "s",
    "memory_budget": "GB",
    "runtime_memory": "GB",
    "activation_size": "bytes",
}
#: Of each phase that can be published.
PUBLISHED_UNITS: Mapping[str, Unit] = {"decode": "tokens/s", "memory": "GB"}
MAY_BE_ZERO = ("step_overhead", "runtime_memory")


class Number(Strict):
    """A number, where it is from, and which published phases it was fitted to: those it predicts by construction."""

    value: Amount
    unit: Unit
    source: Text
    fitted_to: tuple[PhaseName, ...] = ()


class Measurement(Strict):
    """What somebody published of a system on this device."""

    system: Name
    phase: PhaseName
    value: Annotated[float, Field(gt=0, lt=1e9)]
    unit: Unit
    source: Text

    @model_validator(mode="after")
    def _in_its_unit(self) -> Measurement:
        if self.unit != (unit := PUBLISHED_UNITS.get(self.phase, "s")):
            raise ValueError(f"{self.phase} is published in {unit}")
        return self


class ReferenceRun(Strict):
    """What the published measurements of ``system`` ran, as near as it is known.

    ``model``: a preset, or a config in ``devices/models``; ``recipe``: a built-in one, or one in ``devices/recipes``.
    """

    system: Name
    model: Name
    recipe: Name
    image: tuple[Side, Side] | None = None
    prompt: Size
    kv_length: Size


class Device(Strict):
    """A profile. Rates are what is reached, not what a data sheet promises; an operation is one multiplication or one
    addition.

    ``bandwidth_share`` of ``memory_bandwidth`` is what reading weights reaches. ``prefill_rate``: the decoder over a
    prompt; ``vision_rate``: encoder and projector; ``patch_rate``: patch embedding. ``step_overhead``: of each chunk,
    batch of tiles or token. ``activation_size``: of one value between layers. ``pinned``: whether clocks are fixed.
    What is ``fitted_to`` a phase is fitted to the first ``reference``; the others are checks alone.
    """

    name: Name
    description: Text
    pinned: bool
    memory_bandwidth: Number
    bandwidth_share: Number
    load_bandwidth: Number
    prefill_rate: Number
    vision_rate: Number
    patch_rate: Number
    step_overhead: Number
    memory_budget: Number
    runtime_memory: Number
    activation_size: Number
    reference: Annotated[tuple[ReferenceRun, ...], Field(max_length=100)] = ()
    published: Annotated[tuple[Measurement, ...], Field(max_length=1000)] = ()

    @model_validator(mode="after")
    def _numbers_make_sense(self) -> Device:
        for name, unit in UNITS.items():
            number = self.number(name)
            if number.unit != unit:
                raise ValueError(f"{name}.unit is {number.unit}; it is {unit}")
            if number.value < 1e-9 and name not in MAY_BE_ZERO:
                raise ValueError(f"{name}.value is {number.value:g}; it is positive")
        if self.bandwidth_share.value > 1:
            raise ValueError("bandwidth_share.value is more than 1, a whole bandwidth")
        keys = [(one.system, one.phase) for one in self.published]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise ValueError(f"published: {twice[1]} of {twice[0]} is there twice")
        self._check_references(keys)
        return self

    def _check_references(self, published: Sequence[tuple[str, str]]) -> None:
        """``published``: each system and phase. What a number was fitted to has to be among the first reference's."""
        for reference in self.reference:
            if reference.system not in (system for system, _ in published):
                raise ValueError(f"reference.system {reference.system!r} has nothing published")
        phases = {phase for system, phase in published if self.reference and system == self.reference[0].system}
        for name in UNITS:
            if missing := set(self.number(name).fitted_to) - phases:
                raise ValueError(f"{name} is fitted to {min(missing)}, of which the reference has nothing published")

    def number(self, name: str) -> Number:
        """One of ``UNITS``."""
        found: Number = getattr(self, name)
        return found

    @property
    def bandwidth(self) -> float:
        """Bytes a second that reading weights reaches."""
        return 1e9 * self.memory_bandwidth.value * self.bandwidth_share.value


@dataclass(frozen=True)
class Published:
    """What was published of one system: by phase, in seconds, decode in tokens a second, memory in GB."""

    system: str
    values: Mapping[str, float]
    note: str = ""


def device_names() -> tuple[str, ...]:
    """Names of the profiles that ship with the package."""
    return tuple(sorted(path.stem for path in DEVICES.glob("*.toml")))


def load_device(name_or_file: str | Path) -> Device:
    """A profile that ships with the package by its name, or one from a TOML file.

    :raises PocketVlmError: naming the key that is wrong
    """
    text = str(name_or_file)
    path = DEVICES / f"{text}.toml" if text in device_names() else Path(text)
    name = one_line(text, 120)
    if not _exists(path):
        known = ", ".join(device_names())
        raise PocketVlmError(f"no device {name!r}: give a TOML file or one of {known}")
    return parse_device(read_bounded(path, MAX_BYTES), name)


def parse_device(content: bytes, name: str) -> Device:
    """A profile from its TOML; ``name`` is for errors.

    :raises PocketVlmError: naming the key that is wrong
    """
    return checked(Device, parse_toml(content, f"device {name}"), f"device {name}")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return True  # what is wrong with it is said when it is read


def published(device: str | Path) -> tuple[Published, ...]:
    """What was published of systems on a device, one entry a system, in the order of its file.

    Of "dimensity-9300" the first is the paper's table 5 and peak memory (arXiv 2411.10640): BlueLM-V-3B on the NPU, a
    768x1536 image, 2,048 tokens of prompt, a KV length of 2,048.

    :raises PocketVlmError: the profile is not there, or not valid
    """
    found = load_device(device).published
    systems = dict.fromkeys(one.system for one in found)
    return tuple(
        Published(
            system,
            {one.phase: one.value for one in found if one.system == system},
            "; ".join(dict.fromkeys(one.source for one in found if one.system == system)),
        )
        for system in systems
    )
