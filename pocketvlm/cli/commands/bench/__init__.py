"""``pocketvlm bench``: how fast a bundle is, phase by phase, and what it takes of memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pocketvlm.cli.clusters import cluster_option, on_cluster
from pocketvlm.cli.commands.bench.device import device_options
from pocketvlm.cli.commands.bench.workload import beside, measured, workload_options
from pocketvlm.cli.console import running, say, typed
from pocketvlm.cli.options import below, devices, headed

if TYPE_CHECKING:
    from pocketvlm.bench.speed.workload import Workload
    from pocketvlm.bench.targets.adb.options import DeviceOptions


shown = below("What is shown and kept")


@headed("bench")
@click.argument("bundle", type=click.Path(path_type=Path))
@running("--target", default="host", show_default=True, metavar="NAME", help="host, or adb[:SERIAL|:all].")
@workload_options
@device_options
@cluster_option
@running(
    "--device", metavar="NAME|FILE", values=devices,
    help="Profile of this device, which says whether its clocks are pinned:",
)  # fmt: skip
@measured("--paper", is_flag=True, help="The paper's table: this machine beside the Dimensity 9300.")
@measured("--autotune", "tunes", is_flag=True, help="Find the settings that answer fastest here, and save them.")
@beside(
    "--interleave", "base", type=click.Path(path_type=Path), metavar="BASE", help="Hold it to another bundle, in turns."
)
@beside("--gate", type=click.Path(path_type=Path), metavar="FILE", help="How much worse than BASE it may be.")
@beside(
    "--base-code", type=click.Path(path_type=Path, file_okay=False, exists=True), metavar="DIR",
    help="A checkout of pocketvlm that runs BASE.  [default: this one]",
)  # fmt: skip
@shown(
    "-o", "--output", "form", type=click.Choice(["table", "md", "csv", "json", "jsonl"]), default="table",
    show_default=True, help="What is printed.",
)  # fmt: skip
@shown("--save", type=click.Path(path_type=Path), metavar="FILE.json", help="Write the JSON there as well.")
@shown("--html", type=click.Path(path_type=Path), metavar="FILE.html", help="Write a report with plots there.")
def command(
    *,
    bundle: Path,
    target: str,
    workload: Workload,
    on_device: DeviceOptions | None,
    cluster: str | None,
    device: str | None,
    paper: bool,
    tunes: bool,
    base: Path | None,
    gate: Path | None,
    base_code: Path | None,
    form: str,
    save: Path | None,
    html: Path | None,
) -> None:
    """Measure BUNDLE: loading, image, prefill, decode, each on its own, and resident memory by phase.

    Medians and the spread between quartiles. Rows are named as llama-bench names them: pp512 is a prompt of 512 tokens,
    tg128 @ d512 are 128 tokens generated after 512.
    """
    from pocketvlm.bench.report.plots import check_packages
    from pocketvlm.cli.commands.bench.interleaving import interleave
    from pocketvlm.cli.commands.bench.phones import measure_phones
    from pocketvlm.cli.commands.bench.tuning import autotune
    from pocketvlm.files import check_writable

    if sum((base is not None, tunes, paper)) > 1:
        raise click.UsageError("--interleave, --autotune and --paper exclude each other")
    if base is None and (gate is not None or base_code is not None):
        raise click.UsageError("--gate and --base-code go with --interleave; pocketvlm compare holds a file to another")
    if on_device is not None and (base is not None or tunes or paper):
        raise click.UsageError("--interleave, --autotune and --paper run on the host")
    if on_device is None and cluster is not None:
        raise click.UsageError("--cluster measures phones: give --target adb:SERIAL,... or adb:all as well")
    for path in (save, html):
        if path is not None:
            check_writable(path)
    if html is not None:
        check_packages("a report in HTML")
    if base is not None:
        interleave(base, bundle, workload, gate, base_code, save, as_json=form == "json")
    elif tunes:
        autotune(bundle, workload, save, as_json=form == "json")
    elif on_device is not None:
        with on_cluster(cluster):
            measure_phones(
                bundle, workload, target, on_device, form, save, html,
                pinned=_is_pinned(device), clustered=cluster is not None,
            )  # fmt: skip
    else:
        _measure(bundle, workload, target, form, save, html, pinned=_is_pinned(device), paper=paper)


def _measure(
    bundle: Path,
    workload: Workload,
    target: str,
    form: str,
    save: Path | None,
    html: Path | None,
    *,
    pinned: bool,
    paper: bool,
) -> None:
    from pocketvlm.bench.run import bench
    from pocketvlm.cli.commands.bench.output import write_report
    from pocketvlm.cli.commands.bench.paper import of_paper, print_paper

    workload = of_paper(bundle, workload) if paper else workload
    report = bench(bundle, workload, command=typed(), target=target, pinned=pinned, watch=say)
    write_report(report, form, save, html)
    if paper and form == "table":
        print_paper(report)


def _is_pinned(device: str | None) -> bool:
    from pocketvlm.plan import load_device

    return device is not None and load_device(device).pinned
