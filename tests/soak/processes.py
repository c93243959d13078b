"""Cases in processes of their own: one that crashes or hangs is counted, and the next one gets a new process."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.soak.cases import Setup
from tests.soak.worker import Outcome

ROOT = Path(__file__).resolve().parents[2]
#: Seconds on the wall: others work on the machine, and what hangs may not use the processor.
START_SECONDS, CASE_SECONDS = 600.0, 180.0


@dataclass(frozen=True)
class Judged:
    """A case that was run, and what it was in words."""

    part: str
    index: int
    what: str
    outcome: Outcome


class GoneError(Exception):
    """The worker ended or was silent for too long."""


class Worker:
    """A process for a part's cases; a context manager."""

    def __init__(self, part: str, setup: Setup) -> None:
        self._noise = (setup.sandbox / "stderr").open("w+b")
        home = setup.sandbox / "home"
        for folder in (home, setup.sandbox / "tmp"):
            folder.mkdir(exist_ok=True)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "TOKENIZERS_PARALLELISM": "false",
            "HOME": str(home), "XDG_CACHE_HOME": str(home), "TMPDIR": str(setup.sandbox / "tmp"), **threads,
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.worker", part],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            cwd=home,
            env=environment,
        )
        self._received = b""
        self._selector = selectors.DefaultSelector()
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        bundles = {name: str(path) for name, path in setup.bundles.items()}
        self._send(json.dumps({"seed": setup.seed, "sandbox": str(setup.sandbox), "bundles": bundles}))
        self._receive(START_SECONDS)

    def run(self, part: str, index: int) -> Judged:
        """One case. After one that is hung or crashed this worker is dead."""
        what, started = "", time.monotonic()
        try:
            self._send(str(index))
            what = self._receive(CASE_SECONDS)
            return Judged(part, index, what, Outcome(**self._receive(CASE_SECONDS)))
        except TimeoutError:
            self._process.send_signal(signal.SIGABRT)  # faulthandler then says where it was
            return self._dead(part, index, what, started)
        except GoneError:
            return self._dead(part, index, what, started)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._noise):
            with contextlib.suppress(BrokenPipeError):  # what a dead worker did not read
                if stream is not None:
                    stream.close()

    def _dead(self, part: str, index: int, what: str, started: float) -> Judged:
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        seconds = time.monotonic() - started
        hung = seconds >= CASE_SECONDS
        ended = "silent" if hung else signal.Signals(-code).name if code < 0 else f"exit status {code}"
        line = f"{ended} after {seconds:.0f} s: {self._last_words()}"
        return Judged(part, index, what, Outcome("hung" if hung else "crashed", line, round(seconds, 3), 0, 0))

    def _last_words(self) -> str:
        self._noise.seek(0)
        lines = self._noise.read().decode(errors="replace").splitlines()
        start = max((at for at, line in enumerate(lines) if "rror" in line), default=max(0, len(lines) - 12))
        return " | ".join(line.strip() for line in lines[start : start + 12])[:1500]

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise GoneError from error

    def _receive(self, seconds: float) -> Any:
        """The next line of JSON."""
        until = time.monotonic() + seconds
        assert self._process.stdout is not None
        while b"\n" not in self._received:
            if not self._selector.select(max(0.0, until - time.monotonic())):
                raise TimeoutError
            block = self._process.stdout.read()
            if not block:
                raise GoneError
            self._received += block
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)


def run(part: str, indices: Sequence[int], setup: Setup) -> Iterator[Judged]:
    """The cases with these indices, one after the other."""
    remaining = list(indices)
    while remaining:
        with Worker(part, setup) as worker:
            while remaining and worker.alive:
                yield worker.run(part, remaining.pop(0))
