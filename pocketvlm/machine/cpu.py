"""What /proc/cpuinfo of Linux says of the CPU, on x86 and on arm64."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Cpu:
    """``name`` and ``features`` of the first processor that has them; ``megahertz`` of each that says it."""

    name: str | None
    features: frozenset[str]
    megahertz: tuple[float, ...]


def read_cpu_info(path: Path = CPU_INFO) -> str:
    """The file's text; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def parse_cpu_info(text: str) -> Cpu:
    """Its lines are ``key : value``; x86 has "model name" and "flags", arm64 "Hardware" and "Features"."""
    values: dict[str, str] = {}
    megahertz = []
    for line in text.splitlines():
        key, separator, value = (part.strip() for part in line.partition(":"))
        if separator:
            values.setdefault(key, value)
        if key == "cpu MHz" and re.fullmatch(r"\d{1,6}(\.\d{1,6})?", value):
            megahertz.append(float(value))
    features = frozenset(values.get("flags", values.get("Features", "")).split())
    return Cpu(values.get("model name") or values.get("Hardware"), features, tuple(megahertz))
