"""``pocketvlm eval --against``: a bundle beside the checkpoint that it was exported from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pocketvlm.errors import CheckpointError, DataError, ResultsError, one_line

if TYPE_CHECKING:
    from rich.console import Console

    from pocketvlm.bench.accuracy.teacher_forced import TeacherForced
    from pocketvlm.bundle.open import Bundle
    from pocketvlm.models.checkpoint import Checkpoint

#: questions whose layers are compared: the first ones
TRACED = 32
#: what the layers' outputs of a group take at most, bytes; one question may take more
TRACE_BYTES = 1 << 30
#: tokens that go through a layer of the original before the next is read; one question may have more
GROUP_TOKENS = 16384

#: options that are about answers, which --against does not generate
OF_ANSWERS = {
    "metrics": "--metric",
    "max_new_tokens": "--max-new-tokens",
    "baseline": "--baseline",
    "wrong": "--wrong",
    "min_accuracy": "--min-accuracy",
    "engine": "--engine",
}
OF_FIDELITY = {"max_kl": "--max-kl", "plot": "--plot"}


@dataclass(frozen=True)
class Comparison:
    """What is compared on what."""

    bundle: Path
    against: Path
    data: str
    questions: int | None
    threads: int | None


@dataclass(frozen=True)
class Group:
    """Questions that go through the original together; the layers of the first ``traced`` of them are compared."""

    items: tuple[TeacherForced, ...]
    traced: int


def check_usage(against: Path | None) -> None:
    """
    Raises:
        click.UsageError: an option of the current command does not go with --against, or only with it.
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

    Raises:
        ResultsError: the mean KL divergence is above ``max_kl``, or a file cannot be written.
    """
    from pocketvlm.bench.report.files import check_writable, write_whole
    from pocketvlm.bench.report.plots import check_packages
    from pocketvlm.bench.report.plots.layers import draw_layers

    for path in (save, plot):
        if path is not None:
            check_writable(path)
    if plot is not None:
        check_packages("--plot")
    report = measure(wanted)
    text = json.dumps(report, indent=1)
    if save is not None:
        write_whole(save, f"{text}\n")
    if plot is not None:
        layers = report["fidelity"]["layers"]
        write_whole(plot, draw_layers(layers, _title(report, layers["questions"])))
    if as_json:
        click.echo(text)
    else:
        from rich.console import Console

        _print(Console(), report)
    if max_kl is not None:
        _check_kl(report, max_kl)


def measure(wanted: Comparison) -> dict[str, Any]:
    """The report for JSON, with a progress bar.

    Raises:
        CheckpointError: the checkpoint is damaged, or not the one that the bundle was exported from.
        DataError: the data cannot be read, has no questions, or does not fit the model.
    """
    import torch

    from pocketvlm.bench.accuracy.teacher_forced import open_teacher_forced
    from pocketvlm.bench.report.identity import identity, versions
    from pocketvlm.bundle.open import open_bundle
    from pocketvlm.cli.beside import Beside
    from pocketvlm.cli.progress import ConsoleProgress
    from pocketvlm.fidelity.trace import Trace
    from pocketvlm.models.checkpoint import open_checkpoint
    from pocketvlm.runtime import load

    bundle, checkpoint = open_bundle(wanted.bundle), open_checkpoint(wanted.against)
    check_same(bundle, checkpoint, wanted)
    if wanted.threads is not None:
        torch.set_num_threads(wanted.threads)
    config = checkpoint.config
    vision_layers = 0 if config.vision is None else config.vision.num_hidden_layers
    with load(wanted.bundle, threads=wanted.threads) as vlm:
        asked = open_teacher_forced(wanted.data, wanted.questions, vlm, bundle)
        with Trace(bundle, vision_layers, wanted.threads) as trace, ConsoleProgress() as progress:
            progress.phase("fidelity", asked.most * (vision_layers + config.text.num_hidden_layers + 1))
            beside = Beside(vlm, checkpoint, trace, progress.advance)
            for group in groups(asked.items, checkpoint):
                beside.add(group)
                if beside.traced == TRACED:
                    trace.close()
        engine = vlm.engine_description
    if not beside.titles:
        raise DataError(f"{one_line(asked.origin.get('file', 'the data'), 120)}: has no questions")
    return {
        "bundle": identity(bundle),
        "against": {
            "path": str(wanted.against),
            "model": checkpoint.name,
            "revision": checkpoint.revision,
            "parameters": checkpoint.parameters,
        },
        "data": asked.origin,
        "questions": len(beside.titles),
        "engine": engine,
        "versions": {**versions(), "torch": str(torch.__version__)},
        "fidelity": beside.report(),
        "by_question": beside.by_question(),
    }


def check_same(bundle: Bundle, checkpoint: Checkpoint, wanted: Comparison) -> None:
    """
    Raises:
        CheckpointError: the bundle was exported from another checkpoint.
    """
    model = bundle.manifest.model
    if model.revision != checkpoint.revision:
        raise CheckpointError(
            f"{one_line(wanted.against, 120)} is not the checkpoint that {one_line(wanted.bundle, 120)} was exported "
            f"from: its revision is {checkpoint.revision}, the bundle's {one_line(model.revision, 40)} "
            f"({one_line(model.name, 80)}). Give that checkpoint, or export this one"
        )


def groups(items: Iterable[TeacherForced], checkpoint: Checkpoint) -> Iterator[Group]:
    """Questions in their order, in groups whose residual streams fit into memory."""
    held: list[TeacherForced] = []
    number = traced = tokens = size = 0
    for item in items:
        more_tokens, more_bytes = len(item.inputs), _trace_bytes(item, checkpoint) if number < TRACED else 0
        if held and (tokens + more_tokens > GROUP_TOKENS or size + more_bytes > TRACE_BYTES):
            yield Group(tuple(held), traced)
            held, traced, tokens, size = [], 0, 0, 0
        held.append(item)
        traced += number < TRACED
        number, tokens, size = number + 1, tokens + more_tokens, size + more_bytes
    if held:
        yield Group(tuple(held), traced)


def _trace_bytes(item: TeacherForced, checkpoint: Checkpoint) -> int:
    """What a question's outputs of all layers take, in float32."""
    text, vision = checkpoint.config.text, checkpoint.config.vision
    values = len(item.inputs) * text.hidden_size * text.num_hidden_layers
    if vision is not None:
        tiles = sum(len(picture.tiled.pixels) for picture in item.pictures)
        values += tiles * vision.grid_size**2 * vision.hidden_size * vision.num_hidden_layers
    return 4 * values


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
    console.print(table)
    layers = fidelity["layers"]
    console.print(_layers_table(layers, fidelity["image_tokens"] is not None))
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
