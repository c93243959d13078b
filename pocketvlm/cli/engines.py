"""Which engine of a bundle runs on this machine and on attached phones: what ``inspect`` and ``doctor`` show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pocketvlm.bench.targets.adb.client import Adb
    from pocketvlm.bench.targets.adb.device import Phone
    from pocketvlm.bundle.manifest import Manifest


@dataclass(frozen=True)
class RunsHow:
    """``engine`` of a bundle runs ``where``, None where none does; ``skipped`` are better ones, each with why not."""

    where: str
    engine: str | None
    skipped: dict[str, str]

    def __str__(self) -> str:
        reasons = "".join(f"; not by {name}: {reason}" for name, reason in self.skipped.items())
        return f"{self.where}: {self.engine or 'no engine of the bundle runs'}{reasons}"


def runs_here(manifest: Manifest) -> RunsHow:
    """By this runtime."""
    from pocketvlm.runtime.choice import choose
    from pocketvlm.runtime.engines import REAL, preference_of
    from pocketvlm.runtime.here import this_machine

    listed = preference_of(manifest)
    engine, skipped = choose(listed, this_machine(listed, REAL))
    return RunsHow("this machine", engine, dict(skipped))


def runs_on(manifest: Manifest, adb: Adb, phone: Phone, runtimes: Mapping[str, str]) -> RunsHow:
    """By the native runner on a phone, whose package of an ABI has that version of ONNX Runtime.

    :raises DeviceError: the phone went away, or does not answer
    """
    from pocketvlm.bench.targets.adb.device import RUNNER_ENGINES, files_there
    from pocketvlm.runtime.choice import MachineFacts, choose
    from pocketvlm.runtime.engines import preference_of

    listed = preference_of(manifest)
    paths = sorted({path for one in listed for library in one.libraries for path in library.paths})
    version = runtimes.get(phone.abi or "")
    facts = MachineFacts(
        engines=RUNNER_ENGINES,
        chip=phone.chip,
        abi=phone.abi or ", ".join(phone.abis) or "no ABI that it names",
        versions={} if version is None else {"onnxruntime": version},
        files=files_there(adb, paths),
    )
    engine, skipped = choose(listed, facts)
    return RunsHow(phone.serial, engine, dict(skipped))
