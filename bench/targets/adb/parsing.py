"""What adb and a phone's own tools print, parsed: pure functions, and hostile text gives None or nothing.

Each takes time that grows as the text does: lines are cut at fixed signs, and no pattern goes back over what it read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pocketvlm.errors import one_line

#: Printed behind each command on the phone: adb 29 exits with 0 even when the phone goes away in the middle.
RC_MARK = "__rc="
#: Of android.os.PowerManager, THERMAL_STATUS_*: from "moderate" on clocks are lowered noticeably.
THERMAL_STATUSES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
#: More than any phone has; what is beyond is left out.
MOST_CPUS, MOST_DEVICES, MOST_ZONES, MOST_SERIAL = 1024, 100, 200, 200


@dataclass(frozen=True)
class Attached:
    """A line of ``adb devices -l``. ``state`` is adb's word: device, unauthorized, offline, no permissions, ..."""

    serial: str
    state: str
    model: str | None = None


@dataclass(frozen=True)
class Battery:
    """``level`` in percent, ``temperature`` in degrees Celsius; None where the phone does not say."""

    level: int | None = None
    temperature: float | None = None
    powered: bool | None = None


@dataclass(frozen=True)
class Thermal:
    """``status`` as a word of ``THERMAL_STATUSES``; ``temperatures`` in degrees Celsius by sensor."""

    status: str | None = None
    temperatures: tuple[tuple[str, float], ...] = ()


def split_rc(text: str) -> tuple[str, int] | None:
    """What a command printed, and its exit status from its mark at the end; None without it: it was cut off."""
    found = re.search(rf"{RC_MARK}(\d{{1,3}})\s*\Z", text)
    if found is None:
        return None
    return text[: found.start()].removesuffix("\n"), int(found[1])


def parse_devices(text: str) -> tuple[Attached, ...]:
    """``adb devices -l``: a heading, then SERIAL STATE KEY:VALUE... Serials and states may be of several words."""
    found = []
    for line in text.splitlines():
        if line.startswith(("List of devices", "*", "adb ")):
            continue
        before, forbidden, _ = line.partition(" no permissions")
        words, facts = before.split(), {}
        while not forbidden and len(words) > 2 and (fact := re.fullmatch(r"([a-z_]+):(.+)", words[-1])):
            facts[fact[1]] = fact[2]
            del words[-1]
        state = "no permissions" if forbidden else words.pop() if words else ""
        serial = " ".join(words)
        if words and len(serial) <= MOST_SERIAL and (forbidden or re.fullmatch(r"[a-z]+", state)):
            model = facts.get("model", "")[:100].replace("_", " ")
            found.append(Attached(serial, state, model or None))
    return tuple(found[:MOST_DEVICES])


def parse_version(text: str) -> str | None:
    """``adb version``: that of the platform tools, as "36.0.0-13206524"."""
    found = re.search(r"^Version (\S{1,60})", text, re.MULTILINE)
    return found[1] if found else None


def parse_properties(text: str) -> dict[str, str]:
    """``getprop``: lines ``[name]: [value]``; of a value that goes over several lines the first."""
    lines = re.findall(r"^\[([^\]\n]{1,200})\]: \[([^\n]{0,500}?)\]?$", text, re.MULTILINE)
    return {name: value for name, value in lines if value}


def parse_free_space(text: str) -> int | None:
    """``df -k PATH``: bytes that are free, the third of its numbers; a long name breaks the line."""
    lines = text.splitlines()
    if len(lines) < 2:
        return None
    # After the file system's name: 1K-blocks Used Available Use% Mounted on
    numbers = re.search(r"\s(\d{1,15})\s+(\d{1,15})\s+(\d{1,15})\s+\d{1,3}%", " " + " ".join(lines[1:]))
    return int(numbers[3]) * 1024 if numbers else None


