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
import tempfile
import time
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
#: Seconds between two looks at what the processes used: of one that ends less than that is missed.
LOOK_SECONDS = 0.5


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
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    children = used.ru_utime + used.ru_stime
    first, *others = [node.process.pid for node in (cluster.head, *workers)]
    before = {pid: seconds for node in (first, *others) for pid, seconds in farm.cpu_seconds(node).items()}
    last: dict[int, dict[int, float]] = {node: {} for node in (first, *others)}
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, env={**os.environ, **cluster.environment}, stdout=out, text=True)
        while process.poll() is None:
            for node, seen in last.items():
                seen |= farm.cpu_seconds(node)
            time.sleep(LOOK_SECONDS)
        assert process.returncode == 0
        out.seek(0)
        report = json.load(out)
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = {node: sum(value - before.get(pid, 0.0) for pid, value in seen.items()) for node, seen in last.items()}
    assert [one["workers"] for one in report["cluster"]["hosts"]] == [1] * len(workers)
    workers_cpu, command_cpu = sum(spent[node] for node in others), own.ru_utime + own.ru_stime - children
    return Asked(report["cluster"]["seconds"], workers_cpu, sum(spent.values()) + command_cpu, report["answers"])


@click.command(help=__doc__)
@click.option("--questions", default=800, show_default=True, type=click.IntRange(8))
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
    click.echo(f"two workers answer {times:.2f} times as many questions a second as one (goal: {GOAL})")
    click.echo(f"by CPU time, as if the machine did nothing else: {by_cpu:.2f} times")


if __name__ == "__main__":
    main()
