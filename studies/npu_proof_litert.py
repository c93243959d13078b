"""The NPU's program behind LiteRT: asked in stock LiteRT-LM's NPU executor on the CPU, and given to LiteRT's plugins.

python -m studies.npu_proof_litert --output bench/results/npu-proof-litert.json

MediaTek's plugin has a recorder in the SDK's place: what it shows is the partitioning, not that NeuroPilot compiles it.
Qualcomm's has Qualcomm's compiler. What is done is kept in build/npu-proof: the same command goes on from there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from pocketvlm.bench.accuracy.paired import compare
from pocketvlm.bundle.open import Bundle
from pocketvlm.export.job import Job, Silent
from pocketvlm.export.litert.container import write_litertlm
from pocketvlm.export.litert.program import LitertFile
from pocketvlm.export.litert_npu import lower
from pocketvlm.export.litert_npu.compile import COMPILED, compile_decoder
from pocketvlm.export.litert_npu.options import LitertNpuOptions, with_options
from pocketvlm.export.litert_npu.signatures import ProgramSignatures, step_names
from pocketvlm.export.npu.program import MASK_VALUE
from pocketvlm.export.npu.rounding import Scales
from pocketvlm.export.npu.weights import for_npu
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.reference.stages import Reference
from pocketvlm.export.store.finished import Finished
from pocketvlm.machine import litert_plugins
from pocketvlm.machine.litert_plugins import CHIPS, MEDIATEK
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.questions.data import open_data
from pocketvlm.recipe import load_recipe
from pocketvlm.runtime import GenerationConfig, load
from pocketvlm.runtime.litert_lm import message_parts
from studies import neuron, npu_proof
from studies.npu_proof import MAX_NEW_TOKENS, QUICK, REAL_LENGTH, SCALE, exported, kept, preset
from studies.reader import study

#: A cache of no more rows than the questions take: LiteRT's softmax on the CPU counts each hidden one.
KV_LENGTH, RECIPE, SEED = 640, "gptq-channel", "test"
#: Of real sizes; the larger is not given to Qualcomm's compiler, whose memory it would ask for as one program.
SIZES, COMPILED_SIZES = ("bluelm-v-0.5b", "bluelm-v-3b"), ("bluelm-v-0.5b",)
EMULATION, STOCK = "litert-npu-emulation", "LiteRT-LM's NPU executor on the CPU"
#: One answer a line, for questions of standard input; a process of its own, which shares nothing with ours.
ASK = """
import json, sys
import litert_lm
greedy = litert_lm.SamplerConfig(top_k=1, temperature=0.0, seed=1)
npu, cpu = litert_lm.Backend.NPU(litert_dispatch_lib_dir=""), litert_lm.Backend.CPU()
with litert_lm.Engine(sys.argv[1], backend=npu, vision_backend=cpu, max_num_images=16) as engine:
    for line in sys.stdin:
        with engine.create_conversation(sampler_config=greedy, max_output_tokens=int(sys.argv[2])) as conversation:
            parts = conversation.send_message({"role": "user", "content": json.loads(line)})["content"]
        print(json.dumps("".join(part["text"] for part in parts)), flush=True)
"""


# --- Asked ------------------------------------------------------------------------------------------------------------


def stock_answers(bundle: Bundle, questions: int) -> list[str]:
    """What stock LiteRT-LM answers from the file that ``pocketvlm litertlm --npu`` writes."""
    path = npu_proof.WORK / "reader.litertlm"
    write_litertlm(bundle, path, npu=True)
    items = open_data(f"generated:{SEED}", questions).items
    lines = [json.dumps(message_parts(bundle, one.text, one.images)) for one in items]
    command = [sys.executable, "-c", ASK, str(path), str(MAX_NEW_TOKENS)]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('"')]
    if len(found) != questions:
        raise click.ClickException(f"LiteRT-LM answered {len(found)} of {questions} questions")
    return found


def own_answers(bundle: Bundle, engine: str, questions: int) -> list[str]:
    greedy = GenerationConfig(max_new_tokens=MAX_NEW_TOKENS)
    with load(bundle.location, engine=engine, threads=1) as vlm:
        items = open_data(f"generated:{SEED}", questions).items
        return [vlm.stream(one.text, one.images, greedy).read() for one in items]


def asked(bundle: Bundle, questions: int) -> dict[str, Any]:
    """Each engine's share of right answers, and stock LiteRT-LM's beside the others' on the same questions."""
    found = {STOCK: kept(f"litert-stock-{questions}", lambda: stock_answers(bundle, questions))}
    for engine in (EMULATION, "npu-emulation"):
        found[engine] = kept(f"litert-{engine}-{questions}", partial(own_answers, bundle, engine, questions))
    wanted = [one.answers[0] for one in open_data(f"generated:{SEED}", questions).items]
    right = {engine: [a.strip() == b for a, b in zip(own, wanted, strict=True)] for engine, own in found.items()}
    return {
        "questions": questions,
        "right": {engine: sum(own) for engine, own in right.items()},
        "beside": {
            engine: {
                "same_answers": sum(a.strip() == b.strip() for a, b in zip(found[STOCK], own, strict=True)),
                "paired": asdict(compare(right[STOCK], right[engine])),
            }
            for engine, own in found.items()
            if engine != STOCK
        },
    }


# --- Given to plugins -------------------------------------------------------------------------------------------------


