"""Qualcomm's compiler and simulator in tests, and processes that stand for one that breaks.

As a program, ``python -m tests.support.qnn JOB REPORT``, it is a compiler that does what BROKEN_COMPILER says.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from pocketvlm.machine import qnn


def need_wheel() -> None:
    """Skip a test where the wheel is not installed; in CI, which installs it, that is a failure."""
    if why := qnn.problem():
        if "CI" in os.environ:
            pytest.fail(why)
        pytest.skip(why)


def main(report: Path) -> None:
    """Crash, hang, say nothing, or answer what is wrong."""
    how = os.environ["BROKEN_COMPILER"]
    sys.stderr.write("libQnnHtp: something is wrong\n")
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "hang":
        Path(os.environ["BROKEN_COMPILER_STARTED"]).write_text(str(os.getpid()))
        while True:
            time.sleep(1)
    if how == "exit":
        sys.exit(3)
    if how == "nothing":
        report.write_text('{"graphs": [], "cpu_seconds": 0, "peak_bytes": 0}')


if __name__ == "__main__":
    main(Path(sys.argv[2]))
