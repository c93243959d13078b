"""Where a bundle is measured. A target is one file here and one line in ``TARGETS``."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pocketvlm.bench.speed.footprint import Footprint
from pocketvlm.errors import PocketVlmError, one_line

if TYPE_CHECKING:
    from pocketvlm.bench.report.schema import Agreement, Counts, Limits, Machine, Peer, Row
    from pocketvlm.bench.speed.watch import Watch
    from pocketvlm.bench.speed.workload import Workload
    from pocketvlm.bench.targets.adb.options import DeviceOptions

#: target name -> "module:function", a ``Target``
TARGETS = {
    "host": "pocketvlm.bench.targets.host:run",
    "adb": "pocketvlm.bench.targets.adb.target:run",
}


@dataclass(frozen=True)
class Measured:
    """What a target gives; ``limits`` and ``counts`` are None where it cannot tell, ``agreement`` of the host."""

    machine: Machine
    rows: tuple[Row, ...]
    footprint: Footprint
    limits: Limits | None = None
    counts: Counts | None = None
    peers: tuple[Peer, ...] = ()
    agreement: Agreement | None = None


class Target(Protocol):
    """Measures a bundle by a workload. ``which`` is what stands behind the target's name, as a phone's serial.

    ``options`` are for phones; the host has none.
    """

    def __call__(
        self, path: Path, workload: Workload, which: str, *, pinned: bool, watch: Watch, options: DeviceOptions | None
    ) -> Measured: ...


def find_target(said: str) -> tuple[Target, str]:
    """The target, and what stands behind its name: ``adb:SERIAL`` is the target adb and SERIAL.

    :raises PocketVlmError: there is no such target
    """
    name, _, which = said.partition(":")
    if name not in TARGETS:
        raise PocketVlmError(f"there is no target {one_line(name, 40)!r}: choose one of {', '.join(TARGETS)}")
    module, _, function = TARGETS[name].partition(":")
    target: Target = getattr(importlib.import_module(module), function)
    return target, which