def decoder_of(name: str) -> Path:
    """A preset's decoder without an export's passes through the model: random weights, and one scale for all values,
    since what a plugin takes does not hang on them."""
    folder = (npu_proof.WORK / f"{name}-litert").resolve()
    path = folder / lower.FILES["decoder"]
    if path.is_file():
        return path
    click.echo(f"{name}: write ...", err=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    checkpoint = open_checkpoint(preset(name))
    recipe = for_npu(checkpoint, with_options(load_recipe(QUICK), LitertNpuOptions(compiled=False)))
    frontend, nothing = read_frontend(checkpoint), Reference(None, (), None, (), torch.zeros(0), {})
    finished = Finished(folder / "finished")
    job = Job(checkpoint, recipe, folder, REAL_LENGTH, frontend.tokens, frontend.sample, nothing, Silent(), finished)
    same: dict[str, float] = defaultdict(lambda: SCALE)
    with lower.stored_weights(job) as (store, weights):
        lower.store_decoder(job, store)
        signatures = ProgramSignatures(weights, checkpoint.config.text, Scales(same, same, MASK_VALUE), REAL_LENGTH)
        file, rows = LitertFile(), lower.prefill_tokens(job)
        for tokens, (step, _) in step_names(rows).items():
            signatures.decoder(file, step, tokens, head=tokens == 1)
        file.write(path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)
    return path


def partitioned(model: Path, recorder: neuron.Recorder) -> list[dict[str, Any]]:
    """What MediaTek's plugin takes of a decoder, for each chip."""
    rows = []
    for chip in (name for name, known in CHIPS.items() if known.make == MEDIATEK):
        with neuron.in_place_of_the_sdk(recorder, chip):
            done = compile_decoder(model, chip)
            operations = recorder.models[-len(done.signatures) :]
        rows.append({"chip": chip, "signatures": [asdict(one) for one in done.signatures], "operations": operations})
        model.with_name(COMPILED).unlink()
    return rows


def compiled(model: Path, chip: str) -> dict[str, Any]:
    """What Qualcomm's compiler makes of a decoder."""
    done = asdict(compile_decoder(model, chip))
    model.with_name(COMPILED).unlink()
    return {"chip": chip, "model_bytes": model.stat().st_size, **done}


def given_to_plugins(models: dict[str, Path], recorder: neuron.Recorder) -> dict[str, Any]:
    """All of it, by model."""
    snapdragons = [name for name, known in CHIPS.items() if known.make != MEDIATEK]
    found: dict[str, Any] = {"partitioned": {}, "compiled": {}}
    for name, path in models.items():
        found["partitioned"][name] = kept(f"litert-partitioned-{name}", partial(partitioned, path, recorder))
        if name in (*COMPILED_SIZES, "built-in") and litert_plugins.problem(npu_proof.CHIP) is None:
            chips = snapdragons if name == "built-in" else [npu_proof.CHIP]
            found["compiled"][name] = [
                kept(f"litert-compiled-{name}-{chip}", partial(compiled, path, chip)) for chip in chips
            ]
    return found


# --- The report -------------------------------------------------------------------------------------------------------


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    rows = [
        "| model | by | chip | operators | pieces | operations | MB | CPU seconds |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind, by in (("partitioned", "recorder"), ("compiled", "Qualcomm's compiler")):
        for model, found in report[kind].items():
            for one in found:
                operators, pieces = (
                    " + ".join(str(signature[key]) for signature in one["signatures"])
                    for key in ("operators", "partitions")
                )
                operations = " + ".join(map(str, one.get("operations", ())))
                size = f"{one['bytes'] / 1e6:.1f} | {one['cpu_seconds']:.1f}" if kind == "compiled" else " | "
                rows.append(f"| {model} | {by} | {one['chip']} | {operators} | {pieces} | {operations} | {size} |")
    answers = report["asked"]
    rows += [
        "",
        "| engine | right | same answers as LiteRT-LM | LiteRT-LM is better by |",
        "| --- | ---: | ---: | --- |",
    ]
    for engine, right in answers["right"].items():
        beside, said = answers["beside"].get(engine), "| |"
        if beside is not None:
            paired = beside["paired"]
            said = (
                f"| {beside['same_answers']} of {answers['questions']} | {paired['difference']:+.1%} "
                f"({paired['low']:+.1%} to {paired['high']:+.1%}) |"
            )
        rows.append(f"| {engine} | {right} of {answers['questions']} {said}")
    return "\n".join(rows)


@click.command(help=__doc__)
@click.option("--questions", default=100, show_default=True, help="One about each picture.")
@click.option("--output", type=click.Path(path_type=Path), help="Where the report goes as JSON.")
def main(questions: int, output: Path | None) -> None:
    npu_proof.WORK.mkdir(parents=True, exist_ok=True)
    recorder = neuron.build(npu_proof.WORK)
    if recorder is None:
        raise click.ClickException("there is no C compiler for the recorder: install cc")
    options = ("--backend", "neuropilot", "--backend", "litert_npu", "--uncompiled", "--chunks", "1")
    reader = exported("litert-reader", study.CHECKPOINT, RECIPE, *options, "--max-length", str(KV_LENGTH))
    models = {"built-in": reader.path(lower.FILES["decoder"]), **{name: decoder_of(name) for name in SIZES}}
    report = {
        **study.provenance(f"python -m studies.npu_proof_litert --questions {questions}", 1),
        **given_to_plugins(models, recorder),
        "asked": asked(reader, questions),
    }
    click.echo(table(report))
    if output is not None:
        study.write(report, output)


if __name__ == "__main__":
    main()
