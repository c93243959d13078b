"""A benchmark from its workload to its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pocketvlm.bench.report.identity import bundle_identity
from pocketvlm.bench.report.schema import Report
from pocketvlm.bench.targets import find_target
from pocketvlm.bundle.open import open_bundle

if TYPE_CHECKING:
    from pocketvlm.bench.speed.watch import Watch
    from pocketvlm.bench.speed.workload import Workload
    from pocketvlm.bench.targets.adb.options import DeviceOptions


def bench(
    path: Path,
    workload: Workload,
    *,
    command: str,
    target: str = "host",
    pinned: bool = False,
    watch: Watch,
    options: DeviceOptions | None = None,
) -> Report:
    """Measure a bundle. ``command`` is what was typed, ``pinned`` that the device's clocks are fixed.

    :raises BundleError: it is damaged, or a graph does not load
    :raises CapacityError: the workload does not fit into its KV cache
    :raises DeviceError: the target is a phone that is not there, not ready, or fails
    """
    measure, which = find_target(target)
    opened = open_bundle(path).for_engine("onnx")
    measured = measure(path, workload, which, pinned=pinned, watch=watch, options=options)
    return Report(
        command=command,
        target=target,
        bundle=bundle_identity(opened),
        machine=measured.machine,
        workload=workload.as_dict(),
        limits=measured.limits,
        rows=measured.rows,
        memory=measured.footprint.phases,
        memory_over_time=measured.footprint.over_time,
        counts=measured.counts,
        peers=measured.peers,
        agreement=measured.agreement,
    )
