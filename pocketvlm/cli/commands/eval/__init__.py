"""``pocketvlm eval``: how often a bundle answers right, and what an answer costs."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pocketvlm.cli.clusters import cluster_option, on_cluster
from pocketvlm.cli.commands.eval.against import check_usage, run
from pocketvlm.cli.commands.eval.asking import WaysToAsk, check_accuracy, check_whole, evaluate, missing
from pocketvlm.cli.console import constraint_of, engine_option, finite, print_table
from pocketvlm.cli.printing import rich_console
from pocketvlm.errors import DataError, one_line

if TYPE_CHECKING:
    from rich.console import Console

    from pocketvlm.bench.accuracy.evaluate import Answered
    from pocketvlm.runtime.constraints import Constraint


@click.command("eval")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data", required=False)
@click.option("--data", "data_option", metavar="DATA", help="The same as the argument.")
@click.option(
    "--questions",
    type=click.IntRange(1, 1_000_000),
    help="How many are asked at most.  [default: 200 generated ones, all of a file]",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="Beside the exact match: anls, vqa, choice, or exact for nothing else; may be repeated.  [default: by DATA]",
)
@click.option(
    "--max-new-tokens", default=256, show_default=True, type=click.IntRange(min=1), help="Longest answer, tokens."
)
@click.option(
    "--json-schema",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Ask for answers in JSON of this schema, and count those that are.",
)
@click.option("--threads", type=click.IntRange(1, 1024), help="Default: the physical cores.")
@engine_option
@cluster_option
@click.option(
    "--baseline",
    metavar="RESULTS.json|BUNDLE2",
    type=click.Path(path_type=Path),
    help="Compare with what --save wrote, or with another bundle, question by question.",
)
@click.option("--wrong", default=0, metavar="N", type=click.IntRange(min=0), help="Print the first N wrong answers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every answer.")
@click.option("--save", metavar="FILE.json", type=click.Path(path_type=Path), help="Write the same JSON to a file.")
@click.option(
    "--min-accuracy",
    metavar="SHARE",
    type=click.FloatRange(0, 1),
    callback=finite,
    help="Exit with status 1 if the exact match is below this, 0 to 1.",
)
@click.option(
    "--against",
    metavar="CHECKPOINT",
    type=click.Path(path_type=Path),
    help="Compare logits, image tokens and layers with the checkpoint that BUNDLE was exported from, and ask nothing.",
)
@click.option(
    "--lora", metavar="DIR", type=click.Path(path_type=Path), help="With --against: the adapter that was merged."
)
@click.option(
    "--max-kl",
    metavar="NATS",
    type=click.FloatRange(min=0),
    callback=finite,
    help="With --against: exit with status 1 if the mean KL divergence is above this.",
)
@click.option(
    "--plot",
    metavar="FILE.png",
    type=click.Path(path_type=Path),
    help="With --against: draw the error after each layer.",
)
def command(
    *,
    bundle: Path,
    data: str | None,
    data_option: str | None,
    questions: int | None,
    metrics: tuple[str, ...],
    max_new_tokens: int,
    json_schema: Path | None,
    threads: int | None,
    engine: str | None,
    cluster: str | None,
    baseline: Path | None,
    wrong: int,
    as_json: bool,
    save: Path | None,
    min_accuracy: float | None,
    against: Path | None,
    lora: Path | None,
    max_kl: float | None,
    plot: Path | None,
) -> None:
    """Ask BUNDLE questions with known answers, each in a conversation of its own, and count what it gets right.

    DATA is generated:SEED (held-out pictures that are drawn, the same ones for the same seed), FILE.jsonl (a question
    a line), FILE.tsv (VLMEvalKit's form) or, for --against, FILE.txt (plain text). docs/evaluate.md describes them, the
    metrics and the intervals.
    """
    if (data is None) == (data_option is None):
        raise click.UsageError("give DATA once, as the second argument or as --data: for example generated:test")
    from pocketvlm.files import check_writable, write_whole

    named = data or data_option or ""
    check_usage(against)
    if against is not None:
        from pocketvlm.fidelity.measure import Comparison

        wanted = Comparison(bundle, against, named, questions, threads, lora)
        run(wanted, as_json=as_json, save=save, max_kl=max_kl, plot=plot)
        return
    if save is not None:
        check_writable(save)
    ways = WaysToAsk(max_new_tokens, threads, _known(metrics), _form(json_schema), clustered=cluster is not None)
    with on_cluster(cluster):
        report, answered = _measure(bundle, named, questions, ways, engine, baseline)
    text = json.dumps(report, indent=1)
    if save is not None:
        write_whole(save, f"{text}\n")
    if as_json:
        click.echo(text)
    else:
        _print(rich_console(), report)
        _print_wrong(rich_console(), answered, wrong)
    check_whole(report)
    if min_accuracy is not None:
        check_accuracy(report, min_accuracy)


def _form(json_schema: Path | None) -> Constraint | None:
    try:
        return constraint_of(json_schema, None, (), None)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _known(metrics: tuple[str, ...]) -> tuple[str, ...]:
    from pocketvlm.bench.accuracy.metrics import check_metrics

    try:
        return check_metrics(metrics)
    except DataError as error:
        raise click.UsageError(str(error)) from error


def _measure(
    bundle: Path, data: str, count: int | None, ways: WaysToAsk, engine: str | None, baseline: Path | None
) -> tuple[dict[str, Any], list[Answered]]:
    """Ask the bundle, and the baseline if that is a bundle: the report for JSON, and the bundle's answers.

    ``engine`` is the bundle's; the baseline has its own first one.
    """
    from pocketvlm.bench.accuracy.paired import check_data, compare, follow
    from pocketvlm.bench.report.files import is_results, read_results, results
    from pocketvlm.bundle.open import open_bundle
    from pocketvlm.questions.data import open_data

    saved = read_results(baseline) if baseline is not None and is_results(baseline) else None
    if baseline is not None and saved is None:
        # A wrong path fails before hours of work, not after.
        open_bundle(baseline)
    asked = open_data(data, count)
    if saved is not None:
        check_data(saved, asked.origin, asked.most)
        asked = replace(asked, items=follow(saved, asked.items), make=None)
    report, answered = evaluate(bundle, asked, ways, engine=engine)
    if baseline is not None and saved is None:
        other, _ = evaluate(baseline, open_data(data, count), ways, "baseline")
        saved = None if missing(other) else results(other, str(baseline))
    if saved is not None and not missing(report):
        comparison = compare([item.outcome.exact for item in answered], saved.exact)
        report["baseline"] = {"bundle": saved.bundle, **asdict(comparison)}
    return report, answered


def _print(console: Console, report: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from pocketvlm.bench.accuracy.metrics import METRICS

    bundle, origin = report["bundle"], report["data"]
    source = " ".join(f"{name} {one_line(value, 120)}" for name, value in origin.items() if name != "sha256")
    console.print(Text(f"{bundle['model']}, recipe {bundle['recipe']}; {source}"), soft_wrap=True)
    metrics = report["accuracy"]["all"]["metrics"]
    headings = [METRICS[name].heading for name in metrics]
    table = Table("", "", "questions", "exact\nmatch", "95 %", "character\nerrors", *headings)
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[2:]:
        column.justify = "right"
    for group, scores in report["accuracy"].items():
        rows = {"": scores} if group == "all" else scores
        for index, (name, score) in enumerate(rows.items()):
            title = name if name or group == "all" else "-"
            table.add_row("" if index else group, Text(title), *_cells(score))
        table.add_section()
    print_table(console, table)
    for heading, found in zip(headings, metrics.values(), strict=True):
        interval = f"95 %: {found['low']:.1%} to {found['high']:.1%}"
        console.print(f"{heading}: {found['mean']:.1%} ({interval})", highlight=False)
    if "validity" in report:
        found = report["validity"]
        console.print(f"of the form that was asked for: {found['valid']:,} of {found['answers']:,}", highlight=False)
    if "baseline" in report:
        console.print(Text(_compared(report["baseline"])), soft_wrap=True)
    console.print(_cost_lines(report["cost"]), soft_wrap=True, highlight=False)
    if "cluster" in report:
        console.print(Text(_cluster_lines(report["cluster"])), soft_wrap=True)


def _cells(score: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{score['questions']:,}",
        f"{score['share']:.1%}",
        f"{score['low']:.1%} to {score['high']:.1%}",
        f"{score['character_error_rate']:.1%}",
        *(f"{found['mean']:.1%}" for found in score["metrics"].values()),
    )


def _compared(found: dict[str, Any]) -> str:
    bundle = found["bundle"]
    title = one_line(f"{bundle.get('model')}, recipe {bundle.get('recipe')}", 120)
    points = [f"{found[name] * 100:+.1f}" for name in ("difference", "low", "high")]
    return (
        f"against {title}: {points[0]} points of exact match (95 %: {points[1]} to {points[2]})\n"
        f"only this one right: {found['only_this']:,}, only the baseline: {found['only_baseline']:,}; "
        f"McNemar's exact p = {found['p_value']:.2g}"
    )


def _cost_lines(cost: dict[str, Any]) -> str:
    decode = "no decode steps" if cost["decode_tps"] is None else f"decode {cost['decode_tps']:,.0f} tokens/s"
    return (
        f"image tokens: {cost['image_tokens']:,.1f} a question\n"
        f"medians: encode {cost['encode_s'] * 1e3:.1f} ms, prefill {cost['prefill_tps']:,.0f} tokens/s, {decode}, "
        f"first token after {cost['time_to_first_token_s'] * 1e3:.1f} ms\n"
        f"peak memory: {cost['peak_rss_bytes'] / 1e6:.0f} MB, the pictures included"
    )


def _cluster_lines(found: dict[str, Any]) -> str:
    hosts = [f"{one['questions']:,} by {one['workers']} on {one['host']}, {one['processor']}" for one in found["hosts"]]
    threads = "1 thread" if found["threads"] == 1 else f"{found['threads']} threads"
    again = sum(len(one["questions"]) for one in found["retried"])
    lines = [
        f"answered by workers of {threads} in {found['seconds']:.1f} s: {'; '.join(hosts)}",
        "times above are of the workers; their memory has Ray's part in it",
        *([f"asked again, after a worker or a host was lost: {again:,}"] if again else []),
    ]
    return "\n".join(lines)


def _print_wrong(console: Console, answered: list[Answered], most: int) -> None:
    """The first wrong answers, as Python would write them: no control character of a model reaches the terminal."""
    from rich.table import Table
    from rich.text import Text

    outcomes = (item.outcome for item in answered if not item.outcome.exact)
    shown = list(islice(outcomes, most))
    if not shown:
        return
    table = Table("question", "wanted", "got", title="wrong answers", title_justify="left", show_lines=True)
    for outcome in shown:
        table.add_row(*(Text(repr(text)) for text in (outcome.question, outcome.wanted, outcome.got)))
    print_table(console, table)
