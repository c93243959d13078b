"""The built-in model as MediaTek's NPU would run it, exact on the host, beside the same weights on the CPU.

python -m studies.reader.npu_program_study --questions 300 --output bench/results/reader-npu-program.json

Both engines answer the same questions about the same pictures. Weights and INT8 cache are the same; activations
are INT16 in every operator of the one, INT8 in products with weights and float32 elsewhere in the other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pocketvlm.bench.accuracy import evaluate
from pocketvlm.questions.data import open_data
from pocketvlm.questions.question import Questions
from pocketvlm.runtime import PocketVlm, load
from studies.reader import study

RECIPES = ("int4-channel", "gptq-channel")
ENGINES = ("onnx", "npu-emulation")
#: The program's attention is over the whole cache, full or not: one that the questions and their answers just fit.
KV_LENGTH = "768"
#: Questions between two lines of progress.
PROGRESS = 25


def measure(recipe: str, seed: str, questions: int, max_new_tokens: int, threads: int) -> dict[str, Any]:
    """One recipe by both engines, and how many answers are the same."""
    found: dict[str, Any] = {}
    answers: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as directory:
        bundle = Path(directory) / "bundle"
        both = ("--backend", "onnx", "--backend", "neuropilot", "--uncompiled", "--max-length", KV_LENGTH)
        study.export(study.CHECKPOINT, bundle, recipe, *both)
        for engine in ENGINES:
            with load(bundle, engine=engine, threads=threads) as vlm:
                answered = list(
                    _answers(vlm, open_data(f"generated:{seed}", questions), max_new_tokens, f"{recipe}, {engine}")
                )
                found[engine] = {
                    "engine": vlm.engine_description,
                    "accuracy": evaluate.accuracy(answered),
                    "fidelity": vlm.manifest.fidelity.model_dump(mode="json"),
                    "cost": asdict(evaluate.cost(answered)),
                }
            answers[engine] = [one.outcome.got for one in answered]
            click.echo(f"{recipe}, {engine}: {study.interval(found[engine]['accuracy']['all'])}", err=True)
    same = sum(left == right for left, right in zip(*answers.values(), strict=True))
    return {"engines": found, "same_answers": same, "questions": questions}


def _answers(vlm: PocketVlm, asked: Questions, max_new_tokens: int, label: str) -> Iterator[evaluate.Answered]:
    """All answers; a line on stderr now and then, since this takes a quarter of an hour."""
    for count, one in enumerate(evaluate.answer_all(vlm, asked.items, max_new_tokens), 1):
        yield one
        if count % PROGRESS == 0:
            click.echo(f"{label}: {count} of {asked.most} questions", err=True)


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    rows = [
        "| recipe | engine | exact match (95 %) | KL, nats | image tokens: cosine | same answers |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for recipe, result in report["recipes"].items():
        for engine, one in result["engines"].items():
            fidelity = one["fidelity"]
            rows.append(
                f"| `{recipe}` | {engine} | {study.interval(one['accuracy']['all'])} "
                f"| {fidelity['text']['kl_mean']:.4f} | {fidelity['vision']['cosine']:.5f} "
                f"| {result['same_answers']} of {result['questions']} |"
            )
    return "\n".join(rows)


@click.command(help=__doc__)
@click.option("--questions", default=300, show_default=True, help="One about each picture.")
@click.option("--seed", default="npu", show_default=True, help="Seed of the held-out pictures.")
@click.option("--max-new-tokens", default=256, show_default=True, help="Longest answer.")
@click.option("--threads", default=1, show_default=True)
@click.option("--recipe", "recipes", multiple=True, default=RECIPES, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Where the report goes as JSON.")
def main(
    questions: int, seed: str, max_new_tokens: int, threads: int, recipes: tuple[str, ...], output: Path | None
) -> None:
    results = {recipe: measure(recipe, seed, questions, max_new_tokens, threads) for recipe in recipes}
    command = (
        f"python -m studies.reader.npu_program_study --questions {questions} --seed {seed} "
        f"--max-new-tokens {max_new_tokens} --threads {threads}"
    )
    report = {**study.provenance(command, threads), "recipes": results}
    click.echo(table(report))
    if output is not None:
        study.write(report, output)


if __name__ == "__main__":
    main()
