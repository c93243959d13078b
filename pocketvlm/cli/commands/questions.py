"""``pocketvlm questions``: questions as a small benchmark for lmms-eval and VLMEvalKit."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("questions")
@click.argument("data")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--questions",
    type=click.IntRange(1, 1_000_000),
    help="How many are written at most.  [default: 200 generated ones, all of a file]",
)
def command(*, data: str, directory: Path, questions: int | None) -> None:
    """Write the questions of DATA, with their pictures, to DIR as benchmarks for lmms-eval and VLMEvalKit.

    DATA is what `pocketvlm eval` asks: generated:SEED, FILE.jsonl or FILE.tsv. Both harnesses then ask them with the
    prompts of OCRBench and of ChartQA and score the answers as they score those; docs/evaluate.md has the commands.
    """
    from pocketvlm.harnesses.slices import FORMS, write_slice
    from pocketvlm.questions.data import open_data

    count = write_slice(open_data(data, questions), directory)
    tasks = ", ".join(f"slice_{form.name}" for form in FORMS)
    tables = ", ".join(form.table for form in FORMS)
    click.echo(f"{directory}: {count:,} questions; lmms-eval's tasks {tasks}; VLMEvalKit's data {tables}")
