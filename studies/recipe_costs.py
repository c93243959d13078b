"""What 4 bits cost and give by the way they are found: without data, with importance, by GPTQ; SmolLM2 and ours.

python -m studies.recipe_costs --output bench/results/recipe-costs.json

Recipes are simulated in PyTorch: mean KL divergence of the logits from the original's on text that no calibration saw,
bytes as stored, and seconds of this process' CPU. SmolLM2-135M-Instruct is the turned one of studies/smollm2, read on
windows of Python's language reference; the built-in model is asked about held-out pictures. Calibration data is what
``pocketvlm export`` takes where nothing is said; "same kind" is other text of the windows' own kind.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import click
import torch
from torch import Tensor

from pocketvlm import quant
from pocketvlm.export.read.calibration import default_source, read_calibration
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.read.sample import Sample
from pocketvlm.export.reference.scores import kl_divergence
from pocketvlm.export.reference.simulate import Simulated, scored_logits
from pocketvlm.models.checkpoint import Checkpoint, open_checkpoint
from pocketvlm.quant import ClipSearch, GroupedTensor
from pocketvlm.quant.clip_search import searched
from pocketvlm.quant.grids import Grid
from pocketvlm.quant.sizes import stored_bytes
from pocketvlm.recipe import Recipe, Rule, load_recipe
from studies.reader.study import CHECKPOINT, provenance, write

WINDOWS, TOKENS = 6, 512
#: Pictures with their questions that the built-in model is measured on.
DIALOGUES = 64
SAME_KIND = "same kind"
COMMAND = "python -m studies.recipe_costs"


@dataclass(frozen=True)
class Weighed(ClipSearch):
    """Clip search, each column's error weighed by the mean square of its input: an importance matrix."""

    CALIBRATED: ClassVar[bool] = True

    importance: Tensor | None = None

    def fit(self, groups: Tensor) -> Grid:
        return searched(groups, self.bits, symmetric=self.symmetric, positive=False, importance=self.importance)

    def quantize(self, weight: Tensor, gram: Tensor | None = None) -> GroupedTensor:
        assert gram is not None
        importance = self.grouped((gram.diagonal() / gram.diagonal().mean())[None])
        return super(Weighed, replace(self, importance=importance)).quantize(weight)


@dataclass(frozen=True)
class Way:
    """A recipe's name, what its decoder's matrices become, and whether calibration data is of the text's own kind."""

    name: str
    quantizer: str
    group_size: int
    bits: int = 4
    source: str | None = None
    symmetric: bool = True

    def recipe(self) -> Recipe:
        base = load_recipe("gptq-g32")
        options = {"bits": self.bits, "group_size": self.group_size, "symmetric": self.symmetric}
        rules = (
            base.rules[0],
            Rule(("model.layers.*", "lm_head.weight"), self.quantizer, options),
            Rule(("*",), "round-to-nearest", {"bits": 8, "group_size": self.group_size}),
        )
        return replace(base, name=self.name, rules=rules)


WAYS = (
    Way("int8", "round-to-nearest", 128, bits=8),
    Way("round to nearest, 128 (int4-g128)", "round-to-nearest", 128),
    Way("round to nearest, 32 (int4-g32)", "round-to-nearest", 32),
    Way("clip search, 32", "clip-search", 32),
    Way("clip search by importance, 32", "weighed", 32),
    Way("GPTQ, 128 (gptq-g128)", "gptq", 128),
    Way("GPTQ, 32 (gptq-g32)", "gptq", 32),
    Way("GPTQ, 64", "gptq", 64),
    Way("GPTQ, 32, zero points", "gptq", 32, symmetric=False),
    Way("GPTQ, 32, other data: of the text's own kind", "gptq", 32, source=SAME_KIND),
)


@dataclass(frozen=True)
class Model:
    """A checkpoint, what it is measured on, and calibration data of the same kind."""

    name: str
    checkpoint: Checkpoint
    measured: tuple[Sample, ...]
    same_kind: str


