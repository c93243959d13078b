"""Which of a bundle's engines is to run on a machine: they are listed best first, each with what it needs as data.

A phone has other chips, drivers and libraries than the one that a program was compiled for, and its maker puts them
elsewhere. What this file says is compared by ``pocketvlm.runtime.choice``, and by its twins in C++ and Kotlin.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer

from pocketvlm.strict import Closed

EngineName = Literal["onnx", "executorch", "neuropilot", "qnn", "litert", "litert_npu"]
#: As Android names them.
Abi = Literal["arm64-v8a", "armeabi-v7a", "x86_64", "x86"]
#: As Android's ro.soc.model has it, in capitals.
ChipName = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9][A-Z0-9_-]{0,63}$")]
#: What has a version: a runtime, or a driver.
Component = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,6}(\.[0-9]{1,6}){0,3}$")]
LibraryName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}$")]
#: A folder of the system's, nothing of a user's.
Place = Annotated[
    str,
    StringConstraints(
        pattern=r"^/(vendor|system|system_ext|odm|product|apex)(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*$", max_length=255
    ),
]


class DriverLibrary(Closed):
    """A library of the system's: one of ``names`` has to lie in one of ``places``."""

    names: Annotated[tuple[LibraryName, ...], Field(min_length=1, max_length=8)]
    places: Annotated[tuple[Place, ...], Field(min_length=1, max_length=16)]

    @property
    def paths(self) -> tuple[str, ...]:
        """Where it may be."""
        return tuple(f"{place}/{name}" for place in self.places for name in self.names)


class Needs(Closed):
    """What an engine needs of a machine; what is empty asks for nothing.

    ``chips`` and ``abis``: one of them. ``versions``: of a runtime or driver, the oldest. ``libraries``: each.
    """

    abis: Annotated[tuple[Abi, ...], Field(max_length=4)] = ()
    chips: Annotated[tuple[ChipName, ...], Field(max_length=64)] = ()
    libraries: Annotated[tuple[DriverLibrary, ...], Field(max_length=8)] = ()
    versions: Annotated[dict[Component, Version], Field(max_length=8)] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_what_is_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        return {key: written[key] for key in sorted(written, key=lambda key: key != "engine") if written[key]}


#: Of an engine that needs its runtime alone.
ANYWHERE = Needs()


class PreferredEngine(Needs):
    """An engine of a bundle, and what it needs."""

    engine: EngineName


def check_preference(listed: Sequence[PreferredEngine], engines: Collection[str], format_version: int) -> None:
    """Refuse a preference that does not fit its bundle.

    :raises ValueError: saying why
    """
    names = {one.engine for one in listed}
    if listed and format_version < 4:
        raise ValueError("only format 4 has a preference")
    if len(names) != len(listed) or not names <= set(engines):
        raise ValueError("preference has an engine twice, or one that engines does not have")


def in_order(needs: Mapping[str, Needs], usual: tuple[str, ...]) -> tuple[PreferredEngine, ...]:
    """Engines best first: what is made for a chip before what any machine runs, and those as ``usual`` has them."""
    known = sorted(needs, key=lambda name: usual.index(name) if name in usual else len(usual))
    listed = sorted(known, key=lambda name: not needs[name].chips)
    return tuple(PreferredEngine.model_validate({"engine": name, **dict(needs[name])}) for name in listed)
