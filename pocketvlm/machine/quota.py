"""How much CPU time control groups grant this process: what ``docker run --cpus`` and Kubernetes' limits set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

#: A group's file of the period in microseconds, and of how many of them it may run: -1 or "max" is no limit. See
#: Documentation/scheduler/sched-bwc.rst (version 1) and Documentation/admin-guide/cgroup-v2.rst of Linux.
QUOTA, PERIOD, BOTH = "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.max"


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs' worth of time, the least that the process's groups and those above them grant; None: as many as there are.

    ``root``: where /proc and the rest lie.
    """
    granted = [quota for group in _groups(root) if (quota := _granted(group)) is not None]
    return min(granted, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Directories of the groups that hold this process, of the hierarchies that may limit the CPU, the inner first."""
    own = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers or "cpu" in controllers.split(","):
            own["cgroup" if controllers else "cgroup2"] = PurePosixPath(path)
    for line in _text(root / "proc/self/mountinfo").splitlines():
        # id parent device root mountpoint options [optional ...] - type source options (proc_pid_mountinfo(5))
        mount, _, kind = line.partition(" - ")
        fields, described = mount.split(), kind.split()
        if len(fields) < 5 or len(described) < 3 or described[0] not in own:
            continue
        if described[0] == "cgroup" and "cpu" not in described[2].split(","):
            continue
        top, place = PurePosixPath(_plain(fields[3])), root / _plain(fields[4]).lstrip("/")
        group = own[described[0]]
        inside = group.relative_to(top) if group.is_relative_to(top) else PurePosixPath()
        for one in (inside, *inside.parents) if ".." not in inside.parts else ():
            yield place / one


def _granted(group: Path) -> float | None:
    quota, period = _text(group / QUOTA).split(), _text(group / PERIOD).split()
    if not quota:
        quota, period = (both := _text(group / BOTH).split())[:1], both[1:2]
    if not (quota and period and quota[0].isdecimal() and period[0].isdecimal() and int(period[0])):
        return None
    return int(quota[0]) / int(period[0]) or None


def _plain(path: str) -> str:
    """A path of mountinfo, in which blanks are written in octal."""
    return path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
