"""One of two bundles that are measured in turns: python -m pocketvlm.bench.gate.worker BUNDLE WORKLOAD.

It loads the bundle, names its cases, then runs the one that is asked for and says how long it took. Each has a
process of its own, so that the other may have another version of this code, or of what it uses.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pocketvlm.bench.gate.interleaved import Run
from pocketvlm.bench.speed.process import (
    JsonProcess,
    ProcessError,
    answers_of_this_process,
    settle,
    waits,
    write_answer,
)
from pocketvlm.errors import PocketVlmError, one_line
from pocketvlm.files import label
from pocketvlm.machine.module import module_command

if TYPE_CHECKING:
    from pocketvlm.bench.speed.cases import Case
    from pocketvlm.bench.speed.workload import Workload
    from pocketvlm.runtime.engines import Engine


MODULE = "pocketvlm.bench.gate.worker"
#: Prints where a checkout's package lies and whether it has this file.
PROBE = f"""
import importlib.util, pocketvlm
try: found = importlib.util.find_spec({MODULE!r}) is not None
except ModuleNotFoundError: found = False
print(f"pocketvlm: {{pocketvlm.__file__}} {{found:d}}")
"""


def check_code(code: Path) -> None:
    """Whether a checkout's code is what runs when it is asked for.

    :raises ProcessError: there is no package, it cannot be imported, or it is from before this file lay where it lies
    """
    if not (code / "pocketvlm").is_dir():
        raise ProcessError(f"{label(code)} is no checkout of pocketvlm: git worktree add build/base origin/main")
    command, environment = module_command(MODULE, code=code)
    done = subprocess.run([command[0], "-c", PROBE], env=environment, capture_output=True, text=True, check=False)
    lines = done.stderr.strip().splitlines()
    place, _, found = done.stdout.strip().rpartition("pocketvlm: ")[2].rpartition(" ")
    if done.returncode:
        raise ProcessError(f"{label(code)}: its code cannot be imported ({one_line(lines[-1] if lines else '', 200)})")
    if not Path(place).resolve().is_relative_to(code.resolve()):
        raise ProcessError(f"{label(code)}: not its code would run but {label(place)}")
    if found != "1":
        raise ProcessError(
            f"{label(code)} has no {MODULE}: its code is from before that lay there and cannot be run in turns. "
            "Give a later one, or hold two files of pocketvlm bench --save to each other by pocketvlm compare"
        )


class Worker:
    """The process of one bundle. ``cases`` are the names of what it can run, in order.

    ``code``: a checkout of this project whose code it has; None: this one's.

    :raises ProcessError: the bundle cannot be loaded; later, that the process ended
    """

    def __init__(self, bundle: Path, workload: Workload, code: Path | None = None) -> None:
        self._process = JsonProcess(str(bundle), [MODULE, str(bundle.resolve()), json.dumps(asdict(workload))], code)
        self.cases: tuple[str, ...] = tuple(self._process.first["cases"])

    def run(self, case: str, delay: float = 0.0) -> Run:
        """What a case took. ``delay``: so many seconds more are spent in it, to see whether that is noticed."""
        answer = self._process.ask({"case": case, "delay": delay})
        return Run(float(answer["seconds"]), float(answer.get("waited", 0)))  # older code does not look at waits

    def reload(self) -> None:
        """Load the bundle again, to other places in memory."""
        self._process.ask({"reload": True})

    def counts(self) -> dict[str, Any]:
        """What is the same in each run: ``schema.Counts``."""
        counts: dict[str, Any] = self._process.ask({"counts": True})["counts"]
        return counts

    def close(self) -> None:
        """End it."""
        self._process.close()


def main(path: str, raw_workload: str) -> None:
    """Load, name the cases, and do what is asked for until stdin ends."""
    from pocketvlm.bench.speed.workload import Workload

    answers = answers_of_this_process()
    try:
        workload = Workload.from_dict(json.loads(raw_workload))
        with ThreadPoolExecutor(1) as ahead:
            ahead.submit(int).result()
            _pin(workload.threads)
            _serve(path, workload, ahead, sys.stdin, answers)
    except PocketVlmError as error:
        write_answer(answers, {"error": one_line(error)})


def _serve(path: str, workload: Workload, ahead: Executor, requests: IO[str], answers: IO[str]) -> None:
    engine, every = _load(path, workload, ahead)
    write_answer(answers, {"cases": list(every)})
    last = ""
    for line in requests:
        request = json.loads(line)
        if "counts" in request:
            write_answer(answers, {"counts": _counts(path, workload.threads)})
        elif "reload" in request:
            engine.close()
            engine, every = _load(path, workload, ahead)
            last = ""
            write_answer(answers, {})
        else:
            seconds, waited = _timed(every[request["case"]], last, request["delay"])
            last = request["case"]
            settle()
            write_answer(answers, {"seconds": seconds, "waited": waited})
    engine.close()


def _load(path: str, workload: Workload, ahead: Executor) -> tuple[Engine, dict[str, Case]]:
    """The bundle's engine, and its cases by name."""
    from pocketvlm.bench.speed.cases import cases
    from pocketvlm.bench.speed.planned import check_fits
    from pocketvlm.bundle.open import open_bundle
    from pocketvlm.runtime.engines import open_engine

    bundle = open_bundle(Path(path)).for_engine("onnx")
    check_fits(bundle.manifest, workload)
    cpus = cpus_to_pin(workload.threads)
    engine = open_engine("onnx", bundle, workload.threads, workload.prepacked_cache, cpus)
    found = cases(engine, bundle, workload, ahead)
    return engine, {case.name: case for case in found if case.missing is None}


def _pin(threads: int) -> None:
    """Keep this thread, the engine's first one, to a CPU; those that are there already stay where they are."""
    cpus = cpus_to_pin(threads)
    if cpus:
        os.sched_setaffinity(0, cpus[:1])


@functools.cache
def cpus_to_pin(threads: int) -> tuple[int, ...]:
    """One CPU for each thread, so that where the system puts them makes no difference between two processes.

    None where there are too few of them, or the system cannot do it.
    """
    if not hasattr(os, "sched_getaffinity"):
        return ()
    cpus = sorted(os.sched_getaffinity(0))
    return tuple(cpus[:threads]) if len(cpus) >= threads else ()


def _timed(case: Case, last: str, delay: float) -> Run:
    """One run and a delay, after the case's preparation where another one ran before."""
    if case.name != last:
        case.set_up()
    before, start = waits(), time.perf_counter()
    case.run()
    ends = time.perf_counter() + delay
    while time.perf_counter() < ends:
        pass
    seconds = time.perf_counter() - start
    # Of the thread that waited longest: the others waited for it, or beside it.
    return Run(seconds, max((after - before.get(thread, 0.0) for thread, after in waits().items()), default=0.0))


def _counts(path: str, threads: int) -> Mapping[str, Any]:
    from pocketvlm.bench.speed.counts import count
    from pocketvlm.bundle.open import open_bundle
    from pocketvlm.runtime import load

    with load(path, threads=threads) as vlm:
        return count(open_bundle(path), vlm).model_dump(mode="json")


def reload(*workers: Worker) -> None:
    """Load all of them again."""
    for worker in workers:
        worker.reload()


if __name__ == "__main__":
    main(*sys.argv[1:])
