"""``pocketvlm bench --target adb`` on a cluster: each phone is measured on the host that its cable is in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvlm.cluster import nodes
from pocketvlm.cluster.checks import check_all, check_bundle, digest
from pocketvlm.cluster.nodes import PHONE, Host
from pocketvlm.errors import ClusterError, DeviceError, one_line

if TYPE_CHECKING:
    from pocketvlm.bench.report.schema import Report
    from pocketvlm.bench.speed.workload import Workload
    from pocketvlm.bench.targets.adb.options import DeviceOptions

#: How often a phone is measured again whose worker was lost. What the phone itself lacks, a repetition does not give.
RETRIES = 2


@dataclass(frozen=True)
class PhonePlace:
    """A phone and the host that its cable is in."""

    host: Host
    serial: str

    @property
    def name(self) -> str:
        return f"{self.serial} on {self.host.name}"


@dataclass(frozen=True)
class PhoneWorkload:
    """What is measured of each phone; the fields are those of ``bench.run.bench``."""

    bundle: Path
    workload: Workload
    command: str
    pinned: bool
    options: DeviceOptions


def find(which: str) -> tuple[PhonePlace, ...]:
    """Phones of the cluster that is connected: those of the serials, with commas between them, or ``all``.

    :raises DeviceError: there are none, or one that is named is on no host
    """
    there = tuple(PhonePlace(host, serial) for host in nodes.hosts() for serial in host.phones)
    shown = ", ".join(place.name for place in there[:10]) or "none: pocketvlm cluster join says which it offers"
    wanted = tuple(dict.fromkeys(filter(None, which.split(","))))
    for serial in wanted if which != "all" else ():
        if serial not in [place.serial for place in there]:
            raise DeviceError(f"{one_line(serial, 80)} is on no host of the cluster; phones there: {shown}")
    if not there or not wanted:
        raise DeviceError(f"say which phones, adb:SERIAL,... or adb:all. There are: {shown}")
    return there if which == "all" else tuple(place for place in there if place.serial in wanted)


def measure(wanted: PhoneWorkload, places: Sequence[PhonePlace]) -> Iterator[tuple[PhonePlace, Report | DeviceError]]:
    """Measure each phone, all at once and each by one job at a time; its report as it is done, or why there is none.

    :raises ClusterError: a host of them lacks the bundle or this code
    """
    where = tuple({place.host.node: place.host for place in places}.values())
    sha256 = digest(wanted.bundle)
    options = replace(wanted.options, packages=wanted.options.packages.resolve())
    there = replace(wanted, bundle=wanted.bundle.resolve(), options=options)
    check_all(where, partial(check_bundle, there.bundle, sha256))
    running = {}
    for place in places:
        call = partial(_measure, there, place.serial, place.host.name)
        name, resource = f"pocketvlm: phone {place.serial}", {f"{PHONE}{place.serial}": 1.0}
        running[nodes.submit(place.host, name, call, resource, retries=RETRIES)] = place
    while running:
        for reference in nodes.first_done(list(running)):
            place = running.pop(reference)
            yield place, _result(place, *nodes.outcome(reference))


def _result(place: PhonePlace, text: Any, error: BaseException | None) -> Report | DeviceError:
    """:raises ClusterError: what came back is the report of another phone"""
    from pocketvlm.bench.report.schema import parse_report

    if error is not None:
        said = nodes.said(error)
        return DeviceError(f"{place.name}: {said}" if place.serial not in said else f"{place.host.name}: {said}")
    report = parse_report(text, place.name)
    if report.target != f"adb:{place.serial}":
        raise ClusterError(f"{place.name} gave the report of {one_line(report.target, 80)}")
    return report


# --- On a worker ------------------------------------------------------------------------------------------------------


def _measure(wanted: PhoneWorkload, serial: str, host: str) -> str:
    """The report's JSON.

    :raises PocketVlmError: the phone is not there, not ready, or fails; the runner's package is not there
    """
    from pocketvlm.bench.run import bench

    report = bench(
        wanted.bundle,
        wanted.workload,
        command=wanted.command,
        target=f"adb:{serial}",
        pinned=wanted.pinned,
        watch=lambda _: None,
        options=wanted.options,
    )
    return json.dumps(report.model_copy(update={"host": host}).as_dict())
