"""A vendor's compiler in a process of its own with a time limit: it may crash, hang, or take all memory."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pocketvlm.errors import ExportError, one_line

#: Most time for one binary: what it takes to begin, and for each byte of weights; twenty times what was measured.
LEAST_SECONDS, SECONDS_BY_BYTE = 600.0, 5e-6


@dataclass(frozen=True)
class EndedProcess:
    """A process that has ended by itself, and what it printed."""

    status: int
    said: str

    def __str__(self) -> str:
        """For people: how, and its last words."""
        how = f"signal {-self.status}" if self.status < 0 else f"exit status {self.status}"
        lines = self.said.strip().splitlines()
        return f"{how}: {one_line(lines[-1], 200)}" if lines else how


def run(who: str, command: Sequence[str], environment: Mapping[str, str], seconds: float) -> EndedProcess:
    """Run a command to its end; ``who`` it is, for the error.

    :raises ExportError: it took longer than ``seconds``, and was stopped with all that it started
    """
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=dict(environment),
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise ExportError(f"{who} took more than {seconds:,.0f} s and was stopped") from error
        finally:
            _end(process)
        said.seek(0)
        return EndedProcess(status, said.read())


def check_room(directory: Path, data: int, who: str) -> None:
    """A binary is as large as its weights, ``data``, and is written once.

    :raises ExportError: there is too little room on the disk
    """
    free = shutil.disk_usage(directory).free
    if free < 2 * data:
        raise ExportError(f"{directory.parent} has {free / 1e6:,.0f} MB free, {who} may need {2 * data / 1e6:,.0f} MB")


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
