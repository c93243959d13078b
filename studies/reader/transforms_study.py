"""Do AWQ's scales or a rotation of the residual stream pay on the built-in model?

python -m studies.reader.transforms_study --output bench/results/reader-transforms.json

Checkpoints whose logits are the same (checked), quantized alike: mean KL divergence from the unquantized model over
held-out dialogues, and the paired difference to the same quantizer without the transformation, with a 95 % bootstrap
interval over dialogues. "awq" looks for the scales by round to nearest, "awq own" by the very quantizer that follows;
"folded" has its norms folded and its head untied, which every rotation needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from pocketvlm.bench.statistics.bootstrap import bootstrap
from pocketvlm.export.read.calibration import CalibrationSet, read_calibration
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.read.sample import Sample
from pocketvlm.export.reference.scores import kl_divergence
from pocketvlm.export.reference.simulate import Simulated
from pocketvlm.export.reference.stages import embed, run_decoder
from pocketvlm.models.checkpoint import ReadWeight, open_checkpoint
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.stages import logits
from pocketvlm.quant import GroupQuantizer, RoundToNearest, quantizer_of
from pocketvlm.recipe import Recipe, Rule, load_recipe
from studies.reader.study import CHECKPOINT, provenance, write
from studies.reader.transforms import Held, awq, folded, hadamard, held, inputs_of, orthogonal, rotated

#: Relative error of the logits of a transformed model, at most.
SAME = 1e-4
SEEDS = (0, 1)
QUANTIZERS = {"rtn": "round-to-nearest", "clip": "clip-search", "gptq": "gptq"}
RECIPES = ("gptq-g128", "gptq-channel", "rtn-g128", "rtn-channel", "clip-g128", "clip-channel")
PLAIN = "as it is"


def recipe_of(name: str) -> Recipe:
    """rtn-g128, clip-channel, ...: INT4 in the decoder; table, vision and an untied head in INT8, round to nearest."""
    kind, _, groups = name.partition("-")
    size: dict[str, Any] = {"group_size": "channel" if groups == "channel" else int(groups.removeprefix("g"))}
    base = load_recipe("gptq-g128")
    rules = (
        base.rules[0],
        Rule(("model.layers.*",), QUANTIZERS[kind], {"bits": 4, **size}),
        Rule(("*",), "round-to-nearest", {"bits": 8, **size}),
    )
    return replace(base, name=name, rules=rules)


def logits_of(config: VlmConfig, read: ReadWeight, samples: Sequence[Sample]) -> Iterator[Tensor]:
    """The logits over the text of each sample, float32 [scored, vocabulary]."""
    streams = run_decoder(config, read, embed(config, read, samples))
    for states, sample in zip(streams, samples, strict=True):
        yield logits(config.text, read, states[:, sample.first_scored :])


def divergences(original: Sequence[Tensor], found: Iterator[Tensor]) -> list[float]:
    """Each sample's share of the mean KL over all scored tokens: their mean is that mean."""
    scores = [kl_divergence(wanted, logits) for wanted, logits in zip(original, found, strict=True)]
    tokens = sum(len(score) for score in scores)
    return [float(score.sum()) * len(scores) / tokens for score in scores]


def transformed(model: Held, calibration: CalibrationSet, recipe: str) -> Iterator[tuple[str, str, Held]]:
    """Name, what it is compared with, and model."""
    quantizer = quantizer_of(recipe_of(recipe).rules[1])
    assert isinstance(quantizer, GroupQuantizer)
    yield PLAIN, PLAIN, model
    inputs = inputs_of(model, calibration.samples)
    nearest = RoundToNearest(4, quantizer.group_size)
    yield "awq", PLAIN, awq(model, inputs, nearest, head=False)[0]
    if quantizer != nearest:
        yield "awq own", PLAIN, awq(model, inputs, quantizer, head=False)[0]
    unturned = folded(model)
    yield "folded", PLAIN, unturned
    hidden = model.config.text.hidden_size
    for seed in SEEDS:
        yield f"rotated {seed}", "folded", rotated(unturned, orthogonal(hidden, seed))
        yield f"hadamard {seed}", "folded", rotated(unturned, hadamard(hidden, seed))


def measure(
    model: Held, calibration: CalibrationSet, measured: Sequence[Sample], recipes: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """A line for each recipe and transformation."""
    original = list(logits_of(model.config, model.tensor, measured))
    for recipe in recipes:
        kls: dict[str, list[float]] = {}
        for name, base, changed in transformed(model, calibration, recipe):
            same = next(logits_of(changed.config, changed.tensor, measured[:1]))
            error = float((same - original[0]).norm() / original[0].norm())
            if error > SAME:
                raise click.ClickException(f"{name} changes the logits by {error:.1e}")
            simulated = Simulated(changed, recipe_of(recipe), calibration)
            _quantize_in_order(simulated, changed)
            kls[name] = divergences(original, logits_of(changed.config, simulated.read, measured))
            difference = None
            if name != base:
                difference = _estimate((np.array(kls[name]) - np.array(kls[base])).tolist())
            yield {
                "quantizer": recipe,
                "transformation": name,
                "error_of_float_logits": error,
                "kl": _estimate(kls[name]),
                "against": base,
                "difference": difference,
            }


def _quantize_in_order(simulated: Simulated, model: Held) -> None:
    """GPTQ takes layers in their order."""
    for name in model.tensors:
        simulated.quantized(name)


def _estimate(values: Sequence[float]) -> dict[str, float]:
    low, high = bootstrap(values)
    return {"mean": float(np.mean(values)), "low": low, "high": high}


def row(line: Mapping[str, Any]) -> str:
    """A line of the Markdown table."""
    kl, difference, compared = line["kl"], line["difference"], ""
    if difference is not None:
        compared = (
            f"{difference['mean']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f}) to {line['against']}"
        )
    score = f"{kl['mean']:.4f} ({kl['low']:.4f} to {kl['high']:.4f})"
    return f"| {line['quantizer']} | {line['transformation']} | {score} | {compared} |"


@click.command(help=__doc__)
@click.option("--dialogues", default=64, show_default=True, help="So many calibrate, and so many others measure.")
@click.option("--recipe", "recipes", multiple=True, type=click.Choice(RECIPES), help="Quantizers.  [default: all]")
@click.option("--threads", default=1, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Where the report goes as JSON.")
@torch.no_grad()
def main(dialogues: int, recipes: tuple[str, ...], threads: int, output: Path | None) -> None:
    torch.set_num_threads(threads)
    checkpoint = open_checkpoint(CHECKPOINT)
    frontend, positions = read_frontend(checkpoint), checkpoint.config.text.max_position_embeddings
    base = load_recipe("gptq-g128")
    base = replace(base, calibration=replace(base.calibration, sequences=dialogues))
    calibration = read_calibration("generated:calibration", frontend, base, positions)
    measured = read_calibration("generated:npu", frontend, base, positions).samples
    model = held(checkpoint, {name: checkpoint.tensor(name) for name in checkpoint.tensors})
    click.echo("| quantizer | transformation | KL (95 %), nats | paired difference (95 %) |\n| --- | --- | --- | --- |")
    lines = []
    for line in measure(model, calibration, measured, recipes or RECIPES):
        click.echo(row(line))
        lines.append(line)
    if output is not None:
        command = f"python -m studies.reader.transforms_study --dialogues {dialogues} --threads {threads}"
        command += "".join(f" --recipe {name}" for name in recipes)
        write({**provenance(command, threads), "results": lines}, output)


if __name__ == "__main__":
    main()
