"""``pocketvlm bench NEW --interleave BASE``: two bundles in turns, held to a gate."""

from __future__ import annotations

import json
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pocketvlm.cli.console import Unusable, say, typed
from pocketvlm.cli.printing import rich_console
from pocketvlm.errors import PocketVlmError

if TYPE_CHECKING:
    from pocketvlm.bench.gate.gate import Gate
    from pocketvlm.bench.gate.interleaved import Interleaved, Timed
    from pocketvlm.bench.gate.worker import Worker
    from pocketvlm.bench.speed.workload import Workload


def interleave(
    base: Path,
    new: Path,
    workload: Workload,
    gate: Path | None,
    base_code: Path | None,
    save: Path | None,
    *,
    as_json: bool,
) -> None:
    """Measure, save, show the comparison; the exit status is 1 for a regression, 2 for what cannot be used.

    :raises Unusable: a bundle is damaged, a side cannot be run, or a result cannot be written
    """
    from pocketvlm.bench.gate.compare import compare_interleaved
    from pocketvlm.bench.gate.gate import load_gate
    from pocketvlm.cli.commands.compare import show
    from pocketvlm.files import write_whole

    try:
        bounds = load_gate(gate)
        measured = _measure(base, new, workload, bounds, base_code)
        if save is not None:
            write_whole(save, json.dumps(measured.as_dict(), indent=1) + "\n")
        found = compare_interleaved(measured, bounds)
    except PocketVlmError as error:  # of status 1, which says that something became worse
        if click.get_current_context().find_root().params.get("debug"):
            raise
        raise Unusable(str(error)) from error
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=1))
    else:
        show(found, rich_console())
    if found.failed:
        click.get_current_context().exit(1)


def _measure(base: Path, new: Path, workload: Workload, gate: Gate, base_code: Path | None) -> Interleaved:
    from pocketvlm.bench.gate.interleaved import Interleaved
    from pocketvlm.bench.gate.interleaved import interleave as in_turns
    from pocketvlm.bench.gate.worker import Worker, check_code, reload
    from pocketvlm.bench.report.identity import bundle_identity
    from pocketvlm.bench.report.schema import Counts
    from pocketvlm.bench.speed.machine import afterwards, describe
    from pocketvlm.bundle.open import open_bundle

    if base_code is not None:
        check_code(base_code)
    identities = [bundle_identity(open_bundle(path)) for path in (base, new)]
    machine = describe(workload.threads)
    with closing(Worker(base, workload, base_code)) as first, closing(Worker(new, workload)) as second:
        counts = [Counts.model_validate(worker.counts()) for worker in (first, second)]
        rows = in_turns(_runs(first), _runs(second), gate, say, partial(reload, first, second))
    return Interleaved(
        command=typed(),
        base=identities[0],
        new=identities[1],
        machine=afterwards(machine),
        workload=workload.as_dict(),
        gate=gate.name,
        rows=rows,
        base_counts=counts[0],
        new_counts=counts[1],
    )


def _runs(worker: Worker) -> dict[str, Timed]:
    return {name: partial(worker.run, name) for name in worker.cases}
