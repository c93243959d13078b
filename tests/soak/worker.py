"""The process that runs cases: python -m tests.soak.worker PART, with the Setup as JSON on the first line of stdin.

After it each line is an index. For each the case's words and then its Outcome come on stdout, a line of JSON each.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import logging
import os
import re
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from tests.soak.cases import Case, Cases, Found, Limits, Setup, Verdict

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
#: Of proc(5): the peak starts anew at what is resident now.
RESET_PEAK = "5"
STDERR = 2
MOST_NOISE = 1000


@dataclass(frozen=True)
class Outcome:
    """A case's end. ``seconds`` are the processor's, ``peak_bytes`` what the resident memory grew by at its peak."""

    verdict: Verdict
    line: str
    seconds: float
    peak_bytes: int
    rss_bytes: int
    foreign: bool = False
    """whether a library in C wrote to stderr, past Python"""


def judge(case: Case, limits: Limits) -> Outcome:
    """Run a case within its limits; anything that comes out beside a Found is wrong, also on stderr."""
    _reset_peak()
    before, written, started = _memory("VmRSS"), os.fstat(STDERR).st_size, time.process_time()
    try:
        found = case.check()
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        found = Found("wrong", f"{type(error).__name__} came out: {' '.join(str(error).split())[:200]}")
    except BaseException as error:  # a panic of a Rust library is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        found = Found("wrong", f"{type(error).__name__}, no Exception, came out: {' '.join(str(error).split())[:200]}")
    seconds, peak = time.process_time() - started, max(0, _memory("VmHWM") - before)
    sys.stderr.flush()
    noise = os.pread(STDERR, MOST_NOISE, written).decode(errors="replace")
    lines = noise.splitlines()[: -1 if len(noise) >= MOST_NOISE else None]
    foreign = bool(noise) and all(re.fullmatch(limits.foreign, line) for line in lines)
    if found.verdict != "wrong" and seconds > limits.seconds:
        found = Found("hung", f"took {seconds:.1f} s of the processor, then: {found.verdict} {found.line}")
    elif found.verdict != "wrong" and peak > limits.peak_bytes:
        found = Found("wrong", f"memory grew by {peak >> 20} MiB, then: {found.verdict} {found.line}")
    elif found.verdict != "wrong" and noise and not foreign:
        found = Found("wrong", f"stderr got {noise!r}, then: {found.verdict} {found.line}")
    return Outcome(found.verdict, found.line, round(seconds, 3), peak, _memory("VmRSS"), foreign)


def _reset_peak() -> None:
    CLEAR.write_text(RESET_PEAK)


def _memory(key: str) -> int:
    """A value of /proc/self/status, bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def serve(part: str, requests: IO[str], replies: IO[str]) -> None:
    """Run the cases that are asked for."""
    raw = json.loads(requests.readline())
    bundles_ = {name: Path(path) for name, path in raw["bundles"].items()}
    setup = Setup(raw["seed"], Path(raw["sandbox"]), bundles_)
    module = importlib.import_module(f"tests.soak.{part}")
    limits: Limits = module.LIMITS
    resource.setrlimit(resource.RLIMIT_AS, (limits.address_bytes, limits.address_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cases: Cases = module.cases(setup)

    def reply(line: object) -> None:
        replies.write(json.dumps(line) + "\n")
        replies.flush()

    reply("ready")
    for line in requests:
        case = cases(int(line))
        reply(case.what)
        reply(asdict(judge(case, limits)))


def main() -> None:
    """Keep stdout for the replies: what libraries print goes to stderr, which is a file."""
    faulthandler.enable()
    logging.basicConfig(handlers=[logging.NullHandler()])  # what a library logs is the application's to show
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(STDERR, 1)
    serve(sys.argv[1], sys.stdin, replies)


if __name__ == "__main__":
    main()
