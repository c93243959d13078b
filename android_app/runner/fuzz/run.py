"""Run the libFuzzer harnesses: python -m android_app.runner.fuzz.run --seconds 60

The kept corpus (fuzz/corpus/HARNESS) is read, what is new goes into build/runner/corpus. What is found stays in
build/runner/findings, and the run fails.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys

from android_app.runner.build import BUILD, HARNESSES, SOURCE

#: larger inputs say nothing new, bytes
MAX_BYTES = {"manifest": 8192, "plan": 8192, "graph": 4096}


def fuzz(harness: str, seconds: int) -> str:
    """Run one harness; its last line of statistics.

    Raises:
        SystemExit: it found something.
    """
    grown, findings = BUILD / "corpus" / harness, BUILD / "findings"
    for folder in (grown, findings):
        folder.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_BYTES[harness]}",
        f"-artifact_prefix={findings}/{harness}-",
    ]
    options += ["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1", "-print_coverage=0"]
    if harness != "graph":
        options.append(f"-dict={SOURCE / 'fuzz' / 'json.dict'}")
    command = [str(BUILD / "fuzz" / f"fuzz-{harness}"), *options, str(grown), str(SOURCE / "fuzz" / "corpus" / harness)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if re.match(r"#\d+\s+DONE", line)]
    if done.returncode or not lines:
        sys.exit("\n".join([*done.stderr.splitlines()[-40:], f"error: fuzz-{harness} found something: {findings}"]))
    return lines[-1]


def main() -> None:
    """See the module's documentation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for each harness")
    parser.add_argument("--only", choices=HARNESSES)
    options = parser.parse_args()
    for harness in [options.only] if options.only else HARNESSES:
        sys.stdout.write(f"{harness}: {fuzz(harness, options.seconds)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
