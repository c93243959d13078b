"""The machines of a cluster, as Ray knows them, and the connection to it."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from pocketvlm.errors import ClusterError, PocketVlmError, one_line

#: The address that is this machine alone.
LOCAL = "local"
ADDRESS = re.compile(r"[A-Za-z0-9.-]{1,253}:\d{1,5}")
#: Of what a host offers, a phone on its cable: this and the phone's serial.
PHONE = "phone:"
#: Bytes that a node started here keeps objects in. Questions and answers are small.
STORE_BYTES = 100 << 20
#: Nothing is told about a cluster to anyone.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
LOOPBACK = "127.0.0.1"
#: Seconds in which the first machine takes a connection.
REACH_SECONDS = 10.0


@dataclass(frozen=True)
class Host:
    """A node that is alive. ``node`` is Ray's id of it, ``cpus`` what it offers, ``phones`` serials on its cables."""

    node: str
    name: str
    cpus: int
    phones: tuple[str, ...] = ()


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Be a driver of the cluster at ``address``, or of one that this makes and ends.

    :raises ClusterError: there is none there, or this machine is none of it
    """
    ip, _, port = (LOOPBACK, "", "") if address == LOCAL else address.partition(":")
    if port:
        _check_reachable(ip, int(port))
    if address == LOCAL:  # of this process and those that it starts: nobody else on this machine has it
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    prepare(ip)
    import ray

    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if ip == LOOPBACK:
        quiet["_node_ip_address"] = ip
    try:
        if address == LOCAL:
            store = STORE_BYTES
            ray.init(LOCAL, num_cpus=usable_cpus(), include_dashboard=False, object_store_memory=store, **quiet)
        else:
            ray.init(address, **quiet)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"the cluster at {one_line(address, 80)} takes no commands of this machine ({one_line(error, 160)}). It "
            f"has to be one of it: pocketvlm cluster join {one_line(address, 80)}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(host: str, port: int) -> None:
    """Ray itself would try again for minutes.

    :raises ClusterError: nothing listens there
    """
    try:
        socket.create_connection((host, port), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = one_line(error, 80)
        raise ClusterError(
            f"no cluster answers at {one_line(host, 80)}:{port} ({reason}): pocketvlm cluster start"
        ) from error


def prepare(ip: str) -> None:
    """Before Ray is imported: what it keeps to itself, and who may speak to it by this machine's address ``ip``.

    Only this machine may by 127.0.0.1, and by any other who has the token (RAY_AUTH_MODE says otherwise).
    """
    os.environ.update(QUIET)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled" if ip == LOOPBACK else "token")
    if ip == LOOPBACK:
        from ray._private import services

        # Ray takes 127.0.0.1 for a mistake, looks for another address, and listens on all that this machine has.
        services.resolve_ip_for_localhost = lambda host: host


def usable_cpus() -> int:
    """That this process may run on."""
    from pocketvlm.machine.quota import cpu_quota

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def hosts() -> tuple[Host, ...]:
    """All nodes that are alive, by their names."""
    import ray

    found = []
    listed: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call] # its own types say nothing
    for node in listed:
        if node["Alive"]:
            offered = node["Resources"]
            phones = sorted(name.removeprefix(PHONE) for name in offered if name.startswith(PHONE))
            name = node.get("NodeName") or node["NodeManagerHostname"]
            found.append(Host(node["NodeID"], one_line(name, 100), int(offered.get("CPU", 0)), tuple(phones)))
    return tuple(sorted(found, key=lambda host: (host.name, host.node)))


def submit(host: Host, what: str, call: Callable[[], Any], resources: dict[str, float], *, retries: int = 0) -> Any:
    """``call()`` on this host and no other, in a process that Ray calls ``what``; a reference to what it gives.

    ``retries``: how often Ray calls it again, there, where the process was lost. ``call`` is a function of this package
    with its arguments: both sides have the same code (``check_all``).
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    cpus = resources.get("CPU", 0)
    others = {name: amount for name, amount in resources.items() if name != "CPU"}
    there = NodeAffinitySchedulingStrategy(node_id=host.node, soft=False)
    task = _remote().options(name=what, num_cpus=cpus, resources=others, scheduling_strategy=there, max_retries=retries)
    return task.remote(call)


@cache
def _remote() -> Any:
    import ray

    return ray.remote(perform)


def perform(call: Callable[[], Any]) -> Any:
    """What a worker does."""
    return call()


def first_done(references: Sequence[Any], seconds: float | None = None) -> list[Any]:
    """Those of which it is known what became of them, at the latest after ``seconds``: one at least before that."""
    import ray

    done: list[Any] = ray.wait(list(references), timeout=seconds)[0]
    return done


def outcome(reference: Any) -> tuple[Any, BaseException | None]:
    """What became of a submitted call: what it gave, or the error, its own or that of its process or node."""
    import ray

    try:
        return ray.get(reference), None
    except ray.exceptions.RayTaskError as error:
        return None, error.cause if isinstance(error.cause, Exception) else error
    except ray.exceptions.RayError as error:
        return None, error


def said(error: BaseException) -> str:
    """An error on one line; of Ray's the first sentence, and of what is no error for people its kind as well."""
    text = str(error).strip().split("\n")[0]
    if isinstance(error, PocketVlmError):
        return one_line(text)
    return one_line(f"{type(error).__name__}: {text.split('. ')[0]}")
