"""``pocketvlm bench --target adb``: one report for each phone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pocketvlm.cli.commands.bench.output import write_report
from pocketvlm.cli.console import say, typed
from pocketvlm.errors import DeviceError

if TYPE_CHECKING:
    from pocketvlm.bench.speed.workload import Workload
    from pocketvlm.bench.targets.adb.options import DeviceOptions

#: The target that is every phone, one after the other.
ALL = "adb:all"


def measure_phones(
    bundle: Path,
    workload: Workload,
    target: str,
    options: DeviceOptions,
    form: str,
    save: Path | None,
    html: Path | None,
    *,
    pinned: bool,
) -> None:
    """Measure each, print and save what was measured; of several one that fails is said, and the next is taken.

    :raises DeviceError: a phone failed, or computed something else than this machine; what was measured is saved
    """
    from pocketvlm.bench.run import bench
    from pocketvlm.bench.targets.adb.target import failure_of

    targets, failures = targets_of(target), []
    several = target == ALL
    workload = for_phone(workload)
    for one in targets:
        try:
            report = bench(bundle, workload, command=typed(), target=one, pinned=pinned, watch=say, options=options)
        except DeviceError as error:
            if not several:
                raise
            failures.append(str(error))
            click.echo(f"error: {error}", err=True)
            continue
        places = (place_for(path, one, several=several) for path in (save, html))
        write_report(report, form, *places)
        wrong = failure_of(report.agreement)
        failures += [] if wrong is None else [wrong]
    if failures:
        raise DeviceError(
            failures[0] if not several else f"{len(failures)} of {len(targets)} phones failed: {failures[0]}"
        )


def for_phone(workload: Workload) -> Workload:
    """With a phone's threads where none were said: this machine's cores say nothing about it."""
    from click.core import ParameterSource

    from pocketvlm.bench.targets.adb.options import THREADS

    said = click.get_current_context().get_parameter_source("threads") not in (None, ParameterSource.DEFAULT)
    return workload if said else replace(workload, threads=THREADS)


def targets_of(target: str) -> tuple[str, ...]:
    """The target with its serial, or one for each phone that is ready.

    :raises DeviceError: there is no such phone, or it is not ready
    """
    from pocketvlm.bench.targets.adb.target import only_serial, ready_serials

    serials = ready_serials(say) if target == ALL else (only_serial(target.partition(":")[2]),)
    return tuple(f"adb:{serial}" for serial in serials)


def place_for(save: Path | None, target: str, *, several: bool) -> Path | None:
    """Where a report goes: of all phones each into a file of its own, ``NAME-SERIAL.json``."""
    if save is None or not several:
        return save
    serial = re.sub(r"[^A-Za-z0-9._-]", "-", target.partition(":")[2])
    return save.with_name(f"{save.stem}-{serial}{save.suffix}")