def parse_battery(text: str) -> Battery:
    """``dumpsys battery``: level of scale (100), temperature in tenths of a degree."""
    lines = (line.strip().partition(": ") for line in text.splitlines())
    values = {name: value for name, _, value in lines if len(value) <= 20}
    level, temperature = _integer(values.get("level")), _integer(values.get("temperature"))
    scale = _integer(values.get("scale")) or 100
    powered = [value for name, value in values.items() if name.endswith(" powered")]
    return Battery(
        level=None if level is None or not 0 <= level <= scale else round(100 * level / scale),
        temperature=None if temperature is None or not -500 <= temperature <= 1500 else temperature / 10,
        powered="true" in powered if powered else None,
    )


def parse_thermal(text: str) -> Thermal:
    """``dumpsys thermalservice``: the status, and what the sensors say now rather than what was cached."""
    status = re.search(r"^Thermal Status: (\d)[ \t\r]*$", text, re.MULTILINE)
    number = int(status[1]) if status else len(THERMAL_STATUSES)
    now = text.partition("Current temperatures from HAL")[2].partition("Current cooling devices")[0]
    temperatures: dict[str, float] = {}
    for sensor in re.findall(r"mValue=([^{}\n]*)", now or text):
        value, *others = sensor.split(",", 8)
        named = {key.strip(): said.strip() for key, _, said in (one.partition("=") for one in others)}
        name = named.get("mName", "")
        if re.fullmatch(r"-?\d{1,4}(\.\d{1,9})?", value) and 0 < len(name) <= 60 and len(temperatures) < MOST_ZONES:
            temperatures[name] = float(value)
    return Thermal(
        status=THERMAL_STATUSES[number] if number < len(THERMAL_STATUSES) else None,
        temperatures=tuple(temperatures.items()),
    )


def parse_frequencies(text: str) -> dict[int, int]:
    """Lines ``.../cpuN/cpufreq/cpuinfo_max_freq:KILOHERTZ`` (as grep prints them): kilohertz by CPU."""
    found: dict[int, int] = {}
    for line in text.splitlines():
        cpu = re.search(r"/cpu(\d{1,4})/cpufreq/", line)
        kilohertz = re.search(r"[: ](\d{1,9})$", line.rstrip())
        if cpu and kilohertz and len(found) < MOST_CPUS:
            found[int(cpu[1])] = int(kilohertz[1])
    return found


def parse_digests(text: str) -> dict[str, str]:
    """``sha256sum``: digest by path, without a leading "./"; what is no such line is left out."""
    lines = re.findall(r"^([0-9a-f]{64})  ?\*?([^\n]{1,4096})$", text, re.MULTILINE)
    return {path.removeprefix("./"): digest for digest, path in lines}


def parse_size(text: str) -> int | None:
    """``stat -c %s``: bytes."""
    size = _integer(text.strip())
    return None if size is None or size < 0 else size


def big_cpus(frequencies: dict[int, int], threads: int) -> tuple[int, ...]:
    """The fastest clusters that together have a CPU for each thread; empty where no frequency is known.

    A cluster is made of the CPUs with one maximum frequency. Threads on cores of two speeds wait for the slower one,
    and the system moves them: so whole clusters, from the fastest on.
    """
    chosen: list[int] = []
    for speed in sorted(set(frequencies.values()), reverse=True):
        if len(chosen) >= threads:
            break
        chosen += [cpu for cpu, of_cpu in frequencies.items() if of_cpu == speed]
    return tuple(sorted(chosen))


def is_emulator(properties: dict[str, str]) -> bool:
    """Whether these are the properties of an emulator: its speed and memory are the host's."""
    flags = ("ro.kernel.qemu", "ro.boot.qemu")
    hardware = properties.get("ro.hardware", "")
    return any(properties.get(name) == "1" for name in flags) or hardware in {"goldfish", "ranchu", "cutf_cvm"}


def said(text: str, most: int = 200) -> str:
    """The last line that says something, for an error."""
    lines = [line for line in text.splitlines() if line.strip()]
    return one_line(lines[-1], most) if lines else ""


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?\d{1,18}", text) else None