def smollm2(cache: Path) -> Model:
    """SmolLM2 on text of its study."""
    from tokenizers import Tokenizer

    from pocketvlm.files import write_whole
    from studies.smollm2 import reference, text

    checkpoint = open_checkpoint(reference.prepare(cache))
    tokenizer = Tokenizer.from_file(str(checkpoint.directory / "tokenizer.json"))
    texts = text.python_texts()
    windows = text.windows(tokenizer, texts.test, WINDOWS, TOKENS)
    calibration = cache / "calibration.txt"
    write_whole(calibration, texts.calibration)
    measured = tuple(Sample(None, torch.from_numpy(window), None, 0) for window in windows)
    return Model("SmolLM2-135M-Instruct", checkpoint, measured, str(calibration))


def reader() -> Model:
    """The built-in model on dialogues about pictures that neither training nor calibration saw."""
    checkpoint = open_checkpoint(CHECKPOINT)
    recipe = load_recipe("gptq-g32")
    few = replace(recipe, calibration=replace(recipe.calibration, sequences=DIALOGUES))
    positions = checkpoint.config.text.max_position_embeddings
    held = read_calibration("generated:held-out", read_frontend(checkpoint), few, positions)
    return Model("the built-in model", checkpoint, held.samples, "generated:same-kind")


def measure(model: Model, way: Way, original: Tensor) -> dict[str, Any]:
    """One row."""
    recipe, started = way.recipe(), time.process_time()
    calibration = None
    if quant.quantizer_of(recipe.rules[1]).CALIBRATED:
        source = model.same_kind if way.source == SAME_KIND else default_source(model.checkpoint.config)
        positions = model.checkpoint.config.text.max_position_embeddings
        calibration = read_calibration(source, read_frontend(model.checkpoint), recipe, positions)
    simulated = Simulated(model.checkpoint, recipe, calibration)
    for name in model.checkpoint.tensors:  # in the layers' order, which GPTQ asks for
        simulated.quantized(name)
    seconds = time.process_time() - started
    found = scored_logits(model.checkpoint, simulated.read, model.measured)
    rules = recipe.assign(model.checkpoint.tensors)
    size = sum(stored_bytes(name, info.shape, rules[name]) for name, info in model.checkpoint.tensors.items())
    return {
        "way": way.name,
        "kl": float(kl_divergence(original, found).mean()),
        "same_first_choice": float((original.argmax(-1) == found.argmax(-1)).float().mean()),
        "weights_bytes": size,
        "quantizing_cpu_seconds": round(seconds, 1),
        "calibration_tokens": 0 if calibration is None else calibration.tokens,
    }


def table(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """One model's rows as a Markdown table."""
    lines = [
        f"| {name} | weights, MB | mean KL, nats | same first choice | calibration, tokens | quantizing, s of CPU |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        tokens = f"{row['calibration_tokens']:,}" if row["calibration_tokens"] else ""
        lines.append(
            f"| {row['way']} | {row['weights_bytes'] / 1e6:.1f} | {row['kl']:.4f} | {row['same_first_choice']:.1%} | "
            f"{tokens} | {row['quantizing_cpu_seconds']:.0f} |"
        )
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--cache", default="build/smollm2", type=click.Path(path_type=Path), help="Where SmolLM2 is prepared.")
@click.option("--ways", default=len(WAYS), type=click.IntRange(1, len(WAYS)), help="How many of them.")
@click.option("--only", type=click.Choice(["reader", "smollm2"]), help="One of the models.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The report, JSON.")
def main(cache: Path, ways: int, only: str | None, output: Path) -> None:
    quant.QUANTIZERS["weighed"] = Weighed
    models = [*([] if only == "smollm2" else [reader()]), *([] if only == "reader" else [smollm2(cache)])]
    # Rows that are there are kept, each with its own origin: it goes on where it ended.
    kept = json.loads(output.read_text())["models"] if output.is_file() else {}
    report: dict[str, Any] = {"command": COMMAND, "models": kept}
    origin = provenance(COMMAND, torch.get_num_threads())
    origin.pop("command")
    for model in models:
        original = scored_logits(model.checkpoint, model.checkpoint.tensor, model.measured)
        rows: list[dict[str, Any]] = report["models"].setdefault(model.name, [])
        for way in WAYS[:ways]:
            if any(row["way"] == way.name for row in rows):
                continue
            rows.append({**measure(model, way, original), **origin})
            click.echo(f"{model.name}: {rows[-1]}", err=True)
            write(report, output)
        click.echo(table(model.name, rows))


if __name__ == "__main__":
    main()
