"""A test that fails fails alone: whatever it left on its phone, the next one has a phone that knows nothing of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.waiting import SECONDS

PLANTED = """
from pocketvlm.bench.targets.adb import client
from tests.support.phone import fake
from tests.support.phone.adbd import Faults

fake.SETTLE_SECONDS = 1
SERIALS = []

def test_that_leaves_a_process_and_a_fault(phone, adb):
    SERIALS.append(phone.serial)
    client.shell(adb, "setsid sleep 1000 </dev/null >/dev/null 2>&1 & true")
    phone.inject(Faults(allowed=False, hang_on="echo"))
    raise AssertionError("planted")

def test_whose_phone_dies(phone):
    SERIALS.append(phone.serial)
    phone.process.kill()
    phone.process.wait()
    raise AssertionError("planted")

def test_the_next_one(phone, adb):
    assert [one.serial for one in client.devices(client.find_adb())] == [phone.serial]
    assert phone.serial not in SERIALS
    assert phone.running() == []
    assert client.shell(adb, "echo here") == ("here", 0)
"""


def test_what_a_failing_test_leaves_fails_no_other(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["tests.support.phone.fixtures"]\n')
    (tmp_path / "test_planted.py").write_text(PLANTED)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-c", "/dev/null", "--rootdir", tmp_path, tmp_path],
        cwd=repository,
        env={**environment, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
        timeout=10 * SECONDS,
    )
    closing = done.stdout.rstrip().rpartition("\n")[2]
    assert "2 failed, 1 passed, 2 errors" in closing, done.stdout
    # the summary below has them as well where nothing is cut off, as in CI
    said = [line for line in done.stdout.splitlines() if line.startswith("E ")]
    assert sum("AssertionError: planted" in line for line in said) == 2
