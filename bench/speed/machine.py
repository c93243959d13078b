"""The machine and the code that a result belongs to."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path

from pocketvlm.bench.report.identity import commit, versions
from pocketvlm.bench.report.schema import Machine
from pocketvlm.machine.cpu import Cpu, parse_cpu_info, read_cpu_info
from pocketvlm.machine.quota import cpu_quota

PRODUCT = (Path("/sys/firmware/devicetree/base/model"), Path("/sys/class/dmi/id/product_name"))
CPUS, ZONES = Path("/sys/devices/system/cpu"), Path("/sys/class/thermal")
GOVERNOR = CPUS / "cpu0" / "cpufreq" / "scaling_governor"
#: Instructions that decide which kernels run.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve2")
#: More waiting tasks a core than this, and numbers are worth little.
BUSY_LOAD = 0.3


def describe(threads: int, *, pinned: bool = False) -> Machine:
    """The machine now, before the measurement; ``busy`` is a sentence where other work runs on it."""
    cores, load = os.cpu_count() or 1, _load()
    cpu = parse_cpu_info(read_cpu_info())
    return Machine(
        device=next((name for path in PRODUCT if (name := _text(path).strip("\0 \n"))), "host"),
        system=platform.system(),
        kernel=platform.release(),
        architecture=platform.machine(),
        cpu=cpu.name or platform.machine(),
        instructions=instructions(cpu),
        cores=cores,
        threads=threads,
        affinity=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else (),
        quota=cpu_quota(),
        governor=_text(GOVERNOR).strip() or None,
        frequencies=_frequencies(cpu),
        temperatures=_temperatures(),
        load_before=load,
        busy=f"{load:.1f} tasks were running on {cores} cores before" if load > BUSY_LOAD * cores else None,
        pinned=pinned,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        commit=commit(),
    )


def afterwards(machine: Machine) -> Machine:
    """The same with its load now: more than the measurement's own threads is other work."""
    load, busy = _load(), machine.busy
    if load > machine.threads + BUSY_LOAD * machine.cores:
        during = f"{load:.1f} tasks were running at the end, {machine.threads} of them measured"
        busy = during if busy is None else f"{busy}; {during}"
    return machine.model_copy(update={"load_after": load, "busy": busy})


def instructions(cpu: Cpu) -> tuple[str, ...]:
    """Those of ``INSTRUCTIONS`` that it has."""
    return tuple(name for name in INSTRUCTIONS if name in cpu.features)


def _frequencies(cpu: Cpu) -> tuple[float, ...]:
    """MHz of each core now; what /proc/cpuinfo says where there is no frequency scaling."""
    paths = sorted(CPUS.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"), key=lambda path: int(path.parts[-3][3:]))
    found = [text for path in paths if (text := _text(path).strip()).isdecimal()]
    return tuple(int(text) / 1000 for text in found) or cpu.megahertz


def _temperatures() -> dict[str, float]:
    """Degrees Celsius by thermal zone; of two zones of one type the later one."""
    found = {}
    for zone in sorted(ZONES.glob("thermal_zone[0-9]*")):
        value = _text(zone / "temp").strip()
        if re.fullmatch(r"-?\d{1,7}", value):
            found[_text(zone / "type").strip() or zone.name] = int(value) / 1000
    return found


def _load() -> float:
    """Tasks that ran or waited over the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
