"""``pocketvlm eval --against``: a bundle beside the checkpoint that it was exported from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pocketvlm.cli.console import ConsoleProgress, print_table
from pocketvlm.cli.printing import rich_console
from pocketvlm.errors import ResultsError, one_line

if TYPE_CHECKING:
    from rich.console import Console

    from pocketvlm.fidelity.measure import Comparison

#: options that are about answers, which --against does not generate
OF_ANSWERS = {
    "metrics": "--metric",
    "max_new_tokens": "--max-new-tokens",
    "baseline": "--baseline",
    "wrong": "--wrong",
    "min_accuracy": "--min-accuracy",
    "engine": "--engine",
    "cluster": "--cluster",
}
OF_FIDELITY = {"max_kl": "--max-kl", "plot": "--plot", "lora": "--lora"}


def check_usage(against: Path | None) -> None:
    """Refuse options that do not go with --against, or only with it.

    :raises click.UsageError: the current command has one
    """
    context = click.get_current_context()
    for name, option in (OF_FIDELITY if against is None else OF_ANSWERS).items():
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            if against is None:
                raise click.UsageError(f"{option} is about the comparison with a checkpoint: give --against as well")
            raise click.UsageError(
                f"{option} is about answers, and --against generates none: it compares logits. Leave one of them out"
            )


def run(wanted: Comparison, *, as_json: bool, save: Path | None, max_kl: float | None, plot: Path | None) -> None:
    """Compare, print, save, draw, and then judge.

    :raises ResultsError: the mean KL divergence is above ``max_kl``, or a file cannot be written
    """
    from pocketvlm.bench.report.plots import check_packages
    from pocketvlm.bench.report.plots.layers import draw_layers
    from pocketvlm.fidelity.measure import measure
    from pocketvlm.files import check_writable, write_whole

    for path in (save, plot):
        if path is not None:
            check_writable(path)
    if plot is not None:
        check_packages("--plot")
    with ConsoleProgress() as progress:
        report = measure(wanted, progress)
    text = json.dumps(report, indent=1)
    if save is not None:
        write_whole(save, f"{text}\n")
    if plot is not None:
        layers = report["fidelity"]["layers"]
        write_whole(plot, draw_layers(layers, _title(report, layers["questions"])))
    if as_json:
        click.echo(text)
    else:
        _print(rich_console(), report)
    if max_kl is not None:
        _check_kl(report, max_kl)


def _check_kl(report: dict[str, Any], most: float) -> None:
    found = report["fidelity"]["logits"]["kl_mean"]
    if not found["value"] <= most:
        interval = f"95 %: {found['low']:.4g} to {found['high']:.4g}"
        raise ResultsError(f"mean KL divergence {found['value']:.4g} nats ({interval}) is above --max-kl {most:g}")


def _title(report: dict[str, Any], questions: int) -> str:
    bundle = report["bundle"]
    return f"{bundle['model']}, recipe {bundle['recipe']}, beside its checkpoint: {_asked(report, questions)}"


def _asked(report: dict[str, Any], count: int) -> str:
    origin = report["data"]
    what = "window" if origin["source"] == "text" else "question"
    name = f"generated:{origin['seed']}" if origin["source"] == "generated" else one_line(origin["file"], 80)
    return f"{count:,} {what}{'' if count == 1 else 's'} of {name}"


def _print(console: Console, report: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    fidelity = report["fidelity"]
    console.print(Text(_title(report, report["questions"])), soft_wrap=True)
    table = Table("", "", "", "95 %")
    table.columns[2].justify = table.columns[3].justify = "right"
    for section, rows in (("logits", _logits_rows(fidelity["logits"])), ("image tokens", _image_rows(fidelity))):
        for index, row in enumerate(rows):
            table.add_row("" if index else section, *row)
        table.add_section()
    print_table(console, table)
    layers = fidelity["layers"]
    print_table(console, _layers_table(layers, fidelity["image_tokens"] is not None))
    scored, traced = fidelity["logits"]["tokens"], layers["questions"]
    console.print(f"logits at {scored:,} tokens; layers on {_asked(report, traced)}", soft_wrap=True, highlight=False)


def _logits_rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    kl, ratio = found["kl_mean"], found["perplexity_ratio"]
    return [
        ("KL divergence, nats: mean", f"{kl['value']:.3g}", f"{kl['low']:.3g} to {kl['high']:.3g}"),
        ("median", f"{found['kl_median']:.3g}", ""),
        ("99.9th percentile", f"{found['kl_p999']:.3g}", ""),
        ("largest", f"{found['kl_max']:.3g}", ""),
        ("same most likely token", f"{found['top1_agreement']:.2%}", ""),
        ("perplexity: original", f"{found['perplexity_original']:.4f}", ""),
        ("bundle", f"{found['perplexity_bundle']:.4f}", ""),
        ("bundle / original", f"{ratio['value']:.4f}", f"{ratio['low']:.4f} to {ratio['high']:.4f}"),
    ]


def _image_rows(fidelity: dict[str, Any]) -> list[tuple[str, str, str]]:
    found = fidelity["image_tokens"]
    if found is None:
        return []
    return [
        ("cosine: mean", f"{found['cosine_mean']:.5f}", ""),
        ("1st percentile", f"{found['cosine_p1']:.5f}", ""),
        ("relative error", f"{found['relative_error']:.2%}", ""),
    ]


def _layers_table(layers: dict[str, Any], sees: bool) -> Any:
    from rich.table import Table

    decoder: Sequence[dict[str, Any]] = layers["decoder"]
    vision: Sequence[dict[str, Any]] = layers["vision"] or ()
    table = Table("relative error\nafter layer", title_justify="left")
    for heading in ("decoder,\ntext positions", "decoder,\nall positions", "vision\ntower") if sees else ("decoder",):
        table.add_column(heading, justify="right")
    for layer in range(max(len(decoder), len(vision))):
        cells = [f"{decoder[layer][key]:.2%}" if layer < len(decoder) else "" for key in ("text", "all")]
        cells.append(f"{vision[layer]['all']:.2%}" if layer < len(vision) else "")
        table.add_row(str(layer), *(cells if sees else cells[:1]))
    return table
