"""The CPU time that control groups grant, of both versions, and that whatever counts cores keeps to it."""

from __future__ import annotations

import os
import subprocess
import sys
from math import ceil
from pathlib import Path

import pytest

from pocketvlm.bench.speed.machine import describe
from pocketvlm.machine import checkup
from pocketvlm.machine.quota import cpu_quota

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "33 24 0:29 {top} /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
    "34 24 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
Files = dict[str, str]


def cfs(group: str, quota: int | str, period: int | str = 100_000) -> Files:
    return {f"sys/fs/cgroup/cpu{group}/cpu.cfs_quota_us": f"{quota}\n",
            f"sys/fs/cgroup/cpu{group}/cpu.cfs_period_us": f"{period}\n"}  # fmt: skip


@pytest.mark.parametrize(
    ("own", "mounts", "files", "quota"),
    [
        ("0::/\n", V2, {}, None),
        ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a/b\n", V2, {"sys/fs/cgroup/a/b/cpu.max": "9 1", "sys/fs/cgroup/a/cpu.max": "150000 100000"}, 1.5),
        ("0::/../x\n", V2, {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, None),  # a process of another namespace
        ("4:cpu,cpuacct:/\n0::/\n", V1.format(top="/"), cfs("", -1), None),
        ("4:cpu,cpuacct:/\n0::/\n", V1.format(top="/"), cfs("", 250_000), 2.5),
        # Docker without a namespace of control groups: the container's own group is what is mounted.
        ("4:cpu,cpuacct:/docker/ab\n", V1.format(top="/docker/ab"), cfs("", 25_000, 50_000), 0.5),
        ("4:cpu,cpuacct:/a/b\n3:memory:/c\n", V1.format(top="/"), cfs("/a/b", -1) | cfs("/a", 100_000), 1.0),
        ("4:cpuset:/\n", V1.format(top="/"), cfs("", 50_000), None),
        ("4:cpu:/\n0::/q\n", V1.format(top="/") + V2, cfs("", 300_000) | {"sys/fs/cgroup/q/cpu.max": "2 1"}, 2.0),
        ("0::/\n", V2.replace("/sys/fs/cgroup", "/with\\040blank"), {"with blank/cpu.max": "50000 100000"}, 0.5),
        ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "50000 0"}, None),
        ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "0 100000"}, None),
        ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "much\n"}, None),
        ("0\n::\n\n", "no mounts - at all\n- - -\n", {}, None),
    ],
)  # fmt: skip
def test_the_least_of_all_groups_counts(
    tmp_path: Path, own: str, mounts: str, files: Files, quota: float | None
) -> None:
    for name, text in {"proc/self/cgroup": own, "proc/self/mountinfo": mounts, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == quota


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "threads"), [(None, 2), (0.5, 1), (1.0, 1), (1.9, 1), (2.0, 2), (64.0, 2)])
def test_whatever_counts_cores_keeps_to_it(monkeypatch: pytest.MonkeyPatch, quota: float | None, threads: int) -> None:
    from pocketvlm.bench.speed import autotune
    from pocketvlm.runtime import memory, tuning

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {900, 901})  # of which no topology is known
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for module in (memory, tuning, autotune):
        monkeypatch.setattr(module, "cpu_quota", lambda: quota)
    assert memory.physical_cores() == threads
    tried = autotune.candidates(autotune.Settings(threads=1, tile_batch=1, prefill_chunk=32), with_image=False)
    assert max(changed["threads"] for _, changed in tried if "threads" in changed) <= (
        2 if quota is None else max(1, ceil(quota))
    )
    assert tuning.this_device().endswith("2 cores" if quota is None else f"2 cores, a quota of {quota:g}")


def test_bench_and_doctor_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketvlm.bench.speed.machine.cpu_quota", lambda: 0.5)
    assert describe(1).quota == 0.5
    assert describe(1).summary.endswith(", a quota of 0.5 CPUs")
    assert checkup.cores(8, None) == checkup.Finding("cores", "ok", "8")
    assert checkup.cores(8, 1.5).value == "8, a quota of 1.5 CPUs"
    assert "less than one" in checkup.cores(8, 0.5).advice


def test_a_real_group_is_found() -> None:
    """Half a CPU, as ``docker run --cpus 0.5`` gives it, for a process of its own."""
    first, second = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    parent, tasks = (first, "tasks") if first.is_dir() else (second, "cgroup.procs")
    group = parent / f"pocketvlm-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error.strerror}")
    code = "import sys; sys.stdin.readline(); from pocketvlm.runtime.memory import physical_cores as c; print(c())"
    try:
        if parent == first:
            (group / "cpu.cfs_quota_us").write_text("50000")
        elif not (group / "cpu.max").is_file():
            pytest.skip("this control group has no CPU controller")
        else:
            (group / "cpu.max").write_text("50000 100000")
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as ours:
            (group / tasks).write_text(str(ours.pid))
            assert ours.communicate("\n")[0] == "1\n"
    finally:
        group.rmdir()
