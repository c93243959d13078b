"""``pocketvlm eval``: how often a bundle answers right, and what an answer costs."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from pocketvlm.bench.data import Questions
    from pocketvlm.bench.evaluate import Answered


@click.command("eval")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data", required=False)
@click.option("--data", "data_option", metavar="DATA", help="The same as the argument.")
@click.option(
    "--questions", default=200, show_default=True, type=click.IntRange(1, 1_000_000), help="How many are asked."
)
@click.option(
    "--max-new-tokens", default=256, show_default=True, type=click.IntRange(min=1), help="Longest answer, tokens."
)
@click.option("--threads", type=click.IntRange(1, 1024), help="Default: the physical cores.")
@click.option("--wrong", default=0, metavar="N", type=click.IntRange(min=0), help="Print the first N wrong answers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every answer.")
def command(
    *,
    bundle: Path,
    data: str | None,
    data_option: str | None,
    questions: int,
    max_new_tokens: int,
    threads: int | None,
    wrong: int,
    as_json: bool,
) -> None:
    """Ask BUNDLE questions with known answers, each in a conversation of its own, and count what it gets right.

    DATA is generated:SEED: held-out pictures that are drawn, the same ones for the same seed.
    """
    if (data is None) == (data_option is None):
        raise click.UsageError("give DATA once, as the second argument or as --data: for example generated:test")
    from pocketvlm.bench.data import open_data

    asked = open_data(data or data_option or "", questions)
    report, answered = evaluate(bundle, asked, questions, max_new_tokens, threads)
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        from rich.console import Console

        _print(Console(), report)
        _print_wrong(Console(), answered, wrong)


def evaluate(
    bundle: Path, asked: Questions, count: int, max_new_tokens: int, threads: int | None
) -> tuple[dict[str, Any], list[Answered]]:
    """Ask them all, with a progress bar: the report for JSON, and the answers."""
    from pocketvlm.bench import evaluate as bench
    from pocketvlm.bundle import open_bundle
    from pocketvlm.cli.progress import ConsoleProgress
    from pocketvlm.runtime import load

    answered = []
    with load(bundle, threads=threads) as vlm:
        bench.check_sees(vlm)
        with ConsoleProgress() as progress:
            progress.phase("questions", count)
            for item in bench.answer_all(vlm, asked.examples, max_new_tokens):
                answered.append(item)
                progress.advance(1)
        engine = vlm.engine_description
    report = {
        "bundle": bench.identity(open_bundle(bundle)),
        "data": asked.origin,
        "questions": len(answered),
        "max_new_tokens": max_new_tokens,
        "sampling": "greedy",
        "engine": engine,
        "versions": bench.versions(),
        "accuracy": bench.accuracy(answered),
        "cost": asdict(bench.cost(answered)),
        "answers": bench.answers(answered),
    }
    return report, answered


def _print(console: Console, report: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    bundle, origin = report["bundle"], report["data"]
    source = " ".join(f"{name} {value}" for name, value in origin.items())
    console.print(Text(f"{bundle['model']}, recipe {bundle['recipe']}; {source}"), soft_wrap=True)
    table = Table("", "", "questions", "exact match", "95 %", "character errors")
    for column in table.columns[2:]:
        column.justify = "right"
    for group, scores in report["accuracy"].items():
        rows = {"": scores} if group == "all" else scores
        for index, (name, score) in enumerate(rows.items()):
            table.add_row("" if index else group, Text(name), *_cells(score))
        table.add_section()
    console.print(table)
    console.print(_cost_lines(report["cost"]), soft_wrap=True, highlight=False)


def _cells(score: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{score['questions']:,}",
        f"{score['share']:.1%}",
        f"{score['low']:.1%} to {score['high']:.1%}",
        f"{score['character_error_rate']:.1%}",
    )


def _cost_lines(cost: dict[str, Any]) -> str:
    decode = "no decode steps" if cost["decode_tps"] is None else f"decode {cost['decode_tps']:,.0f} tokens/s"
    return (
        f"image tokens: {cost['image_tokens']:,.1f} a question\n"
        f"medians: encode {cost['encode_s'] * 1e3:.1f} ms, prefill {cost['prefill_tps']:,.0f} tokens/s, {decode}, "
        f"first token after {cost['time_to_first_token_s'] * 1e3:.1f} ms\n"
        f"peak memory: {cost['peak_rss_bytes'] / 1e6:.0f} MB, drawing the pictures included"
    )


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
    console.print(table)
