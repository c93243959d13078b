"""``pocketvlm cluster``: this machine as one of a cluster, with its CPUs and its phones."""

from __future__ import annotations

import platform
import re

import click

from pocketvlm.cli.console import say
from pocketvlm.errors import DeviceError

name_option = click.option("--name", help="What reports call this machine.  [default: its host name]")
ip_option = click.option(
    "--ip", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Of this machine, as the others reach it."
)
cpus_option = click.option(
    "--cpus", type=click.IntRange(0, 4096), metavar="N", help="CPUs that work may take.  [default: all]"
)

phones_option = click.option("--no-phones", "alone", is_flag=True, help="Offer CPUs alone, whatever is on its cables.")


@click.group("cluster")
def command() -> None:
    """Offer this machine's CPUs and phones to `eval`, `tune` and `bench` with --cluster, until Ctrl-C.

    It is a node of Ray. Whoever reaches a node may run any program on it: a cluster is for machines and networks that
    you would give a shell on. docs/cluster.md.
    """


@command.command("start")
@click.option("--port", default=6379, show_default=True, type=click.IntRange(1, 65535), help="Where others join.")
@name_option
@ip_option
@cpus_option
@phones_option
def start(*, port: int, name: str | None, ip: str, cpus: int | None, alone: bool) -> None:
    """Be the first machine of a cluster."""
    _run(None, port, name, ip, cpus, alone=alone)


@command.command("join")
@click.argument("address", metavar="HOST:PORT")
@name_option
@ip_option
@cpus_option
@phones_option
def join(*, address: str, name: str | None, ip: str, cpus: int | None, alone: bool) -> None:
    """Be one machine more of the cluster whose first one is at HOST:PORT."""
    _run(_checked(address), None, name, ip, cpus, alone=alone)


@command.command("show")
@click.argument("address", metavar="HOST:PORT")
def show(*, address: str) -> None:
    """List the machines of the cluster at HOST:PORT, with their CPUs and phones."""
    from rich.table import Table
    from rich.text import Text

    from pocketvlm.cli.console import print_table
    from pocketvlm.cli.printing import rich_console
    from pocketvlm.cluster.nodes import connected, hosts

    with connected(_checked(address)):
        found = hosts()
    table = Table("host", "CPUs", "phones")
    for host in found:
        table.add_row(Text(host.name), str(host.cpus), Text(", ".join(host.phones)))
    print_table(rich_console(), table)


def _checked(address: str) -> str:
    """:raises click.UsageError: it is no address"""
    from pocketvlm.cluster.nodes import ADDRESS

    if not ADDRESS.fullmatch(address):
        raise click.UsageError(f"{address!r} is not HOST:PORT")
    return address


def _run(address: str | None, port: int | None, name: str | None, ip: str, cpus: int | None, *, alone: bool) -> None:
    from pocketvlm.cluster.host import run_node
    from pocketvlm.cluster.nodes import usable_cpus

    if not re.fullmatch(r"[0-9A-Fa-f.:]{2,45}", ip):
        raise click.UsageError(f"--ip {ip!r} is no address of a machine")
    phones = () if alone else _phones()
    offered = usable_cpus() if cpus is None else cpus
    say(f"offering {offered} CPUs and {len(phones)} phones{''.join(f', {serial}' for serial in phones)}")
    run_node(name=name or platform.node(), ip=ip, cpus=offered, phones=phones, join=address, port=port)


def _phones() -> tuple[str, ...]:
    """Serials of those on this machine's cables that can be used; none where there is no adb."""
    from pocketvlm.bench.targets.adb.target import ready_serials

    try:
        return ready_serials(say)
    except DeviceError as error:
        say(f"no phones: {error}")
        return ()
