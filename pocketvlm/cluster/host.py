"""A machine as one of a cluster: what it is, and the node of Ray's that offers its CPUs and its phones."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pocketvlm.cluster.nodes import PHONE, STORE_BYTES, prepare


def processor() -> str:
    """The CPU of this machine and those of its instructions that decide which kernels run."""
    from pocketvlm.bench.speed.machine import instructions
    from pocketvlm.machine.cpu import parse_cpu_info, read_cpu_info

    cpu = parse_cpu_info(read_cpu_info())
    return f"{cpu.name or 'unknown'} ({', '.join(instructions(cpu)) or 'plain'})"


def run_node(
    *, name: str, ip: str, cpus: int, phones: Sequence[str], join: str | None = None, port: int | None = None
) -> None:
    """Be a node until this process is ended: one that joins an address, or the first one, which listens at ``port``.

    It ends with all that it has started.
    """
    prepare(ip)
    from ray.scripts.scripts import cli

    # No autoscaler, no dashboard, no collector of workers' output: nobody asks them.
    first = ["--head", f"--port={port}", "--include-dashboard=false", "--no-monitor"]
    offered = json.dumps({f"{PHONE}{serial}": 1 for serial in phones})
    words = [
        "start", *(first if join is None else [f"--address={join}"]), "--block", "--disable-usage-stats",
        "--include-log-monitor=false", f"--node-name={name}", f"--node-ip-address={ip}", f"--num-cpus={cpus}",
        f"--resources={offered}", f"--object-store-memory={STORE_BYTES}", "--num-gpus=0",
    ]  # fmt: skip
    cli.main(words, prog_name="ray")
