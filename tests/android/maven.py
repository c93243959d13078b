"""The Kotlin modules are built and tested by Maven in one run, in which each is compiled once."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

KEYS = ("tests", "failures", "errors", "skipped")
#: Seconds; a first run fetches 900 MB.
LIMIT = 1800


def run_tests(repository: Path, modules: tuple[str, ...], *options: str) -> str:
    """Runs all tests of modules, also where those of an earlier one fail; gives what Maven says."""
    for module in modules:  # a class whose source is gone would be run as well
        shutil.rmtree(repository / "build/android" / module, ignore_errors=True)
    chosen = ["-pl", ",".join(modules), "-am", "-Dmaven.test.failure.ignore=true"]
    command = ["mvn", "-B", "-q", "-ntp", "-f", str(repository / "android_app/pom.xml"), *chosen, *options, "test"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    return done.stdout


def counts(repository: Path, module: str) -> dict[str, int]:
    """Of the tests that a module's reports are about."""
    reports = repository / "build/android" / module / "surefire-reports"
    return counts_of("".join(path.read_text() for path in reports.glob("*.xml")))


def counts_of(reports: str) -> dict[str, int]:
    """The same of the text of all reports."""
    return {key: sum(map(int, re.findall(rf'<testsuite [^>]*\b{key}="(\d+)"', reports))) for key in KEYS}
