"""``pocketvlm bench --autotune``: settings that answer fastest here, for ``pocketvlm run --tuning``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pocketvlm.cli.console import print_table
from pocketvlm.cli.printing import rich_console

if TYPE_CHECKING:
    from pocketvlm.bench.speed.autotune import Autotuned
    from pocketvlm.bench.speed.workload import Workload


def autotune(bundle: Path, workload: Workload, save: Path | None, *, as_json: bool) -> None:
    """Tune, show what was tried and gained, and write the settings to ``save``, or beside the bundle.

    :raises ResultsError: the file cannot be written
    """
    from pocketvlm.bench.speed.autotune import tune
    from pocketvlm.bundle.open import open_bundle
    from pocketvlm.files import check_writable, write_whole

    # Never in the bundle: it depends on the device.
    target = save or bundle.resolve().with_name(f"{bundle.resolve().name}.tuning.json")
    check_writable(target)
    tuned = tune(open_bundle(bundle).for_engine("onnx"), workload, lambda name: click.echo(name, err=True))
    write_whole(target, tuned.tuning.model_dump_json(by_alias=True, indent=1) + "\n")
    if as_json:
        click.echo(json.dumps(tuned.as_dict(), indent=1))
    else:
        _print(tuned)
        click.echo(f"{target}: use it with pocketvlm run --tuning, or load(tuning=)")


def _print(tuned: Autotuned) -> None:
    from rich.table import Table

    table = Table("setting", "tried", "seconds", "best before", "taken")
    for trial in tuned.trials:
        setting = trial.setting.replace("_", " ")
        seconds = (f"{trial.seconds:.4g}", f"{trial.best_before:.4g}")
        table.add_row(setting, trial.value, *seconds, "yes" if trial.taken else "")
    console = rich_console()
    print_table(console, table)
    found = tuned.tuning
    affinity = f", CPUs {', '.join(map(str, found.affinity))}" if found.affinity else ""
    console.print(
        f"{found.threads} threads, {found.tile_batch} tiles at once, pipeline {'on' if found.pipelined else 'off'}, "
        f"prefill in chunks of {found.prefill_chunk}{affinity}: a whole answer {tuned.gain:.2f} times as fast",
        highlight=False,
    )
