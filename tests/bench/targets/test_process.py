"""Programs that hang, flood, leave children behind or are not there."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pocketvlm.bench.targets.adb import process
from pocketvlm.bench.targets.adb.process import MOST_OUTPUT, TimedOutError, finish
from pocketvlm.errors import DeviceError
from tests.support.waiting import SECONDS, until


def test_both_outputs_and_the_exit_status() -> None:
    done = finish(["sh", "-c", "echo out; echo err >&2; exit 7"], SECONDS, "it")
    assert (done.rc, done.out, done.err) == (7, "out\n", "err\n")


def test_one_that_hangs_is_killed_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a year goes by once the child is there."""
    pid = tmp_path / "pid"
    began = iter([0.0])
    now = SimpleNamespace(monotonic=lambda: next(began, 365 * 24 * 3600.0 if pid.exists() else 0.0))
    monkeypatch.setattr(process, "time", now)
    with pytest.raises(TimedOutError, match=r"^it does not answer"):
        finish(["sh", "-c", f"sleep 600 & echo $! > {pid}.new; mv {pid}.new {pid}; wait"], 3600, "it")
    child = int(pid.read_text())
    until(lambda: _state(child), lambda state: state in (None, "Z"))


def test_a_child_that_stays_does_not_hold_it_up() -> None:
    """As adb's server: it is started by the first command, and lives on with that command's pipes."""
    began = time.monotonic()
    done = finish(["sh", "-c", f"sleep {2 * SECONDS} & echo $!"], SECONDS, "it")
    took = time.monotonic() - began
    os.kill(int(done.out), signal.SIGKILL)
    assert took < SECONDS


def test_a_flood_is_stopped() -> None:
    with pytest.raises(DeviceError, match=f"more than {MOST_OUTPUT >> 20} MiB"):
        finish(["sh", "-c", "yes"], SECONDS, "it")


def test_one_that_closes_its_output_and_stays_is_ended() -> None:
    code = "import os, time; os.close(1); os.close(2); time.sleep(60)"
    with pytest.raises(TimedOutError):
        finish([sys.executable, "-c", code], 0.5, "it")


def test_one_that_is_not_there() -> None:
    with pytest.raises(DeviceError, match=r"nowhere/adb cannot be started \(No such file"):
        finish(["/nowhere/adb"], SECONDS, "it")


def _state(pid: int) -> str | None:
    """Its letter in /proc/PID/stat; None where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None
