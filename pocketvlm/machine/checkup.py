"""What a machine can do for this project, as a list of findings: pure functions of what was looked up elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pocketvlm.machine.neuropilot_tools import WHEELS, how_to_get

#: "missing" is what only some need.
State = Literal["ok", "missing"]
#: What each of the native runner's programs is for (``make runner``).
COMPILERS = {
    "cmake": "the runner",
    "ninja": "the runner",
    "g++": "the runner for this machine",
    "aarch64-linux-gnu-g++": "the runner for arm64 phones",
}
#: Instructions that INT8 kernels want, the better one first, by machine.
INT8 = {
    "x86_64": ("amx_int8", "avx512_vnni", "avx_vnni"),
    "aarch64": ("i8mm", "asimddp"),
    "arm64": ("i8mm", "asimddp"),
}
LEAST_MEMORY, LEAST_DISK = 4 << 30, 10 << 30


@dataclass(frozen=True)
class Finding:
    """One line of the table. ``advice`` says what to do where something is missing; empty: nothing need be done."""

    name: str
    state: State
    value: str
    advice: str = ""


def python(version: Sequence[int], least: tuple[int, int] = (3, 11)) -> Finding:
    """Of the interpreter that runs."""
    said = ".".join(map(str, version[:3]))
    if tuple(version[:2]) >= least:
        return Finding("python", "ok", said)
    return Finding("python", "missing", said, f"install Python {'.'.join(map(str, least))} or newer")


def extras(requirements: Iterable[str], version_of: Callable[[str], str | None]) -> list[Finding]:
    """A finding for "runtime", what is always needed, and each extra of pocketvlm's ``requirements`` (of its metadata).

    An extra that is made of others has their packages too.
    """
    by_extra: dict[str, list[str]] = {}
    for requirement in requirements:
        said = re.match(r"([A-Za-z0-9._-]+)(\[[^\]]*\])?", requirement)
        extra = re.search(r"""extra\s*==\s*['"]([^'"]+)['"]""", requirement)
        if said:
            by_extra.setdefault(extra[1] if extra else "runtime", []).append(said[0])
    return [
        _extra(name, list(dict.fromkeys(_packages(name, by_extra))), version_of) for name in by_extra if name != "dev"
    ]


def instructions(architecture: str, features: frozenset[str], name: str | None) -> Finding:
    """Those of the CPU that INT8 kernels want."""
    known = INT8.get(architecture, ())
    found = [one for one in known if one in features]
    value = f"{name or architecture} ({', '.join(found) or 'no INT8 dot products'})"
    advice = "" if found or not known else "it works, and INT8 is slow here"
    return Finding("cpu", "ok", value, advice)


def cores(count: int, quota: float | None) -> Finding:
    """Of the machine, and how many CPUs' worth of time control groups grant."""
    granted = "" if quota is None else f", a quota of {quota:g} CPUs"
    advice = "" if quota is None or quota >= 1 else "less than one: docker run --cpus, or the limit of the container"
    return Finding("cores", "ok", f"{count}{granted}", advice)


def size(name: str, value: int | None, least: int, advice: str) -> Finding:
    """Memory or free space, bytes; advice where there is less than ``least``."""
    if value is None:
        return Finding(name, "ok", "unknown")
    short = value < least
    return Finding(name, "missing" if short else "ok", f"{value / 1e9:,.1f} GB", advice if short else "")


def compilers(which: Callable[[str], str | None]) -> Finding:
    """Of the native runner."""
    lacking = {program: use for program, use in COMPILERS.items() if which(program) is None}
    if not lacking:
        return Finding("compilers", "ok", ", ".join(COMPILERS))
    value = ", ".join(f"no {program} ({use})" for program, use in lacking.items())
    return Finding("compilers", "missing", value, "make runner says what to install, and does so as root on Debian")


def runners(packages: Mapping[str, str]) -> Finding:
    """The runner's packages by ABI, with their versions of ONNX Runtime."""
    if not packages:
        return Finding("runner", "missing", "no package for phones", "make runner-package")
    said = (f"{abi} (ONNX Runtime {version})" for abi, version in packages.items())
    return Finding("runner", "ok", ", ".join(said))


def adb(program: str | None, version: str | None) -> Finding:
    """The adb that would be used."""
    if program is None:
        advice = "pip install 'pocketvlm[device]', or install the Android platform tools"
        return Finding("adb", "missing", "none", advice)
    if version is None:
        return Finding("adb", "missing", f"{program} does not run", "pip install 'pocketvlm[device]'")
    return Finding("adb", "ok", f"{version} ({program})")


def mediatek(version_of: Callable[[str], str | None], python: Sequence[int]) -> Finding:
    """The wheels of MediaTek's that its back end of ExecuTorch needs, under this version of Python."""
    found = {name: version_of(name) for name in WHEELS}
    lacking = [name for name, version in found.items() if version is None]
    if lacking:
        advice = f"only to compile for its NPU: {how_to_get(lacking, python)}"
        return Finding("mediatek", "missing", f"no {', '.join(lacking)}", advice)
    return Finding("mediatek", "ok", ", ".join(f"{name} {version}" for name, version in found.items()))


def _packages(extra: str, by_extra: Mapping[str, list[str]], depth: int = 4) -> Iterable[str]:
    for package in by_extra.get(extra, ()):
        own = re.fullmatch(r"pocketvlm\[([^\]]*)\]", package)
        if own is None:
            yield package.partition("[")[0]
        elif depth:
            for other in own[1].split(","):
                yield from _packages(other.strip(), by_extra, depth - 1)


def _extra(extra: str, packages: Sequence[str], version_of: Callable[[str], str | None]) -> Finding:
    versions = {package: version_of(package) for package in packages}
    lacking = [package for package, version in versions.items() if version is None]
    if lacking:
        name = "pocketvlm" if extra == "runtime" else f"pocketvlm[{extra}]"
        return Finding(extra, "missing", f"no {', '.join(lacking)}", f"pip install '{name}'")
    return Finding(extra, "ok", ", ".join(f"{package} {version}" for package, version in versions.items()))
