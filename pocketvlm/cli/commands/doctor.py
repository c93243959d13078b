"""``pocketvlm doctor``: what this machine and the attached phones can do, and what to do about what they cannot."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pocketvlm.cli.console import print_table
from pocketvlm.cli.printing import rich_console
from pocketvlm.errors import DeviceError, PocketVlmError

if TYPE_CHECKING:
    from pocketvlm.bench.targets.adb.client import Adb
    from pocketvlm.bench.targets.adb.device import Phone
    from pocketvlm.bench.targets.adb.parsing import Attached
    from pocketvlm.cli.engines import RunsHow
    from pocketvlm.machine.checkup import Finding

SCHEMA = "pocketvlm-doctor/1"
#: What can be asked for beside the names of findings.
PHONE = "phone"
#: How long a phone may take to answer a question, seconds.
ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class Seen:
    """An attached device: what is known of it, if it answers, and what is wrong with it, with what to do."""

    attached: Attached
    phone: Phone | None
    advice: tuple[str, ...]


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--phones", "only_phones", is_flag=True, help="Look at the phones only.")
@click.option(
    "--need", multiple=True, metavar="NAME", help="Exit with 1 unless this is in order: adb, runner, phone, ..."
)
@click.option(
    "--runner", "packages", type=click.Path(path_type=Path), metavar="DIR",
    help="The runner's packages.  [default: dist/android/runner]",
)  # fmt: skip
@click.option(
    "--bundle", type=click.Path(path_type=Path), metavar="BUNDLE",
    help="Say which of this bundle's engines runs here and on each phone, and why no better one.",
)  # fmt: skip
def command(
    *, as_json: bool, only_phones: bool, need: tuple[str, ...], packages: Path | None, bundle: Path | None
) -> None:
    """Say what this machine and the attached phones can do.

    The exit status is 0, whatever is missing: most people need a part of it only. With --need NAME it is 1 unless that
    line of the table, or one phone that is attached, is in order.
    """
    findings, adb = ([], _adb()[0]) if only_phones else look_here(packages)
    phones = [] if adb is None else look_at_phones(adb)
    names = [one.name for one in findings] + [PHONE]
    unknown = next((name for name in need if name not in names), None)
    if unknown is not None:
        raise click.UsageError(f"--need {unknown}: choose from {', '.join(names)}")
    runs = [] if bundle is None else _runs(bundle, adb, phones, packages)
    if as_json:
        engines = {} if bundle is None else {"engines": [asdict(one) for one in runs]}
        click.echo(json.dumps({**as_dict(findings, phones), **engines}, indent=1))
    else:
        _print(findings, phones, only_phones=only_phones)
        for one in runs:
            click.echo(one)
    broken = [*_broken(findings, phones, need)]
    if broken:
        raise PocketVlmError("; ".join(broken))


def look_here(packages: Path | None) -> tuple[list[Finding], Adb | None]:
    """All about this machine, without importing what is looked for."""
    from pocketvlm.bench.targets.adb.options import PACKAGES
    from pocketvlm.machine import checkup
    from pocketvlm.machine.cpu import parse_cpu_info, read_cpu_info
    from pocketvlm.machine.quota import cpu_quota
    from pocketvlm.runtime.memory import physical_memory_bytes

    cpu = parse_cpu_info(read_cpu_info())
    adb, finding = _adb()
    return [
        checkup.python(sys.version_info[:3]),
        checkup.instructions(platform.machine(), cpu.features, cpu.name),
        checkup.cores(os.cpu_count() or 1, cpu_quota()),
        checkup.size("memory", physical_memory_bytes(), checkup.LEAST_MEMORY, "small models only"),
        checkup.size("disk", shutil.disk_usage(Path()).free, checkup.LEAST_DISK, "PyTorch alone takes 5 GB on Linux"),
        *checkup.extras(_requirements(), _version_of),
        checkup.compilers(shutil.which),
        checkup.runners(_runners(packages or PACKAGES)),
        checkup.mediatek(_version_of, sys.version_info[:3]),
        finding,
    ], adb


def look_at_phones(adb: Adb) -> list[Seen]:
    """All that are attached; one that does not answer is a phone with that advice."""
    from pocketvlm.bench.targets.adb import client

    client.start_server(adb)
    return [_look_at(adb, one) for one in client.devices(adb)]


def _runs(path: Path, adb: Adb | None, phones: list[Seen], packages: Path | None) -> list[RunsHow]:
    """How a bundle runs here, and on each phone that answers."""
    from pocketvlm.bench.targets.adb.options import PACKAGES
    from pocketvlm.bundle.open import open_bundle
    from pocketvlm.cli.engines import runs_here, runs_on

    manifest = open_bundle(path).manifest
    found, runtimes = [runs_here(manifest)], _runners(packages or PACKAGES)
    for seen in phones:
        if adb is not None and seen.phone is not None:
            asked = adb.of(seen.attached.serial, ANSWER_SECONDS)
            found.append(runs_on(manifest, asked, seen.phone, runtimes))
    return found


def as_dict(findings: list[Finding], phones: list[Seen]) -> dict[str, Any]:
    """For JSON. Sizes in bytes, temperatures in degrees Celsius."""
    return {
        "schema": SCHEMA,
        "machine": [asdict(one) for one in findings],
        "phones": [
            {
                "serial": one.attached.serial,
                "state": one.attached.state,
                **_facts(one.phone),
                "advice": list(one.advice),
            }
            for one in phones
        ],
    }


def _look_at(adb: Adb, attached: Attached) -> Seen:
    from pocketvlm.bench.targets.adb.device import describe, problems, warmth
    from pocketvlm.bench.targets.adb.options import DeviceOptions
    from pocketvlm.bench.targets.adb.states import remedy

    if attached.state != "device":
        return Seen(attached, None, (remedy(attached.state),))
    try:
        phone, options = describe(adb.of(attached.serial, ANSWER_SECONDS)), DeviceOptions()
    except DeviceError as error:
        return Seen(attached, None, (str(error),))
    warm = warmth(phone.battery, phone.thermal, options)
    cooling = () if warm is None else (f"{warm}: let it lie without charging",)
    return Seen(attached, phone, (*problems(phone, options), *cooling))


def _facts(phone: Phone | None) -> dict[str, Any]:
    if phone is None:
        return {}
    return {
        "model": phone.model,
        "soc": phone.soc,
        "abi": phone.abi,
        "android": phone.android,
        "api": phone.sdk,
        "emulated": phone.emulated,
        "free_bytes": phone.free,
        "battery_percent": phone.battery.level,
        "battery_celsius": phone.battery.temperature,
        "thermal_status": phone.thermal.status,
        "battery_saver": phone.saver,
    }


def _adb() -> tuple[Adb | None, Finding]:
    from pocketvlm.bench.targets.adb import client
    from pocketvlm.machine import checkup

    try:
        found = client.find_adb()
    except DeviceError:
        return None, checkup.adb(None, None)
    try:
        version = client.version(found)
    except DeviceError:
        version = None
    return (None if version is None else found), checkup.adb(found.program, version)


def _requirements() -> list[str]:
    try:
        return importlib.metadata.requires("pocketvlm") or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _runners(folder: Path) -> dict[str, str]:
    """Versions of ONNX Runtime by ABI, of the packages that are whole."""
    from pocketvlm.bench.targets.adb.device import ABIS
    from pocketvlm.bench.targets.adb.package import read_package

    found = {}
    for abi in ABIS:
        try:
            found[abi] = read_package(folder, abi).onnxruntime
        except DeviceError:
            continue
    return found


def _broken(findings: list[Finding], phones: list[Seen], need: tuple[str, ...]) -> Iterator[str]:
    """What is needed and not in order, as phrases."""
    for one in findings:
        if one.name in need and one.state != "ok":
            yield f"{one.name}: {one.value} ({one.advice})"
    if PHONE in need and not any(seen.phone is not None and not seen.advice for seen in phones):
        from pocketvlm.bench.targets.adb.states import NONE_ATTACHED

        yield f"{phones[0].attached.serial}: {phones[0].advice[0]}" if phones else NONE_ATTACHED


def _print(findings: list[Finding], phones: list[Seen], *, only_phones: bool) -> None:
    from rich.markup import escape
    from rich.table import Column, Table

    from pocketvlm.bench.targets.adb.states import NONE_ATTACHED

    console = rich_console()
    if not only_phones:
        table = Table("", "this machine", "what to do")
        for one in findings:
            mark = one.name if one.state == "ok" else f"[yellow]{one.name}[/yellow]"
            table.add_row(mark, escape(one.value), escape(one.advice))
        print_table(console, table)
    if not phones:
        console.print(NONE_ATTACHED, highlight=False)
        return
    table = Table(Column("serial", no_wrap=True), "phone", "ABI", "free", "battery", "what to do")
    for seen in phones:
        table.add_row(*map(escape, _row(seen)))
    print_table(console, table)


def _row(seen: Seen) -> tuple[str, ...]:
    phone, advice = seen.phone, "; ".join(seen.advice)
    if phone is None:
        return seen.attached.serial, seen.attached.model or "?", "", "", "", advice
    battery = phone.battery
    level = "" if battery.level is None else f"{battery.level} %"
    warmth = "" if battery.temperature is None else f"{battery.temperature:.1f} °C"
    free = "" if phone.free is None else f"{phone.free / 1e9:,.1f} GB"
    name = f"{phone.name}, an emulator" if phone.emulated else phone.name
    return (
        seen.attached.serial,
        name,
        phone.abi or "none",
        free,
        ", ".join(filter(None, (level, warmth))),
        advice,
    )
