"""The machine and the code that a result belongs to."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pocketvlm.bench.evaluate import versions

CPU_INFO = Path("/proc/cpuinfo")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
#: Instructions that decide which kernels run.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve2")
#: More waiting tasks a core than this, and numbers are worth little.
BUSY_LOAD = 0.3


def describe(threads: int) -> dict[str, Any]:
    """System, CPU, load and versions; ``busy`` is a sentence where other work runs on the machine."""
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    cpu, instructions = parse_cpu_info(CPU_INFO.read_text() if CPU_INFO.is_file() else "")
    cpu = cpu or platform.machine()
    return {
        "system": platform.platform(),
        "cpu": cpu,
        "instructions": instructions,
        "cores": cores,
        "threads": threads,
        "governor": GOVERNOR.read_text().strip() if GOVERNOR.is_file() else None,
        "load": load,
        "busy": f"{load:.1f} tasks were running on {cores} cores before" if load > BUSY_LOAD * cores else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "summary": f"{threads} threads, {cpu} ({', '.join(instructions) or 'plain'})",
    }


def parse_cpu_info(text: str) -> tuple[str | None, list[str]]:
    """The CPU's name and those of ``INSTRUCTIONS`` that it has, from /proc/cpuinfo of x86 or arm64."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            values.setdefault(key.strip(), value.strip())
    flags = set(values.get("flags", values.get("Features", "")).split())
    return values.get("model name") or values.get("Hardware"), [name for name in INSTRUCTIONS if name in flags]
