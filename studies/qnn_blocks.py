"""Weights in groups for Qualcomm's NPU (LPBQ) beside one scale a row: what the built-in model loses, what they cost.

python -m studies.qnn_blocks --output bench/results/qnn-blocks.json

Of each recipe the mean KL divergence of logits from the original's over held-out dialogues, of the weights alone in
PyTorch: with scales that are multiples of their row's, as the NPU has them, and with any. Then its program is
compiled, and asked on the CPU and in Qualcomm's simulator. GPTQ sees 32 sequences. With --smollm2 the weights of
SmolLM2-135M-Instruct (studies/smollm2) as well, by clip search, which needs no data; groups of 128 do not divide its
576 columns. Rows that are there are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from pocketvlm.bench.accuracy import evaluate
from pocketvlm.bundle.open import open_bundle
from pocketvlm.bundle.static_programs import Snapdragon
from pocketvlm.export import export_bundle
from pocketvlm.export.npu.weights import for_npu
from pocketvlm.export.qnn.compile import compile_binary, shared_binaries
from pocketvlm.export.qnn.options import QnnOptions, with_options
from pocketvlm.export.qnn.weights import GROUPS
from pocketvlm.export.read.calibration import default_source, is_calibrated, read_calibration
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.reference.scores import kl_divergence
from pocketvlm.export.reference.simulate import Simulated, scored_logits
from pocketvlm.machine.qnn import PACKAGE, VERSION, problem
from pocketvlm.questions.data import open_data
from pocketvlm.recipe import CalibrationConfig, Recipe, load_recipe
from pocketvlm.runtime import load
from studies.reader.study import CHECKPOINT, provenance, write
from studies.recipe_costs import reader, smollm2

WORK, KV_LENGTH, SEED, NEW_TOKENS = Path("build") / "qnn-blocks", 768, "npu", 48
CHIP: Snapdragon = "sm8650"
SEQUENCES = 32
COMMAND = "python -m studies.qnn_blocks --smollm2"
SIZES: tuple[int | str, ...] = ("channel", *reversed(GROUPS))
SMALLEST = min(GROUPS)


def recipe_of(size: int | str, base: str = "gptq-channel") -> Recipe:
    """A recipe with groups of that size in the decoder."""
    recipe = load_recipe(base)
    rules = tuple(
        replace(rule, options={**rule.options, "group_size": size}) if rule.options.get("bits") == 4 else rule
        for rule in recipe.rules
    )
    named = replace(recipe, name=f"gptq-{size}", rules=rules, calibration=CalibrationConfig(sequences=SEQUENCES))
    return with_options(named, QnnOptions(platform=CHIP, chunks=1, compiled=False))


def divergence(size: int | str, *, multiples: bool, text: bool = False) -> dict[str, Any]:
    """The weights alone: mean KL divergence, and the share of first choices that agree."""
    model = smollm2(Path("build") / "smollm2") if text else reader()
    recipe = recipe_of(size, "int4-channel" if text else "gptq-channel")
    if multiples:
        recipe = for_npu(model.checkpoint, recipe, GROUPS)
    calibration = None
    if is_calibrated(recipe):
        source, positions = (
            default_source(model.checkpoint.config),
            model.checkpoint.config.text.max_position_embeddings,
        )
        calibration = read_calibration(source, read_frontend(model.checkpoint), recipe, positions)
    simulated = Simulated(model.checkpoint, recipe, calibration)
    for name in model.checkpoint.tensors:  # in the layers' order, which GPTQ asks for
        simulated.quantized(name)
    original = scored_logits(model.checkpoint, model.checkpoint.tensor, model.measured)
    found = scored_logits(model.checkpoint, simulated.read, model.measured)
    return {
        "kl": float(kl_divergence(original, found).mean()),
        "same_first_choice": float((original.argmax(-1) == found.argmax(-1)).float().mean()),
    }


def bundle_of(size: int | str) -> Path:
    """The program, not compiled; made once."""
    path = WORK / f"gptq-{size}"
    if not path.is_dir():
        export_bundle(CHECKPOINT, path, recipe=recipe_of(size), backends=["qnn"], max_length=KV_LENGTH)
    return path


def compiled(size: int | str) -> dict[str, Any]:
    """The decoder's binary: bytes, CPU seconds and peak memory of the compiler's process."""
    bundle, name = bundle_of(size), "text_decoder_0"
    parts = open_bundle(bundle).manifest.engines["qnn"]
    chosen = {part: parts[part] for part in shared_binaries(parts)[name]}
    done = compile_binary(bundle, CHIP, name, chosen)
    for file in done.files:
        (bundle / file).unlink()
    return asdict(done)


def answers(size: int | str, engine: str, questions: int) -> dict[str, Any]:
    """Exact matches, and what was said."""
    asked = list(open_data(f"generated:{SEED}", questions).items)
    with load(bundle_of(size), engine=engine, threads=1) as vlm:
        outcomes = [one.outcome for one in evaluate.answer_all(vlm, asked, NEW_TOKENS)]
    return {"right": sum(one.exact for one in outcomes), "of": questions, "got": [one.got for one in outcomes]}


@click.command(help=__doc__)
@click.option("--questions", default=100, show_default=True, help="To the programs on the CPU.")
@click.option("--simulated", default=10, show_default=True, help="To the smallest groups, in the simulator.")
@click.option("--smollm2", "text", is_flag=True, help="Its weights as well.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The report, JSON.")
def main(questions: int, simulated: int, output: Path, *, text: bool) -> None:
    if why := problem():
        raise click.ClickException(why)
    torch.set_num_threads(1)
    WORK.mkdir(parents=True, exist_ok=True)
    report = {**provenance(COMMAND, 1), "compiler": f"{PACKAGE} {VERSION}", "sequences": SEQUENCES, "rows": {}}
    if output.is_file():
        report["rows"] = json.loads(output.read_text(encoding="utf-8"))["rows"]

    def kept(size: int | str, name: str, make: Callable[[], Any]) -> None:
        row = report["rows"].setdefault(str(size), {})
        if name not in row:
            row[name] = make()
            click.echo(f"{size}, {name}: {str(row[name])[:200]}", err=True)
            write(report, output)

    for size in ("channel", 64, 32) if text else ():
        kept(f"SmolLM2 {size}", "weights", partial(divergence, size, multiples=True, text=True))
        if size != "channel":
            kept(f"SmolLM2 {size}", "weights, any scales", partial(divergence, size, multiples=False, text=True))
    for size in SIZES:
        kept(size, "weights", partial(divergence, size, multiples=True))
        if size != "channel":
            kept(size, "weights, any scales", partial(divergence, size, multiples=False))
        kept(size, "compiled", partial(compiled, size))
    for size in SIZES:
        kept(size, "qnn-emulation", partial(answers, size, "qnn-emulation", questions))
    kept(SMALLEST, "qnn-simulator", partial(answers, SMALLEST, "qnn-simulator", simulated))


if __name__ == "__main__":
    main()
