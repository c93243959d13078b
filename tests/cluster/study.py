"""The built-in model's evaluation by one worker of a cluster and by two, each pinned to a core, in turns.

    python -m tests.cluster.study --output FILE

The seconds are the report's, from the first look at the hosts to the last answer: the hosts' checks, starting workers
and loading the bundle are in them. Questions are drawn by the command, which has no core of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import click

from pocketvlm.bench.report.identity import commit
from pocketvlm.bench.speed.machine import afterwards, describe
from studies.reader.study import CHECKPOINT, export, write
from tests.cluster import farm
from tests.cluster.farm import Farm

SCHEMA = "pocketvlm-cluster/1"
RECIPE = "gptq-g32"
GOAL = 1.8


def ask(cluster: Farm, bundle: Path, questions: int) -> dict[str, Any]:
    """The report of an evaluation by this cluster."""
    words = ["eval", str(bundle), "generated:cluster", "--questions", str(questions), "--threads", "1", "--json"]
    command = [sys.executable, "-m", "pocketvlm", *words, "--cluster", cluster.address]
    variables = {**os.environ, **cluster.environment}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@click.command(help=__doc__)
@click.option("--questions", default=1000, show_default=True, type=click.IntRange(8))
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1, 100))
@click.option("--cache", default=Path("build/cluster-study"), show_default=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(questions: int, repeats: int, cache: Path, output: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    bundle = cache.resolve() / f"reader-{RECIPE}"
    if not bundle.exists():
        cache.mkdir(parents=True, exist_ok=True)
        export(CHECKPOINT, bundle, RECIPE)
    machine = describe(1)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    answers = []
    with contextlib.ExitStack() as stack:
        clusters = {}
        for workers in seconds:
            clusters[workers] = stack.enter_context(farm.started())
            for core in cores[:workers]:
                stack.enter_context(clusters[workers].joined(f"core-{core}", core=core)).ready()
        for workers in (*seconds, *list(seconds) * repeats):  # the first of each warms the files
            report = ask(clusters[workers], bundle, questions)
            assert [one["workers"] for one in report["cluster"]["hosts"]] == [1] * workers
            seconds[workers].append(report["cluster"]["seconds"])
            answers.append(report["answers"])
            click.echo(f"{workers} workers: {report['cluster']['seconds']:.2f} s", err=True)
    assert all(one == answers[0] for one in answers), "two workers answered something else than one"
    measured = {workers: values[1:] for workers, values in seconds.items()}
    times = median(measured[1]) / median(measured[2])
    report = {
        "schema": SCHEMA,
        "command": "make cluster-study",
        "commit": commit(),
        "machine": afterwards(machine).model_dump(mode="json"),
        "bundle": f"the built-in model, {RECIPE}",
        "questions": questions,
        "seconds_of_one_worker": measured[1],
        "seconds_of_two_workers": measured[2],
        "questions_a_second": {str(workers): questions / median(values) for workers, values in measured.items()},
        "times": times,
        "goal": GOAL,
        "answers_are_equal": True,
    }
    write(report, output)
    click.echo(f"two workers answer {times:.2f} times as many questions a second as one (goal: {GOAL})")


if __name__ == "__main__":
    main()
