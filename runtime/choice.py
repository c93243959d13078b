"""Which engine of a bundle runs on a machine, and why each better one does not: one rule, on every platform.

``tests/golden/engines.json`` holds it; the twins are ``android_app/runner/source/choice.cpp`` and, in Kotlin,
``dev.pocketvlm.bundle.Choice``.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pocketvlm.machine.versions import version_numbers

if TYPE_CHECKING:
    from pocketvlm.bundle.preference import DriverLibrary, PreferredEngine

#: Of ASCII, which other languages have as well.
CAPITALS = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)
DIGITS = frozenset(string.digits)


@dataclass(frozen=True)
class MachineFacts:
    """What decides about engines.

    engines: those that the program which asks has at all; chip: Android's ro.soc.model, None where nobody says it;
    abi: as Android names it; versions: of runtimes and drivers, None of one that is not there, and of those that cannot
    be asked nothing; files: paths of the system's libraries that are there; failed: engine -> how it ended when it was
    tried here, in words.
    """

    engines: frozenset[str]
    chip: str | None
    abi: str
    versions: Mapping[str, str | None] = field(default_factory=dict)
    files: frozenset[str] = frozenset()
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineChoice:
    """The engine that runs a bundle, and those that were to be preferred, each with why it does not."""

    engine: str
    skipped: tuple[tuple[str, str], ...] = ()


def choose(engines: Sequence[PreferredEngine], machine: MachineFacts) -> tuple[str | None, list[tuple[str, str]]]:
    """The first engine that the machine has all of, None where there is none; and those before it, each with why not.

    A driver whose version cannot be asked is no reason: whoever opens it has to be ready for what follows.
    """
    skipped: list[tuple[str, str]] = []
    for one in engines:
        reason = why_not(one, machine)
        if reason is None:
            return one.engine, skipped
        skipped.append((one.engine, reason))
    return None, skipped


def why_not(wanted: PreferredEngine, machine: MachineFacts) -> str | None:
    """The first thing that the machine lacks, as one phrase; None where it has everything."""
    if wanted.engine not in machine.engines:
        return "this program has no engine for it"
    if wanted.abis and machine.abi not in wanted.abis:
        return f"it is for {_or(wanted.abis)}, and this is {machine.abi}"
    if wanted.chips and not any(_is_chip(name, machine.chip) for name in wanted.chips):
        here = f"this chip is {machine.chip}" if machine.chip else "this machine does not say which chip it has"
        return f"it is for {_or(wanted.chips)}, and {here}"
    for library in wanted.libraries:
        if not any(path in machine.files for path in library.paths):
            return _lacking(library)
    ended = machine.failed.get(wanted.engine)
    return _too_old(wanted.versions, machine.versions) or (ended and f"it was tried here before: {ended}")


def _too_old(wanted: Mapping[str, str], here: Mapping[str, str | None]) -> str | None:
    for component, least in sorted(wanted.items()):
        found = here.get(component, least)
        if found is None:
            return f"it needs {component} {least} or newer, and there is none"
        if version_numbers(found) < version_numbers(least):
            return f"it needs {component} {least} or newer, and {found} is here"
    return None


def _is_chip(name: str, chip: str | None) -> bool:
    """Whether a machine's chip is the one of that name: makers write sm8650, SM8650-AC, MT6989W."""
    if not chip:
        return False
    behind = chip.translate(CAPITALS).removeprefix(name)
    return len(behind) < len(chip) and behind[:1] not in DIGITS


def _lacking(library: DriverLibrary) -> str:
    places = _or(library.places)
    if len(library.names) == 1:
        return f"{library.names[0]} is not in {places}"
    return f"none of {', '.join(library.names)} is in {places}"


def _or(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
