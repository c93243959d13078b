"""What the commands that may run on several machines share: the option that says on which."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import click

from pocketvlm.cli.console import running


def _address(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    from pocketvlm.cluster.nodes import ADDRESS, LOCAL

    if value is not None and value != LOCAL and not ADDRESS.fullmatch(value):
        raise click.BadParameter(f"{value!r} is neither HOST:PORT nor {LOCAL}.", context, parameter)
    return value


cluster_option = running(
    "--cluster",
    metavar="ADDRESS|local",
    callback=_address,
    help="Let a Ray cluster do it, HOST:PORT, or all CPUs of this machine.",
)


def on_cluster(address: str | None) -> AbstractContextManager[None]:
    """Connected to it; to nothing where none was asked for.

    :raises ClusterError: it cannot be reached
    """
    if address is None:
        return nullcontext()
    from pocketvlm.cluster.nodes import connected

    return connected(address)
