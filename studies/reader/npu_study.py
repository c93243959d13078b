"""The built-in model on an NPU's arithmetic: what INT16 and INT8 activations cost beside float32, simulated.

python -m studies.reader.npu_study --output bench/results/reader-npu.json

Mean KL divergence in nats from the unquantized model over the answers of held-out questions, teacher-forced.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from pocketvlm.export.read.calibration import is_calibrated, read_calibration
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.reference.scores import kl_divergence
from pocketvlm.export.reference.simulate import Simulated, scored_logits
from pocketvlm.export.tune.npu_arithmetic import ARITHMETICS, input_ranges, simulated_logits
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.recipe import CalibrationConfig, load_recipe
from studies.reader import study

RECIPES = ("bluelm-v-3b", "int4-channel", "gptq-g128", "gptq-channel")


def measure(recipes: tuple[str, ...], pictures: int) -> dict[str, Any]:
    """Each recipe by each arithmetic; activations are calibrated on other pictures than those that measure."""
    checkpoint = open_checkpoint(study.CHECKPOINT)
    frontend, positions = read_frontend(checkpoint), checkpoint.config.text.max_position_embeddings
    base = replace(load_recipe("gptq-g128"), calibration=CalibrationConfig(sequences=pictures))
    calibration = read_calibration("generated:calibration", frontend, base, positions)
    measured = read_calibration("generated:npu", frontend, base, positions)
    ranges = input_ranges(checkpoint, calibration.samples)
    original = scored_logits(checkpoint, checkpoint.tensor, measured.samples)
    results: dict[str, Any] = {}
    for name in recipes:
        recipe = replace(load_recipe(name), calibration=base.calibration)
        simulated = Simulated(checkpoint, recipe, calibration if is_calibrated(recipe) else None)
        results[name] = {}
        for arithmetic in ARITHMETICS:
            found = simulated_logits(checkpoint, simulated, measured.samples, arithmetic, ranges)
            divergence = kl_divergence(original, found)
            agreement = torch.eq(found.argmax(-1), original.argmax(-1)).double().mean()
            results[name][arithmetic.name] = {
                "kl_mean": float(divergence.mean()), "top1_agreement": float(agreement),
            }  # fmt: skip
            click.echo(f"{name}, {arithmetic.name}: KL {float(divergence.mean()):.5f}", err=True)
    return {"tokens": len(original), "recipes": results}


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    names = [arithmetic.name for arithmetic in ARITHMETICS]
    rows = [f"| mean KL, nats | {' | '.join(names)} |", "| --- |" + " ---: |" * len(names)]
    for recipe, found in report["recipes"].items():
        rows.append(f"| `{recipe}` | " + " | ".join(f"{found[name]['kl_mean']:.4f}" for name in names) + " |")
    return "\n".join(rows)


@click.command(help=__doc__)
@click.option("--pictures", default=64, show_default=True, help="Dialogues that calibrate, and that measure.")
@click.option("--recipe", "recipes", multiple=True, default=RECIPES, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Where the report goes as JSON.")
def main(pictures: int, recipes: tuple[str, ...], output: Path | None) -> None:
    torch.set_num_threads(2)
    report = measure(recipes, pictures)
    click.echo(table(report))
    if output is not None:
        command = f"python -m studies.reader.npu_study --pictures {pictures}"
        study.write({**study.provenance(command, 2), **report}, output)


if __name__ == "__main__":
    main()
