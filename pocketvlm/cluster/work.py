"""Units of work to the machines of a cluster, again elsewhere where a process or a machine was lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pocketvlm.cluster import nodes
from pocketvlm.cluster.nodes import Host
from pocketvlm.cluster.units import Lost, Unit, numbers
from pocketvlm.errors import ClusterError

#: Seconds after which it is looked whether the hosts are still there, when nothing comes back.
LOOK_SECONDS = 1.0
#: A host that fails rests at most this many times twice as long: a minute.
MOST_DOUBLED = 7


@dataclass(frozen=True)
class UnitWork:
    """What is done with units: ``do`` gives one result an item. ``what`` names it, ``cpus`` each takes of its host.

    ``fatal``: errors of the work itself, which would come on any machine.
    """

    what: str
    do: Callable[[tuple[Any, ...]], Any]
    cpus: int
    fatal: tuple[type[Exception], ...] = ()


@dataclass
class Log:
    """What a run has to say beside its results. ``retried`` were done elsewhere in the end, unless they are missing."""

    missing: list[Lost] = field(default_factory=list)
    retried: list[Lost] = field(default_factory=list)


def work(job: UnitWork, units: Iterable[Unit], where: Sequence[Host], log: Log) -> Iterator[tuple[Host, Unit, Any]]:
    """Do all units; each as it is done, with its host. ``units`` are taken as hosts become free, so they may be lazy.

    What is lost with a process or a host is tried again, at first elsewhere; ``log`` has what failed for good.

    :raises Exception: one of ``job.fatal``, as the work raised it
    """
    ahead, again, resting = iter(units), list[Unit](), Resting()
    running: dict[Any, tuple[Host, Unit]] = {}
    while True:
        there = {host.node for host in nodes.hosts()}
        alive = [host for host in where if host.node in there]
        ready = [host for host in alive if resting.is_over(host)]
        for host, unit in _given(job, alive, ready, list(running.values()), again, ahead):
            call, name = partial(job.do, unit.items), f"pocketvlm: {job.what} {numbers(unit.ids)}"
            running[nodes.submit(host, name, call, {"CPU": job.cpus})] = (host, unit)
        if not running:
            if len(ready) == len(alive):
                break  # nothing is left to do, or nobody
            time.sleep(LOOK_SECONDS)
            continue
        for reference in nodes.first_done(list(running), LOOK_SECONDS):
            host, unit = running.pop(reference)
            value, error = nodes.outcome(reference)
            resting.note(host, failed=error is not None)
            if error is None:
                yield host, unit, value
            elif isinstance(error, job.fatal):
                raise error
            else:
                again += _failed(unit, host, error, log)
    log.missing += [Lost(unit.ids, "no host is left that could do it") for unit in (*again, *ahead)]


class Resting:
    """Hosts that get nothing for a while, since what they had last failed: one that is gone may still pass for alive.

    The second time in a row it is twice as long, and so on.
    """

    def __init__(self) -> None:
        self._in_a_row: Counter[str] = Counter()
        self._until: dict[str, float] = {}

    def note(self, host: Host, *, failed: bool) -> None:
        """What became of a unit there."""
        self._in_a_row[host.node] = self._in_a_row[host.node] + 1 if failed else 0
        times = 2 ** (min(self._in_a_row[host.node], MOST_DOUBLED) - 1)
        self._until[host.node] = time.monotonic() + LOOK_SECONDS * times if failed else 0.0

    def is_over(self, host: Host) -> bool:
        return time.monotonic() >= self._until.get(host.node, 0.0)


def _given(
    job: UnitWork,
    alive: Sequence[Host],
    ready: Sequence[Host],
    running: Sequence[tuple[Host, Unit]],
    again: list[Unit],
    ahead: Iterator[Unit],
) -> Iterator[tuple[Host, Unit]]:
    """A unit for each free place: one that failed, but not there, as long as there are others; else the next."""
    names = {host.node for host in alive}
    for host in ready:
        # as many as it has CPUs for: none waits at a host while another becomes free
        places = host.cpus // job.cpus - sum(one.node == host.node for one, _ in running)
        for _ in range(places):
            unit = next((one for one in again if host.node not in one.avoided or names <= one.avoided), None)
            if unit is not None:
                again.remove(unit)
            else:
                unit = next(ahead, None)
            if unit is not None:
                yield host, unit


def _failed(unit: Unit, host: Host, error: BaseException, log: Log) -> tuple[Unit, ...]:
    """What is tried next."""
    tried = unit.after_failure(host.node)
    (log.retried if tried else log.missing).append(Lost(unit.ids, f"{host.name}: {nodes.said(error)}"))
    return tried


def places(job: UnitWork, where: Sequence[Host]) -> tuple[Host, ...]:
    """The hosts that have room for one unit at least.

    :raises ClusterError: none has
    """
    found = tuple(host for host in where if host.cpus >= job.cpus)
    if not found:
        most = max((host.cpus for host in where), default=0)
        raise ClusterError(f"{job.what} takes {job.cpus} CPUs at once, and no host of the cluster has more than {most}")
    return found
