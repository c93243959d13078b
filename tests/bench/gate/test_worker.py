"""Whose code a side of the gate runs: that of the checkout that is named, and nothing of the current directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from pocketvlm.bench.gate.gate import Bound, Gate
from pocketvlm.bench.gate.interleaved import interleave
from pocketvlm.bench.gate.ratios import Looks
from pocketvlm.bench.gate.worker import Worker, check_code
from pocketvlm.bench.speed.process import ProcessError, waits
from pocketvlm.bench.speed.workload import Workload
from pocketvlm.machine.module import module_command
from studies.gate_checkouts import copy_checkout, plant

WORKLOAD = Workload(image=None, prompts=(), new_tokens=2, threads=1)
#: Longer than a step of a tiny model by far.
PLANTED = 0.02


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copy_checkout(tmp_path / "base")


def test_a_slow_down_is_seen_on_the_side_that_has_it(
    checkout: Path, tiny_bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_code(plant(checkout, PLANTED))
    gate = Gate((Bound(("tg*",), 0.5),), Looks(20, 20))
    monkeypatch.chdir(checkout.parent)
    with (
        closing(Worker(tiny_bundles["fp32"], WORKLOAD, checkout)) as planted,
        closing(Worker(tiny_bundles["fp32"], WORKLOAD)) as ours,
    ):
        for base, new, verdict in ((ours, planted, "regressed"), (planted, ours, "improved")):
            (row,) = interleave({"tg2": partial(base.run, "tg2")}, {"tg2": partial(new.run, "tg2")}, gate)
            assert row.verdict == verdict
            assert row.ratio is not None
            assert abs(row.ratio - 1) > 0.5


def test_the_current_directory_is_nobodys_code(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standing in a checkout that cannot be imported, this one's code runs: also in what its processes start."""
    (checkout / "pocketvlm" / "__init__.py").write_text("raise RuntimeError('not this one')\n")
    monkeypatch.chdir(checkout)
    command, environment = module_command("pocketvlm", "--version")
    subprocess.run(command, env=environment, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "pocketvlm", "--version"], env=environment, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda base: (base / "pocketvlm/__init__.py").write_text("raise RuntimeError('gone\x1b wrong')\n"),
         r"base: its code cannot be imported (RuntimeError: gone\x1b wrong)"),
        (lambda base: (base / "bench/gate/worker.py").unlink(),
         "base has no pocketvlm.bench.gate.worker: its code is from before that lay there and cannot be run in turns."),
        (lambda base: (base / "pocketvlm/bench").unlink(), "base has no pocketvlm.bench.gate.worker"),
        (lambda base: shutil.rmtree(base / "pocketvlm"), "base is no checkout of pocketvlm: git worktree add"),
        (lambda base: (base / "pocketvlm/__init__.py").unlink(), "base: not its code would run but"),
    ],
)  # fmt: skip
def test_a_base_that_cannot_be_run_ends_with_two(
    checkout: Path, tiny_bundles: dict[str, Path], repository: Path, break_it: Callable[[Path], object], said: str
) -> None:
    """By the command and by what `make bench-gate` runs: never with 1, which says that something became worse."""
    break_it(checkout)
    with pytest.raises(ProcessError) as caught:
        check_code(checkout)
    assert said in str(caught.value)
    bundle = str(tiny_bundles["fp32"])
    in_turns = (
        "pocketvlm",
        "bench",
        bundle,
        "--interleave",
        bundle,
        "--base-code",
        str(checkout),
        "-p",
        "8",
        "-n",
        "2",
    )
    gate = ("studies.bench", "--cache", str(checkout.parent), "gate", "--base", str(checkout), "--", "-n", "2")
    for arguments in (in_turns, gate) if "RuntimeError" in said else ():
        done = subprocess.run(
            [sys.executable, "-m", *arguments], cwd=repository, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_wait_for_a_cpu_is_counted() -> None:
    """Two threads' worth of work on one CPU: each waits while the other runs."""
    if not Path("/proc/self/schedstat").is_file():
        pytest.skip("this system counts no waits for a CPU")
    cpu = min(os.sched_getaffinity(0))
    script = f"import os; os.sched_setaffinity(0, [{cpu}])\nprint(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as busy:
        try:
            assert busy.stdout is not None
            busy.stdout.readline()
            measured = (
                f"import os, time; os.sched_setaffinity(0, [{cpu}])\n"
                "from pocketvlm.bench.speed.process import waits\n"
                "while max(waits().values()) < 0.05: pass\n"
            )
            subprocess.run([sys.executable, "-c", measured], check=True)
        finally:
            busy.kill()
    assert str(os.getpid()) in waits()
