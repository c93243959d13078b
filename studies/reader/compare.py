"""The reader under every recipe: accuracy, size, speed and memory of the exported bundles, side by side.

python -m studies.reader.compare --questions 600 --output bench/results/reader-recipes.json

Each bundle answers the same questions about the same held-out pictures, by ``pocketvlm eval``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from studies.reader import study

RECIPES = (
    "fp32", "int8", "int4-g32", "int4-g128", "int4-channel", "gptq-g32", "gptq-g128", "gptq-channel", "bluelm-v-3b",
)  # fmt: skip


def compare(recipes: tuple[str, ...], seed: str, questions: int, threads: int) -> dict[str, Any]:
    """Export the reader by each recipe and measure each bundle."""
    results = {}
    with tempfile.TemporaryDirectory() as directory:
        for recipe in recipes:
            bundle = Path(directory) / recipe
            study.export(study.CHECKPOINT, bundle, recipe)
            results[recipe] = study.summary(study.evaluate(bundle, seed, questions, threads))
    command = f"python -m studies.reader.compare --questions {questions} --seed {seed} --threads {threads}"
    return {**study.provenance(command, threads), "recipes": results}


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    rows = [
        "| recipe | exact match (95 %) | bundle | load | encode | prefill | decode | peak memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for recipe, result in report["recipes"].items():
        cost = result["cost"]
        rows.append(
            f"| `{recipe}` | {study.interval(result['accuracy']['all'])} "
            f"| {result['bundle']['bytes'] / 1e6:.1f} MB | {cost['load_s'] * 1e3:.0f} ms "
            f"| {cost['encode_s'] * 1e3:.1f} ms | {cost['prefill_tps']:,.0f} tok/s "
            f"| {cost['decode_tps'] or 0:,.0f} tok/s | {cost['peak_rss_bytes'] / 1e6:.0f} MB |"
        )
    return "\n".join(rows)


@click.command(help=__doc__)
@click.option("--questions", default=600, show_default=True, help="One about each picture.")
@click.option("--seed", default="compare", show_default=True, help="Seed of the held-out pictures.")
@click.option("--threads", default=1, show_default=True)
@click.option("--recipe", "recipes", multiple=True, default=RECIPES, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Where the report goes as JSON.")
def main(questions: int, seed: str, threads: int, recipes: tuple[str, ...], output: Path | None) -> None:
    report = compare(recipes, seed, questions, threads)
    click.echo(table(report))
    if output is not None:
        study.write(report, output)


if __name__ == "__main__":
    main()
