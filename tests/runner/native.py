"""The compiled programs as these tests call them: built once, asked over pipes, run over plans."""

from __future__ import annotations

import copy
import functools
import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from android_app.runner.build import BUILD, PACKAGES, compile_for, library_here, package
from tests.support.once import RUN, alone
from tests.support.waiting import SECONDS

#: "sanitized" for `make runner-sanitized`
PRESET = os.environ.get("POCKETVLM_RUNNER_BUILD", "native")


def building() -> AbstractContextManager[None]:
    """Nobody else compiles or packs meanwhile."""
    return alone(BUILD / "tests.lock")


@functools.cache
def built() -> Path:
    """The folder of the compiled programs; nothing is compiled where they are up to date."""
    with building():
        return compile_for(PRESET)


@functools.cache
def packed(abi: str) -> Path:
    """The runner's package of an ABI, packed anew by each run of tests, once: others may be reading it."""
    run = BUILD / f"tests-{abi}.run"
    with building():
        if not run.exists() or run.read_text() != RUN:
            package(abi)
            run.write_text(RUN)
    return PACKAGES / abi


@functools.cache
def library() -> Path:
    """The installed onnxruntime's shared library, which the Python runtime uses as well."""
    return library_here()


class Probe:
    """pocketvlm-probe: the library's readers and rules without ONNX Runtime, a question and an answer at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [built() / "pocketvlm-probe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, ask: str, **given: Any) -> Any:
        """The answer; AssertionError with the line where it is refused."""
        answer = self._said(ask, given)
        assert "ok" in answer, answer
        return answer["ok"]

    def refused(self, ask: str, **given: Any) -> str | None:
        """The line of a refusal, on one line and not long; None where there is none."""
        answer = self._said(ask, given)
        if "ok" in answer:
            return None
        line: str = answer["line"]
        assert line.isprintable()
        assert 0 < len(line) < 1000
        assert answer["refused"] in (2, 3, 8)
        return line

    def _said(self, ask: str, given: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"ask": ask, **given}, default=str) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the probe ended with {self.process.wait(SECONDS)}"
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(SECONDS) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()


@dataclass(frozen=True)
class Run:
    """What the runner printed, and its exit status."""

    status: int
    events: list[dict[str, Any]]
    stderr: str

    def all(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["event"] == event]

    def one(self, event: str) -> dict[str, Any]:
        (found,) = self.all(event)
        return found


def run(
    bundle: Path,
    plan: Path,
    *options: str,
    command: Sequence[str | Path] = (),
    environment: dict[str, str] | None = None,
) -> Run:
    """Run the runner (or ``command``) over a plan; every line it prints is an event."""
    arguments = ["--library", str(library()), *options] if not command else list(options)
    done = subprocess.run(
        [*(command or [built() / "pocketvlm-runner"]), bundle, plan, *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env=environment,
    )
    return Run(done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr)


PLAN: dict[str, Any] = {
    "schema": "pocketvlm-device-plan/1",
    "threads": 1,
    "cpus": [],
    "warmups": 0,
    "repeats": 2,
    "time_limit_s": 100,
    "stop_file": None,
    "tiles": None,
    "answer": None,
    "cases": [],
}
CONFIG = {
    "max_new_tokens": 8,
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "seed": 0,
    "repetition_penalty": 1.0,
    "logit_bias": [],
    "lookup": False,
}
ANSWER: dict[str, Any] = {"token_ids": [1, 2, 3, 4, 5], "config": CONFIG, "expected": None, "logits": 0}


def plan(directory: Path, **changes: Any) -> Path:
    """A plan with these sections, written into a directory."""
    path = directory / "plan.json"
    path.write_text(json.dumps({**copy.deepcopy(PLAN), **changes}))
    return path


def answer(**changes: Any) -> dict[str, Any]:
    """A plan's answer; keys of its config are changed there."""
    config = {key: value for key, value in changes.items() if key in CONFIG}
    rest = {key: value for key, value in changes.items() if key not in CONFIG}
    return {**ANSWER, "config": {**CONFIG, **config}, **rest}
