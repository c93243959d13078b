"""All tests: python -m tests.support.suite [PYTEST'S OPTIONS]. It is `make test`.

First those that share nothing, a file a worker, one worker a core; then, one after the other on a machine that does
nothing else, those that are marked ``alone``: they compare times. Options of pytest go to both runs, and come behind
those given here (``-n 0``: no workers, for --pdb). The last line has the counts of both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

#: More workers would make more of the bundles that each makes for itself.
MOST_WORKERS = 4
NO_TESTS = 5


@dataclass(frozen=True)
class Tally:
    """Of a run, or of several: tests, ``seconds`` on the clock, and by room (tests, seconds in them)."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    rooms: dict[str, tuple[int, float]] = field(default_factory=dict)

    def __add__(self, other: Tally) -> Tally:
        rooms = dict(self.rooms)
        for room, (tests, seconds) in other.rooms.items():
            before = rooms.get(room, (0, 0.0))
            rooms[room] = (before[0] + tests, before[1] + seconds)
        return Tally(
            self.passed + other.passed,
            self.failed + other.failed,
            self.skipped + other.skipped,
            self.seconds + other.seconds,
            rooms,
        )

    def to_dict(self) -> dict[str, Any]:
        """For ``Tally(**...)`` in another process."""
        return asdict(self)

    def table(self) -> list[str]:
        """Tests and seconds by room, the longest first, and what the clock says of all of them."""
        rows = sorted(self.rooms.items(), key=lambda row: -row[1][1])
        lines = [f"{room:<24}{tests:>6} tests{seconds:>9.1f} s" for room, (tests, seconds) in rows]
        return [*lines, f"{'all, by the clock':<36}{self.seconds:>9.1f} s"]

    def closing_line(self) -> str:
        """What CI reads."""
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def main(options: list[str]) -> int:
    """Both runs; the exit status is 0 where neither failed."""
    workers = min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    # In the order of the rooms: the file whose one fixture is Maven's whole run would come last by its number of tests.
    together = ["-n", str(workers), "--dist", "loadfile", "--no-loadscope-reorder", "--alone", "not"]
    stop_early = any(option in ("-x", "--exitfirst") or option.startswith("--maxfail") for option in options)
    total = Tally()
    statuses: list[int] = []
    for part in (together, ["--alone", "only"]):
        status, tally = run([*part, *options])
        total, statuses = total + tally, [*statuses, status]
        if status not in (0, 1, NO_TESTS) or (status == 1 and stop_early):
            break
    failed = next((status for status in statuses if status not in (0, NO_TESTS)), 0)
    if not failed and all(status == NO_TESTS for status in statuses):
        failed = NO_TESTS
    lines = ["", "seconds by room", *total.table(), "", total.closing_line()]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return failed


def run(options: list[str]) -> tuple[int, Tally]:
    """One run of pytest: its exit status, and what it counted (nothing, where it did not come so far)."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "tally.json"
        done = subprocess.run([sys.executable, "-m", "pytest", "--tally", place, *options], check=False)
        return done.returncode, Tally(**json.loads(place.read_text())) if place.exists() else Tally()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
