"""Run the libFuzzer harnesses: python -m android_app.runner.fuzz.run --seconds 60

The kept corpus (fuzz/corpus/HARNESS) is read, what is new goes into build/runner/corpus. What is found stays in
build/runner/findings, and the run fails. At the end: which lines of the readers all inputs, kept and new, reach.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from android_app.runner.build import BUILD, HARNESSES, SOURCE

#: larger inputs say nothing new, bytes
MAX_BYTES = {"manifest": 8192, "plan": 8192, "graph": 4096}

#: what reads untrusted bytes
READERS = ("json", "manifest", "plan", "graph", "graph_wire", "graph_shapes")


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


def coverage(harnesses: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Source file -> its lines that the inputs of these harnesses reach, and all its lines with code.

    Counted by programs without sanitizers (``make`` builds them as build/runner/coverage).
    """
    folder = BUILD / "coverage"
    for harness in harnesses:
        inputs = [BUILD / "corpus" / harness, SOURCE / "fuzz" / "corpus" / harness]
        command = [str(folder / f"fuzz-{harness}"), "-runs=0", *(str(path) for path in inputs)]
        profile = {"LLVM_PROFILE_FILE": str(folder / f"{harness}.profraw")}
        subprocess.run(command, env={**os.environ, **profile}, capture_output=True, check=True)
    merged = folder / "merged.profdata"
    raw = [str(folder / f"{harness}.profraw") for harness in harnesses]
    subprocess.run(["llvm-profdata", "merge", "-sparse", *raw, "-o", str(merged)], check=True)
    programs = [str(folder / f"fuzz-{harness}") for harness in harnesses]
    others = [f"-object={program}" for program in programs[1:]]
    export = ["llvm-cov", "export", "-summary-only", f"-instr-profile={merged}", programs[0], *others]
    done = subprocess.run(export, capture_output=True, text=True, check=True)
    files = json.loads(done.stdout)["data"][0]["files"]
    lines = {Path(entry["filename"]): entry["summary"]["lines"] for entry in files}
    return {path.name: (lines[path]["covered"], lines[path]["count"]) for path in sorted(lines) if path.stem in READERS}


def main() -> None:
    """See the module's documentation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for each harness")
    parser.add_argument("--only", choices=HARNESSES)
    options = parser.parse_args()
    harnesses = [options.only] if options.only else HARNESSES
    for harness in harnesses:
        sys.stdout.write(f"{harness}: {fuzz(harness, options.seconds)}\n")
        sys.stdout.flush()
    for name, (reached, lines) in coverage(harnesses).items():
        sys.stdout.write(f"{name}: {reached} of {lines} lines reached ({reached / lines:.0%})\n")


if __name__ == "__main__":
    main()
