"""Modules of the Kotlin library are built and tested by Maven, one build at a time: they share build/android."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.support.once import alone

KEYS = ("tests", "skipped")
#: Seconds; a first run fetches 900 MB.
LIMIT = 1800


def run_tests(repository: Path, module: str, least: int, *options: str) -> None:
    """All tests of a module pass, none is skipped, and there are at least so many of them: fewer were not found."""
    built = repository / "build/android" / module
    chosen = ["-pl", module, "-am", f"-Dcore.test.skip={str(module != 'pocketvlm-core').lower()}"]
    with alone(repository / "build/android/maven.lock"):
        shutil.rmtree(built, ignore_errors=True)  # a class whose source is gone would be run as well
        command = ["mvn", "-B", "-q", "-ntp", "-f", str(repository / "android_app/pom.xml"), *chosen, *options, "test"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
        said = "".join(path.read_text() for path in (built / "surefire-reports").glob("*.xml"))
    counts = {key: sum(map(int, re.findall(rf'<testsuite [^>]*\b{key}="(\d+)"', said))) for key in KEYS}
    assert counts["tests"] >= least
    assert counts["skipped"] == 0
