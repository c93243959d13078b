"""A phone: which one is meant, what it says of itself, and whether a measurement there would mean something."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pocketvlm.bench.targets.adb import parsing
from pocketvlm.bench.targets.adb.client import Adb, ask, shell
from pocketvlm.bench.targets.adb.options import DeviceOptions
from pocketvlm.bench.targets.adb.parsing import Attached, Battery, Thermal
from pocketvlm.bench.targets.adb.states import NONE_ATTACHED, remedy
from pocketvlm.errors import DeviceError, one_line
from pocketvlm.machine.cpu import Cpu, parse_cpu_info

#: ABIs that there is a runner for, the better one first.
ABIS = ("arm64-v8a", "x86_64")
#: Of a bundle, those that the runner runs.
RUNNER_ENGINES = frozenset({"onnx", "qnn"})
#: Everything on the phone lies below; the shell's user may write and execute there.
WRITABLE = "/data/local/tmp"
#: Seconds between two looks at a phone that cools down.
LOOK_SECONDS = 10.0
FREQUENCIES = "grep . /sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq /dev/null"


@dataclass(frozen=True)
class Phone:
    """What is known of an attached phone. ``free`` in bytes, ``frequencies`` the highest of each CPU in kilohertz."""

    serial: str
    model: str
    soc: str
    abis: tuple[str, ...]
    android: str
    sdk: str
    emulated: bool
    free: int | None = None
    battery: Battery = field(default_factory=Battery)
    thermal: Thermal = field(default_factory=Thermal)
    saver: bool = False
    cpu: Cpu = field(default_factory=lambda: parse_cpu_info(""))
    frequencies: dict[int, int] = field(default_factory=dict)
    chip: str | None = None
    """Android's ro.soc.model, where it says one"""

    @property
    def abi(self) -> str | None:
        """The best one that there is a runner for."""
        return next((abi for abi in ABIS if abi in self.abis), None)

    @property
    def name(self) -> str:
        """For people: its model and what it runs."""
        return f"{self.model} (Android {self.android or '?'}, {self.soc or 'SoC unknown'})"


def choose(attached: Sequence[Attached], which: str) -> str:
    """The serial of the device that is meant: ``which``, or the only one that is ready.

    :raises DeviceError: none is, several are, or it cannot be used; the line says what to do
    """
    if which:
        found = next((one for one in attached if one.serial == which), None)
        if found is None:
            there = f"attached are {_serials(attached)}" if attached else NONE_ATTACHED
            raise DeviceError(f"{one_line(which, 80)} is not attached; {there}")
        if found.state != "device":
            raise DeviceError(f"{found.serial} {remedy(found.state)}")
        return found.serial
    ready = [one for one in attached if one.state == "device"]
    if len(ready) > 1:
        raise DeviceError(f"several devices are attached ({_serials(ready)}): say which, as --target adb:SERIAL")
    if ready:
        return ready[0].serial
    if attached:
        raise DeviceError(f"{attached[0].serial} {remedy(attached[0].state)}")
    raise DeviceError(NONE_ATTACHED)


def describe(adb: Adb) -> Phone:
    """All that is known of the device; what it cannot say is left out.

    :raises DeviceError: it went away, or does not answer
    """
    properties = parsing.parse_properties(ask(adb, "getprop"))

    def first(*names: str) -> str:
        return one_line(next((properties[name] for name in names if name in properties), ""), 100)

    abis = properties.get("ro.product.cpu.abilist") or properties.get("ro.product.cpu.abi", "")
    model = " ".join(filter(None, (first("ro.product.manufacturer"), first("ro.product.model"))))
    soc = " ".join(filter(None, (first("ro.soc.manufacturer"), first("ro.soc.model"))))
    return Phone(
        serial=adb.serial,
        model=model or adb.serial,
        soc=soc or first("ro.board.platform", "ro.hardware"),
        abis=tuple(one_line(abi, 40) for abi in abis.split(",")[:10] if abi),
        android=first("ro.build.version.release"),
        sdk=first("ro.build.version.sdk"),
        emulated=parsing.is_emulator(properties) or adb.serial.startswith("emulator-"),
        free=parsing.parse_free_space(ask(adb, f"df -k {WRITABLE}")),
        battery=parsing.parse_battery(ask(adb, "dumpsys battery")),
        thermal=parsing.parse_thermal(ask(adb, "dumpsys thermalservice")),
        saver=ask(adb, "settings get global low_power").strip() == "1",
        cpu=parse_cpu_info(ask(adb, "cat /proc/cpuinfo")),
        frequencies=parsing.parse_frequencies(shell(adb, FREQUENCIES)[0]),
        chip=first("ro.soc.model") or None,
    )


def files_there(adb: Adb, paths: Sequence[str]) -> frozenset[str]:
    """Those of ``paths``, which have no character that a shell knows, that are on the phone.

    :raises DeviceError: it went away, or does not answer
    """
    said = ask(adb, "".join(f"[ -e {path} ] && echo {path}; " for path in paths) + "true") if paths else ""
    return frozenset(said.split()) & frozenset(paths)


def problems(phone: Phone, options: DeviceOptions) -> tuple[str, ...]:
    """Why nothing can be measured on it, other than that it is warm; each line says what to do."""
    found = []
    if phone.abi is None:
        abis = ", ".join(phone.abis) or "none that it names"
        found.append(f"its ABI is {abis}, and there are runners for {' and '.join(ABIS)} only: take another device")
    level = phone.battery.level
    if level is not None and level < options.least_battery:
        found.append(f"its battery is at {level} %: charge it to {options.least_battery} % (or --least-battery)")
    if phone.saver:
        found.append("its battery saver is on, which lowers its clocks: switch it off")
    return tuple(found)


def warmth(battery: Battery, thermal: Thermal, options: DeviceOptions) -> str | None:
    """Why it is too warm to be measured, as a phrase; None where it is cool, or does not say."""
    if battery.temperature is not None and battery.temperature > options.hottest:
        return f"its battery has {battery.temperature:.1f} °C, more than {options.hottest:.1f}"
    if thermal.status not in (None, "none"):
        return f"Android says that its thermal status is {thermal.status}"
    return None


def wait_until_cool(adb: Adb, options: DeviceOptions, watch: Callable[[str], None]) -> None:
    """Return when the device is cool.

    :raises DeviceError: it is still warm after ``options.cool_wait_s``, or went away
    """
    deadline = time.monotonic() + options.cool_wait_s
    while True:
        battery = parsing.parse_battery(ask(adb, "dumpsys battery"))
        thermal = parsing.parse_thermal(ask(adb, "dumpsys thermalservice"))
        why = warmth(battery, thermal, options)
        if why is None:
            return
        left = deadline - time.monotonic()
        if left <= 0:
            raise DeviceError(
                f"{adb.serial} is too warm: {why}. Let it lie without charging, or allow more (--hottest, --cool-wait)"
            )
        watch(f"waiting for {adb.serial} to cool down: {why}")
        time.sleep(min(LOOK_SECONDS, left))


def cpus_of(phone: Phone, options: DeviceOptions, threads: int) -> tuple[int, ...]:
    """The CPUs that the runner keeps to; empty: the system chooses.

    :raises DeviceError: the big ones are wanted, and the device does not say which those are
    """
    if options.cpus != "big":
        return options.cpus
    found = parsing.big_cpus(phone.frequencies, threads)
    if not found:
        raise DeviceError(f"{phone.serial} does not say how fast its CPUs are: name them, as --cpus 4,5,6,7")
    return found


def _serials(attached: Sequence[Attached]) -> str:
    return ", ".join(one.serial for one in attached[:10])
