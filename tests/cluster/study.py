"""The built-in model's evaluation by one worker of a cluster and by two, each pinned to a core, in turns.

    python -m tests.cluster.study --output FILE

The seconds are the report's, from the first look at the hosts to the last answer: the hosts' checks, starting workers
and loading the bundle are in them. On a machine that does other work meanwhile they say little: CPU time is counted as
well, of the workers' nodes and of everything (the command and the cluster's first node too). Were there nothing else to
do, one worker would take its node's CPU time by the clock, and two at best half of everything's.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click

from pocketvlm.bench.report.identity import commit
from pocketvlm.bench.speed.machine import afterwards, describe
from studies.reader.study import CHECKPOINT, export, write
from tests.cluster import farm
from tests.cluster.farm import Farm, Node

SCHEMA = "pocketvlm-cluster/1"
RECIPE = "gptq-g32"
GOAL = 1.8


@dataclass(frozen=True)
class Asked:
    """An evaluation: seconds by the clock, and of the CPU by the workers' nodes and by everything."""

    seconds: float
    workers_cpu: float
    all_cpu: float
    answers: Any


def ask(cluster: Farm, workers: Sequence[Node], bundle: Path, questions: int) -> Asked:
    """Have the cluster's workers evaluate the bundle."""
    words = ["eval", str(bundle), "generated:cluster", "--questions", str(questions), "--threads", "1", "--json"]
    command = [sys.executable, "-m", "pocketvlm", *words, "--cluster", cluster.address]
    pids = [node.process.pid for node in (cluster.head, *workers)]
    before, children = [farm.cpu_seconds(pid) for pid in pids], resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, env={**os.environ, **cluster.environment}, capture_output=True, text=True, check=True
    )
    spent = [farm.cpu_seconds(pid) - then for pid, then in zip(pids, before, strict=True)]
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = now.ru_utime + now.ru_stime - children.ru_utime - children.ru_stime
    report = json.loads(done.stdout)
    assert [one["workers"] for one in report["cluster"]["hosts"]] == [1] * len(workers)
    return Asked(report["cluster"]["seconds"], sum(spent[1:]), sum(spent) + own, report["answers"])


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
    found: dict[int, list[Asked]] = {1: [], 2: []}
    with contextlib.ExitStack() as stack:
        clusters, nodes = {}, {}
        for workers in found:
            clusters[workers] = stack.enter_context(farm.started())
            joined = [clusters[workers].joined(f"core-{core}", core=core) for core in cores[:workers]]
            nodes[workers] = [stack.enter_context(one) for one in joined]
            for node in nodes[workers]:
                node.ready()
        for workers in (*found, *list(found) * repeats):  # the first of each warms the files
            found[workers].append(ask(clusters[workers], nodes[workers], bundle, questions))
            click.echo(f"{workers} workers: {found[workers][-1].seconds:.2f} s", err=True)
    answers = [one.answers for asked in found.values() for one in asked]
    assert all(one == answers[0] for one in answers), "two workers answered something else than one"
    one, two = (found[workers][1:] for workers in found)
    times = median(asked.seconds for asked in one) / median(asked.seconds for asked in two)
    by_cpu = 2 * median(asked.workers_cpu for asked in one) / median(asked.all_cpu for asked in two)
    report = {
        "schema": SCHEMA,
        "command": "make cluster-study",
        "commit": commit(),
        "machine": afterwards(machine).model_dump(mode="json"),
        "bundle": f"the built-in model, {RECIPE}",
        "questions": questions,
        "seconds_of_one_worker": [asked.seconds for asked in one],
        "seconds_of_two_workers": [asked.seconds for asked in two],
        "cpu_seconds_of_one_workers_node": [asked.workers_cpu for asked in one],
        "cpu_seconds_of_everything_with_two": [asked.all_cpu for asked in two],
        "times": times,
        "times_by_cpu_time": by_cpu,
        "goal": GOAL,
        "answers_are_equal": True,
    }
    write(report, output)
    if machine.busy:
        click.echo(f"warning: {machine.busy}", err=True)
    click.echo(
        f"two workers answer {times:.2f} times as many questions a second as one (goal: {GOAL}); by CPU time {by_cpu:.2f}"
    )


if __name__ == "__main__":
    main()
