"""Prefill and decode by the native runner and by the Python runtime, in turns, each turn in new processes.

python -m studies.runner_speed turns [BUNDLE] --output FILE

Both run the same plan: the cases of ``pocketvlm bench`` without a picture. A turn loads anew, since one load of the
same weights is up to 15 % faster or slower than the next.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import click

from android_app.runner.build import REPOSITORY, compile_for, library_here
from pocketvlm.bench.report.identity import commit
from pocketvlm.bench.speed.cases import cases, measure_cases
from pocketvlm.bench.speed.machine import describe
from pocketvlm.bench.speed.workload import Workload
from pocketvlm.bench.targets.adb.plan import PLAN, speed_plan
from pocketvlm.bundle.open import open_bundle
from pocketvlm.runtime.engines import open_engine
from studies.bench import KV_LENGTH, RECIPE, Places, exported, of_preset
from studies.reader.study import write

LIMIT_S = 3600.0
SCHEMA = "pocketvlm-runner-speed/1"
WORKLOAD = Workload(image=None, prompts=(512,), new_tokens=128, depths=(0, 512), repeats=3, warmups=1)
PRESET, CACHE = "bluelm-v-0.5b", Path("build/bench")


@click.group(help=__doc__)
def main() -> None:
    """See the module's documentation."""


@main.command()
@click.argument("bundle", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--turns", default=3, show_default=True, type=click.IntRange(2, 100))
@click.option("--output", required=True, type=click.Path(path_type=Path))
def turns(bundle: Path | None, turns: int, output: Path) -> None:
    """Native, Python, native, ...: a table here and JSON. Without BUNDLE the 0.5 B preset, exported on first use."""
    if bundle is None:
        places = Places(CACHE, output.parent)
        bundle = exported(places, PRESET, of_preset(places, PRESET), RECIPE, KV_LENGTH)
    runner, machine = compile_for("native") / "pocketvlm-runner", describe(WORKLOAD.threads, pinned=False)
    seconds: list[dict[str, dict[str, float]]] = []
    for turn in range(turns):
        seconds.append({"native": native(runner, bundle), "python": in_new_process(bundle)})
        click.echo(f"turn {turn + 1} of {turns}")
    rows = [compared(name, seconds) for name in seconds[0]["python"]]
    for row in rows:
        low, high = row["range"]
        click.echo(
            f"{row['name']}: the runner takes {row['ratio']:.3f} of Python's time (turns: {low:.3f} to {high:.3f})"
        )
    result = {
        "schema": SCHEMA,
        "command": "make runner-speed",
        "commit": commit(),
        "bundle": bundle.name,
        "machine": machine.model_dump(mode="json"),
        "rows": rows,
    }
    write(result, output)


@main.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
def python(bundle: Path) -> None:
    """One turn of the Python runtime: JSON on standard output."""
    opened = open_bundle(bundle)
    engine = open_engine("onnx", opened, WORKLOAD.threads)
    with ThreadPoolExecutor(1) as ahead:
        rows = list(measure_cases(cases(engine, opened, WORKLOAD, ahead), WORKLOAD, lambda name: None))
    engine.close()
    click.echo(json.dumps({row.name: median(row.seconds) for row in rows}))


def in_new_process(bundle: Path) -> dict[str, float]:
    """Medians of the Python runtime's cases, seconds."""
    command = [sys.executable, "-m", "studies.runner_speed", "python", str(bundle)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=LIMIT_S)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def native(runner: Path, bundle: Path) -> dict[str, float]:
    """Medians of the runner's cases, seconds. Loads are left out: they are timed in other ways."""
    plan = speed_plan(open_bundle(bundle).manifest, WORKLOAD, (), LIMIT_S).content
    plan["cases"] = [case for case in plan["cases"] if case["phase"] != "load"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / PLAN).write_text(json.dumps(plan), encoding="utf-8")
        command = [str(runner), str(bundle), str(Path(folder) / PLAN), "--library", str(library_here())]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_S)
    events = map(json.loads, done.stdout.splitlines())
    rows = [event["row"] for event in events if event["event"] == "row"]
    return {row["name"]: median(row["seconds"]) for row in rows}


def compared(name: str, seconds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """A case of all turns: the median ratio of native to Python, and the turns' least and largest."""
    ratios = [turn["native"][name] / turn["python"][name] for turn in seconds]
    each = {side: [round(turn[side][name], 5) for turn in seconds] for side in ("native", "python")}
    return {"name": name, **each, "ratio": median(ratios), "range": [min(ratios), max(ratios)]}


if __name__ == "__main__":
    main()
