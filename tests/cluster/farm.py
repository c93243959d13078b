"""A cluster on this machine, for tests and for `make farm-demo`: real nodes of Ray, started by ``pocketvlm cluster``.

Each has an adb server of its own, so that a phone is on the cable of one of them alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.phone import cable, fake
from tests.support.phone.fake import FakePhone
from tests.support.waiting import SECONDS, until

ROOT = Path(__file__).resolve().parents[2]
#: One who leaves these tests takes the node along: Ray ends what it started when it is told to end.
ENDS_WITH_US = ("setpriv", "--pdeathsig", "TERM")
#: That a node is gone is known within two seconds, not half a minute; and one that is told to end does.
IMPATIENT = {
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
}
STARTED = "Ray runtime started."
#: What Ray calls a process that works on a unit of ours.
WORKING = "ray::pocketvlm: "


@dataclass(frozen=True)
class Node:
    """A running node, and the process that started it and ends it."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def ready(self) -> Node:
        """The same once it has joined; several are started before the first is waited for."""
        until(lambda: STARTED in self.log.read_text() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()
        return self

    def working(self) -> dict[int, str]:
        """The workers that do something of ours: process ids, and what Ray calls them."""
        return {pid: line for pid in family(self.process.pid) if (line := command_line(pid)).startswith(WORKING)}

    def kill(self) -> None:
        """All its processes at once, as where the power fails."""
        pids = family(self.process.pid)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(SECONDS)
        until(lambda: not any(command_line(pid) for pid in pids))


@dataclass(frozen=True)
class Farm:
    """A cluster: its address, and where its nodes keep their files."""

    address: str
    directory: Path
    head: Node

    @contextlib.contextmanager
    def joined(
        self,
        name: str,
        *,
        cpus: int = 1,
        instead: Mapping[Path, Path] | None = None,
        core: int | None = None,
        adb: Mapping[str, str] | None = None,
    ) -> Iterator[Node]:
        """One node more, which may not be ready yet, on all cores or one.

        ``instead``: what its host sees in place of directories.
        """
        join = ["cluster", "join", self.address, "--name", name, "--cpus", str(cpus)]
        command = [sys.executable, "-m", "pocketvlm", *join, *([] if adb else ["--no-phones"])]
        if core is not None:
            command = ["taskset", "--cpu-list", str(core), *command]
        for there, seen in (instead or {}).items():
            inside = 'mount --bind "$1" "$2"; shift 2; exec "$@"'
            namespace = ["unshare", "--map-root-user", "--mount"]
            command = [*namespace, "sh", "-ec", inside, "sh", str(seen), str(there), *command]
        variables = {**os.environ, **self.environment, **(adb or {})}
        with node(name, command, variables, self.directory / f"{name}.log") as made:
            yield made

    @property
    def environment(self) -> dict[str, str]:
        """Of all its nodes."""
        return environment(self.directory)


def environment(directory: Path) -> dict[str, str]:
    return {"RAY_TMPDIR": str(directory), "PYTHONPATH": str(ROOT), **IMPATIENT}


@contextlib.contextmanager
def node(name: str, command: list[str], variables: Mapping[str, str], log: Path) -> Iterator[Node]:
    """A node that is about to start, until it has ended with all its processes."""
    with (
        log.open("w") as said,
        subprocess.Popen(
            [*ENDS_WITH_US, *command], stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=dict(variables), cwd=ROOT
        ) as process,
    ):
        try:
            yield Node(name, process, log)
        finally:
            pids = family(process.pid)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS)
            for pid in pids:  # what it did not end itself
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def started() -> Iterator[Farm]:
    """The first node, which has no CPU to offer: where commands are typed."""
    directory = Path(
        tempfile.mkdtemp(prefix="farm-", dir="/tmp")
    )  # sockets in a test's own directory have too long names
    port = free_port()
    start = ["cluster", "start", "--port", str(port), "--name", "desk", "--cpus", "0", "--no-phones"]
    command = [sys.executable, "-m", "pocketvlm", *start]
    try:
        with node("desk", command, {**os.environ, **environment(directory)}, directory / "desk.log") as head:
            yield Farm(f"127.0.0.1:{port}", directory, head.ready())
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True)
class Host:
    """A node and the phone on its cable; ``adb`` are the variables by which adb speaks to its server there."""

    node: Node
    phone: FakePhone
    adb: Mapping[str, str]

    def plug_in(self) -> None:
        """The phone's cable, where it was before."""
        with pytest.MonkeyPatch.context() as patched:
            for variable, value in self.adb.items():
                patched.setenv(variable, value)
            cable.connect(self.phone)


@contextlib.contextmanager
def with_phone(farm: Farm, name: str, directory: Path) -> Iterator[Host]:
    """A node of one CPU, which may not be ready yet, with a fake phone on its cable."""
    directory.mkdir()
    with cable.adb_server(directory) as adb, fake.switched_on(directory / "phone") as phone:
        Host(farm.head, phone, adb).plug_in()
        with farm.joined(name, adb=adb) as made:
            yield Host(made, phone, adb)


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


def family(pid: int) -> list[int]:
    """A process and all below it that still have it as an ancestor."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def cpu_seconds(pid: int) -> dict[int, float]:
    """CPU time of a process and of each below it, by their ids: Ray does not count its workers that are over."""
    found = {}
    for one in family(pid):
        with contextlib.suppress(OSError):
            ticks = map(int, Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[11:13])
            found[one] = sum(ticks) / os.sysconf("SC_CLK_TCK")
    return found


def command_line(pid: int) -> str:
    """Empty where there is no such process, or one that is over."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    return ""
