"""What the studies of the built-in model share: bundles made and asked as a user would, and reports that say how."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pocketvlm.files import write_whole

CHECKPOINT = Path(__file__).parents[2] / "examples" / "reader" / "checkpoint"


def export(checkpoint: Path, bundle: Path, recipe: str, *options: str) -> None:
    """``pocketvlm export`` in a process of its own."""
    _pocketvlm("export", str(checkpoint), "--output", str(bundle), "--recipe", recipe, *options)


def evaluate(bundle: Path, seed: str, questions: int, threads: int) -> dict[str, Any]:
    """The report of ``pocketvlm eval``, in a process of its own: the memory that it measures is a user's."""
    options = ["--questions", str(questions), "--threads", str(threads), "--json"]
    report: dict[str, Any] = json.loads(_pocketvlm("eval", str(bundle), f"generated:{seed}", *options))
    return report


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """A report of ``pocketvlm eval`` without its single answers and the path of a bundle that is gone."""
    bundle = {name: value for name, value in report["bundle"].items() if name != "path"}
    return {"bundle": bundle, **{name: report[name] for name in ("engine", "versions", "accuracy", "cost")}}


def provenance(command: str, threads: int) -> dict[str, Any]:
    """What was run, on which code, when and where."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "command": command,
        "commit": commit.stdout.strip() or None,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"system": platform.platform(), "cpu": _cpu(), "threads": threads},
    }


def interval(score: dict[str, Any]) -> str:
    """Exact match with its 95 % interval, for a table."""
    return f"{score['share']:.1%} ({score['low']:.1%} to {score['high']:.1%})"


def write(report: dict[str, Any], output: Path) -> None:
    """The report as JSON."""
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, json.dumps(report, indent=1) + "\n")


def _pocketvlm(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "pocketvlm", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(done.stderr.strip() or f"pocketvlm {' '.join(arguments)} failed")
    return done.stdout


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
