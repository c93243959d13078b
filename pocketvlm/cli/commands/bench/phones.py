"""``pocketvlm bench --target adb``: one report for each phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pocketvlm.cli.commands.bench.output import write_report
from pocketvlm.cli.console import say, typed
from pocketvlm.errors import DeviceError

if TYPE_CHECKING:
    from pocketvlm.bench.report.schema import Report
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
    clustered: bool = False,
) -> None:
    """Measure each, print and save what was measured; of several one that fails is said, and the next is taken.

    ``clustered``: the phones of the cluster that is connected.

    :raises DeviceError: a phone failed, or computed something else than this machine; what was measured is saved
    """
    from pocketvlm.bench.targets.adb.target import failure_of
    from pocketvlm.cli.commands.bench.output import print_phones

    measure = _by_cluster if clustered else _one_after_the_other
    count, several, found = measure(bundle, for_phone(workload), target, options, pinned=pinned)
    failures: list[str] = []
    reports: list[Report] = []
    for place, result in found:
        if isinstance(result, DeviceError):
            if not several:
                raise result
            failures.append(str(result))
            click.echo(f"error: {result}", err=True)
            continue
        reports.append(result)
        write_report(result, form, *(place_for(path, place, several=several) for path in (save, html)))
        wrong = failure_of(result.agreement)
        failures += [] if wrong is None else [wrong]
    if clustered and form == "table" and several:
        print_phones(reports, failures)
    if failures:
        raise DeviceError(failures[0] if not several else f"{len(failures)} of {count} phones failed: {failures[0]}")


#: How many phones there are, whether several were asked for, and each: what tells its files from others', its report.
Found = tuple[int, bool, "Iterator[tuple[str, Report | DeviceError]]"]


def _one_after_the_other(
    bundle: Path, workload: Workload, target: str, options: DeviceOptions, *, pinned: bool
) -> Found:
    """Those on this machine's cables."""
    from pocketvlm.bench.run import bench

    targets = targets_of(target)

    def each() -> Iterator[tuple[str, Report | DeviceError]]:
        for one in targets:
            try:
                report = bench(bundle, workload, command=typed(), target=one, pinned=pinned, watch=say, options=options)
            except DeviceError as error:
                yield one, error
            else:
                yield one, report

    return len(targets), target == ALL, each()


def _by_cluster(bundle: Path, workload: Workload, target: str, options: DeviceOptions, *, pinned: bool) -> Found:
    """Those of a cluster's hosts."""
    from pocketvlm.cluster.phones import PhoneWorkload, find, measure

    places = find(target.partition(":")[2])
    wanted = PhoneWorkload(bundle, workload, typed(), pinned, options)
    say(f"measuring {', '.join(place.name for place in places)}")
    each = ((f"adb:{place.host.name}-{place.serial}", result) for place, result in measure(wanted, places))
    return len(places), target == ALL or len(places) > 1, each


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
