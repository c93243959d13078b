"""A Python process that answers a line of JSON with a line of JSON: what is measured apart from what measures."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from pocketvlm.errors import PocketVlmError, one_line
from pocketvlm.machine.module import module_command

EXIT_SECONDS = 30
#: How long threads may go on waiting busily, how often that is looked at, and less than which share of a core is idle.
SETTLE_SECONDS, SETTLE_STEP, IDLE_SHARE = 0.5, 0.002, 0.3


class ProcessError(PocketVlmError):
    """A process that could not do what was asked, or ended."""


class JsonProcess:
    """A module with arguments, from its first answer to ``close``. ``name`` is for errors.

    ``code``: a checkout of this project whose module it is; None: this one's.

    :raises ProcessError: it ends before its first answer, or that is an error
    """

    def __init__(self, name: str, module: Sequence[str], code: Path | None = None) -> None:
        self._name = name
        # A file: nobody reads what it says while it works, and a full pipe would stop it.
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed with the process
        command, environment = module_command(*module, code=code)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True, env=environment
        )  # fmt: skip
        try:
            self.first = self._answer()
        except ProcessError:
            self.close()
            raise

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer.

        :raises ProcessError: the answer is an error, or the process ended
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended() from error
        return self._answer()

    def close(self) -> None:
        """End it; one that does not end by itself is killed."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):  # what was not written yet has no reader any more
                    stream.close()
        try:
            self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise ProcessError(f"{self._name} says {one_line(line, 80)!r}, which is no JSON") from error
        if not isinstance(answer, dict):
            raise ProcessError(f"{self._name} says {one_line(line, 80)!r}, which is no answer")
        if "error" in answer:
            raise ProcessError(one_line(answer["error"]))
        return answer

    def _ended(self) -> ProcessError:
        """What is known of a process that no longer answers."""
        try:
            status = self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return ProcessError(f"{self._name} does not answer")
        self._said.seek(0)
        lines = self._said.read().strip().splitlines()
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return ProcessError(f"{self._name} ended with {how}" + (f": {one_line(lines[-1], 200)}" if lines else ""))


def settle() -> None:
    """Wait until this process takes no time of a core any more, at most ``SETTLE_SECONDS``.

    Threads of an engine wait busily for a next run for some 10 to 50 ms, and would take a core from the other side's.
    """
    ends = time.perf_counter() + SETTLE_SECONDS
    while time.perf_counter() < ends:
        wall, cpu = time.perf_counter(), time.process_time()
        time.sleep(SETTLE_STEP)
        if time.process_time() - cpu < IDLE_SHARE * (time.perf_counter() - wall):
            return


def waits() -> dict[str, float]:
    """Seconds that each thread of this process was ready to run and had no CPU, so far, by the thread's number.

    Other work on the machine shows here and nowhere else: a wait for a disk, a lock or another thread is not in it.
    Empty where the system does not count it (Linux: Documentation/scheduler/sched-stats.rst).
    """
    found = {}
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError, IndexError, ValueError):  # the thread ended
            found[path.parent.name] = int(path.read_text().split()[1]) / 1e9
    return found


def answers_of_this_process() -> IO[str]:
    """Where this process, one of the kind, writes its answers; what libraries print on stdout goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def write_answer(answers: IO[str], answer: Mapping[str, Any]) -> None:
    """One line, at once."""
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
