"""A phone as a target: the bundle and the runner are pushed, an answer is compared, then each phase is timed there.

``adb`` is the only phone that is attached, ``adb:SERIAL`` one of several.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pocketvlm import __version__
from pocketvlm.bench.report.identity import commit
from pocketvlm.bench.report.schema import Agreement, Machine
from pocketvlm.bench.speed.footprint import Footprint
from pocketvlm.bench.speed.machine import BUSY_LOAD
from pocketvlm.bench.speed.planned import check_fits
from pocketvlm.bench.targets import Measured
from pocketvlm.bench.targets.adb import client
from pocketvlm.bench.targets.adb.device import Phone, choose, cpus_of, describe, problems, wait_until_cool
from pocketvlm.bench.targets.adb.expected import compare_answers, expect
from pocketvlm.bench.targets.adb.options import DeviceOptions
from pocketvlm.bench.targets.adb.package import RunnerPackage, bundle_files, package_files, read_package
from pocketvlm.bench.targets.adb.plan import answer_plan, check_supported, checked_rows, every_case, speed_plan
from pocketvlm.bench.targets.adb.push import synchronize
from pocketvlm.bench.targets.adb.runner import ROOT, Installed, run_plan
from pocketvlm.bench.targets.adb.states import remedy
from pocketvlm.bundle.open import open_bundle
from pocketvlm.errors import DeviceError

if TYPE_CHECKING:
    from pocketvlm.bench.speed.watch import Watch
    from pocketvlm.bench.speed.workload import Workload
    from pocketvlm.bench.targets.adb.client import Adb
    from pocketvlm.bench.targets.adb.events import DeviceRun
    from pocketvlm.bundle.open import Bundle

EMULATED = "an emulator: its speed and memory are those of this computer, and only counts say something"


def run(
    path: Path, workload: Workload, which: str, *, pinned: bool, watch: Watch, options: DeviceOptions | None = None
) -> Measured:
    """The answer and its memory first, in a run of their own, then speed.

    :raises CapacityError: the workload does not fit
    :raises DeviceError: there is no such phone, it is not ready, or it fails; the line says what to do
    """
    options = options or DeviceOptions()
    bundle = open_bundle(path).for_engine("onnx")
    manifest = bundle.manifest
    check_supported(manifest, workload)
    check_fits(manifest, workload)
    adb, phone = find_phone(which, options.answer_limit_s)
    unfit = problems(phone, options)
    if unfit:
        raise DeviceError(f"{phone.serial}: {unfit[0]}")
    cpus = cpus_of(phone, options, workload.threads)
    package = read_package(options.packages, phone.abi or "")
    watch(f"{phone.name}: the answer here")
    expected = expect(bundle, workload.threads)
    installed = install(adb, bundle, package, options.packages, watch)
    wait_until_cool(adb, options, watch)
    plan = answer_plan(expected, workload, cpus, options.time_limit_s)
    answered, logits = run_plan(adb, installed, plan, manifest.model.vocab_size, watch)
    if answered.answer is None:
        raise DeviceError("the runner gave no answer")
    agreement = compare_answers(expected, answered.answer.token_ids, logits)
    watch(agreement.summary)
    wait_until_cool(adb, options, watch)
    plan = speed_plan(manifest, workload, cpus, options.time_limit_s)
    timed, _ = run_plan(adb, installed, plan, manifest.model.vocab_size, watch)
    return Measured(
        machine=machine(phone, timed, workload.threads, cpus, pinned=pinned),
        rows=checked_rows(timed.rows, every_case(manifest, workload), workload.repeats),
        footprint=Footprint(answered.memory, timed.samples),
        counts=expected.counts.model_copy(update={"token_ids": answered.answer.token_ids}),
        agreement=agreement,
    )


def find_phone(which: str, seconds: float) -> tuple[Adb, Phone]:
    """The phone that is meant, and adb for it, which waits ``seconds`` for an answer.

    :raises DeviceError: as for ``choose``, or there is no adb
    """
    adb = client.find_adb().of(only_serial(which), seconds)
    return adb, describe(adb)


def only_serial(which: str) -> str:
    """Of the phone that is meant.

    :raises DeviceError: as for ``choose``, or there is no adb
    """
    return choose(client.attached(), which)


def ready_serials(watch: Callable[[str], None]) -> tuple[str, ...]:
    """Of all phones that can be used; ``watch`` hears why others are left out.

    :raises DeviceError: there is no adb, or no such phone
    """
    attached = client.attached()
    ready = tuple(one.serial for one in attached if one.state == "device")
    if not ready:
        return (choose(attached, ""),)
    for one in attached:
        if one.state != "device":
            watch(f"left out: {one.serial} {remedy(one.state)}")
    return ready


def install(
    adb: Adb, bundle: Bundle, package: RunnerPackage, packages: Path, watch: Callable[[str], None]
) -> Installed:
    """Have the runner and the bundle on the phone; what is there already is not pushed again.

    :raises DeviceError: there is no space, or the phone went away
    """
    runner = f"{ROOT}/runner/{package.abi}"
    place = f"{ROOT}/bundles/{remote_name(bundle.location)}"
    synchronize(adb, package_files(packages, package), runner, watch)
    synchronize(adb, bundle_files(bundle), place, watch)
    return Installed(runner, package.start, place)


def remote_name(location: Path) -> str:
    """The bundle's own name, of plain letters: exported anew, only what has changed of it is pushed."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", location.resolve().name)[:100]
    return f"bundle-{plain}"


def machine(phone: Phone, run: DeviceRun, threads: int, cpus: tuple[int, ...], *, pinned: bool) -> Machine:
    """The phone as a report has it: what Android says of it, and what the runner saw while it measured."""
    seen, android = run.start.machine, f"Android {phone.android or '?'} (API {phone.sdk or '?'})"
    busy = EMULATED if phone.emulated else None
    if busy is None and seen.load_before > BUSY_LOAD * seen.cores:
        busy = f"{seen.load_before:.1f} tasks were running on {seen.cores} cores before"
    temperatures = dict(phone.thermal.temperatures)
    if phone.battery.temperature is not None:
        temperatures["battery"] = phone.battery.temperature
    return Machine(
        device=phone.model,
        system=android,
        kernel=seen.kernel,
        architecture=seen.architecture,
        cpu=phone.soc or seen.cpu,
        instructions=seen.instructions,
        cores=seen.cores,
        threads=threads,
        affinity=cpus,
        governor=seen.governor,
        frequencies=seen.frequencies,
        temperatures={**temperatures, **seen.temperatures},
        load_before=seen.load_before,
        load_after=run.load_after,
        busy=busy,
        pinned=pinned and not phone.emulated,
        emulated=phone.emulated,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"pocketvlm": __version__, "runner": run.start.runner, "onnxruntime": run.start.onnxruntime},
        commit=commit(),
    )


def failure_of(agreement: Agreement | None) -> str | None:
    """Why a measurement of a phone does not count, as a line: it computed something else."""
    if agreement is None or agreement.holds:
        return None
    return f"the phone computes something else than this machine: {agreement.summary}"
