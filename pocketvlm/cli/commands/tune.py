"""``pocketvlm tune``: the recipe with the least divergence that fits a size."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pocketvlm.cli.clusters import cluster_option, on_cluster
from pocketvlm.cli.console import ConsoleProgress, finite, keep_to_quota, print_table
from pocketvlm.cli.printing import rich_console

if TYPE_CHECKING:
    from rich.console import Console

    from pocketvlm.export.tune.recipe import Point, Tuned
    from pocketvlm.export.tune.trials import Trials


@click.command("tune")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--budget-mb",
    required=True,
    metavar="N",
    type=click.FloatRange(0, min_open=True),
    callback=finite,
    help="Largest size of the bundle, millions of bytes.",
)
@click.option(
    "--calibration",
    metavar="DATA",
    help="generated:SEED, text (one that ships), FILE.jsonl, FILE.tsv or FILE.txt; half calibrates, half measures.  "
    "[default: generated:calibration, or text for a model that takes text only]",
)
@click.option(
    "--sequences", default=64, show_default=True, type=click.IntRange(4, 4096), help="Conversations or windows of DATA."
)
@click.option("--points", default=6, show_default=True, type=click.IntRange(2, 32), help="Sizes that are measured.")
@cluster_option
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where the recipe goes.  [default: tuned.toml]")
@click.option("--plot", metavar="FILE.png", type=click.Path(path_type=Path), help="Draw size against divergence.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    *,
    checkpoint: Path,
    budget_mb: float,
    calibration: str | None,
    sequences: int,
    points: int,
    cluster: str | None,
    output: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Search bits and groups for every linear layer of CHECKPOINT's decoder, and write the best recipe of at most N MB.

    What each layer loses by each candidate is measured; bytes go where they take off the most. Recipes of several sizes
    are then calibrated and compared with the original weights. docs/numerics.md says how.
    """
    from pocketvlm.bench.report.plots import check_packages
    from pocketvlm.export.read.calibration import default_source
    from pocketvlm.export.tune.recipe import recipe_text, tune
    from pocketvlm.files import check_writable, write_whole
    from pocketvlm.models.checkpoint import open_checkpoint

    target = output or Path("tuned.toml")
    for path in (target, *([] if plot is None else [plot])):
        check_writable(path)
    if plot is not None:
        check_packages("--plot")
    keep_to_quota()
    with on_cluster(cluster), ConsoleProgress() as progress:
        source = open_checkpoint(checkpoint, progress)
        data = calibration or default_source(source.config)
        tuned = tune(
            source, round(budget_mb * 1e6), data, sequences=sequences, points=points, progress=progress,
            trials=None if cluster is None else _by_cluster(progress),
        )  # fmt: skip
    for note in progress.notes:
        click.echo(note, err=True)
    write_whole(target, recipe_text(tuned.picked.recipe))
    if plot is not None:
        write_whole(plot, _picture(tuned))
    if as_json:
        click.echo(json.dumps(_report(tuned, target), indent=1))
        return

    _print(rich_console(), tuned, target)


def _by_cluster(progress: ConsoleProgress) -> Trials:
    """Each with as many threads as this process would have: sums of another order would be other sums."""
    import torch

    from pocketvlm.cluster.trials import ByCluster

    return ByCluster(torch.get_num_threads(), progress.note)


def _report(tuned: Tuned, target: Path) -> dict[str, Any]:
    def row(point: Point) -> dict[str, Any]:
        values = asdict(point)
        return {"recipe": point.recipe.name, **{key: values[key] for key in ("bytes", "bits", "kl_mean")}}

    return {
        "recipe_file": str(target),
        "picked": row(tuned.picked),
        "points": [row(point) for point in tuned.points],
        "tokens": tuned.tokens,
        "calibration_sha256": tuned.calibration_sha256,
    }


def _print(console: Console, tuned: Tuned, target: Path) -> None:
    from rich.table import Table

    table = Table("recipe", "MB", "bits a\nweight", "KL, nats", "")
    for column in table.columns[1:4]:
        column.justify = "right"
    for point in tuned.points:
        chosen = "picked" if point is tuned.picked else ""
        size, bits = f"{point.bytes / 1e6:,.2f}", f"{point.bits:.2f}"
        table.add_row(point.recipe.name, size, bits, f"{point.kl_mean:.3g}", chosen)
    print_table(console, table)
    console.print(
        f"bits: of the decoder's linear layers, scales included; KL: mean over {tuned.tokens:,} tokens of text,\n"
        f"weights alone (activations and KV cache in float32)\n{target}: pocketvlm export --recipe {target}",
        highlight=False,
    )


def _picture(tuned: Tuned) -> bytes:
    from pocketvlm.bench.report.plots.sizes import Dot, draw_sizes

    def dot(point: Point) -> Dot:
        return Dot(point.bytes / 1e6, point.kl_mean, "" if point.mixed else point.recipe.name)

    return draw_sizes([dot(point) for point in tuned.points], dot(tuned.picked))
