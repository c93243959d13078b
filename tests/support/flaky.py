"""Tests that fail now and then: python -m tests.support.flaky [--times 20] [FOLDER...]. It is `make test-flaky`.

Each time is a run of its own, in another random order, while another process keeps each core busy. A run that fails is
said with its seed and its failures, and its whole output stays. (For one test, often: pytest --count 50 FILE::TEST.)
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.support.phone.fake import DIES_WITH_US
from tests.support.waiting import ended

#: Rooms whose tests start processes and threads, and wait for them.
ROOMS = ("tests/device", "tests/bench", "tests/runtime")
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
BUSY = "import itertools\nfor _ in itertools.count(): pass"


def main() -> None:
    """See the module's documentation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("tests", nargs="*", default=ROOMS, metavar="FOLDER")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    failures: Counter[str] = Counter()
    bad, logs = 0, Path(tempfile.mkdtemp(prefix="pocketvlm-flaky-"))
    with contextlib.ExitStack() as stack:
        for _ in range(cores):
            stack.enter_context(ended(subprocess.Popen([*DIES_WITH_US, sys.executable, "-c", BUSY])))
        for number in range(1, options.times + 1):
            seed, began = time.time_ns() % (1 << 32), time.monotonic()
            order = ["-n", str(cores), "--dist", "loadfile", "--no-loadscope-reorder", "-p", "randomly"]
            command = [sys.executable, "-m", "pytest", "-v", *order, f"--randomly-seed={seed}", *options.tests]
            path = logs / f"{seed}.txt"
            with path.open("w", encoding="utf-8") as log:  # as it goes on: a run that is cut off says what it saw
                status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
            said = path.read_text(encoding="utf-8")
            closing = said.rstrip().rpartition("\n")[2].strip("= ")
            say(f"{number} of {options.times}: {closing} (seed {seed}, {time.monotonic() - began:.0f} s)")
            if status:
                failed = FAILED.findall(said)
                say("".join(f"    {name}\n" for name in failed) + f"    exit status {status}: {path}")
                failures.update(failed)
                bad += 1
            else:
                path.unlink()
    for name, times in failures.most_common():
        say(f"{times} of {options.times} times: {name}")
    say(f"{options.times} runs, {bad} with failures")
    sys.exit(bad > 0)


def say(text: str) -> None:
    """At once, also into a file."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
