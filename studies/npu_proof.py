"""The NPU's program by Qualcomm's own compiler and simulator: compiled for each chip, asked, and at real sizes.

python -m studies.npu_proof --output bench/results/npu-proof.json

What is done is kept in build/npu-proof, each binary and each answer as it comes: the same command goes on from there. A
simulator says nothing of a phone's time.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from pocketvlm.bench.accuracy import evaluate
from pocketvlm.bench.accuracy.paired import compare
from pocketvlm.bundle.manifest import Part
from pocketvlm.bundle.open import Bundle, open_bundle
from pocketvlm.export.job import Job, Silent
from pocketvlm.export.npu.parts import decoder_part
from pocketvlm.export.npu.program import MASK_VALUE
from pocketvlm.export.npu.rounding import Scales
from pocketvlm.export.npu.weights import for_npu
from pocketvlm.export.qnn import lower
from pocketvlm.export.qnn.compile import compile_binary, shared_binaries
from pocketvlm.export.qnn.options import QnnOptions, options_of, with_options
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.export.reference.stages import Reference
from pocketvlm.export.store.finished import Finished
from pocketvlm.machine.qnn import CHIPS, PACKAGE, VERSION, left_to_cpu, problem, stdout_to_stderr, use_htp
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.questions.data import open_data
from pocketvlm.recipe import load_recipe
from pocketvlm.runtime import load
from pocketvlm.runtime.engines.npu_program import causal_mask
from pocketvlm.runtime.engines.onnx import SILENT, import_onnxruntime
from studies.reader import study

Parts = Mapping[str, Part]
WORK = Path("build/npu-proof")
#: The built-in model's recipe, and one that rounds to nearest: random weights are not worth more.
RECIPE, QUICK = "gptq-channel", "studies/npu_pass.toml"
ENGINES = ("onnx", "npu-emulation", "qnn-simulator")
#: The program's attention is over the whole cache: one that the questions and their answers just fit.
KV_LENGTH, REAL_LENGTH = 768, 2048
SEED, MAX_NEW_TOKENS = "npu", 64
#: Sizes whose whole program is compiled, for one chip; the first layers of the smaller are simulated.
REAL, LARGE, CHIP = "bluelm-v-0.5b", "bluelm-v-3b", "sm8650"
#: Of all values, where only costs are measured.
SCALE = 2.0**-10
#: Questions between two lines of progress.
PROGRESS = 25
#: Tokens of the simulated layers' prompt.
PREFILL = 128


def kept(name: str, make: Callable[[], Any]) -> Any:
    """What a step gave, made where it is not there yet."""
    path = WORK / f"{name}.json"
    if not path.is_file():
        click.echo(f"{name} ...", err=True)
        study.write(make(), path)
    return json.loads(path.read_text(encoding="utf-8"))


# --- Compiled ---------------------------------------------------------------------------------------------------------


def compiled(path: Callable[[str], Path], parts: Parts, chip: str, name: str) -> list[dict[str, Any]]:
    """Each binary of a program for one chip; ``path`` gives a file of it, ``name`` begins what is kept."""
    return [
        kept(f"{name}.{chip}.{binary}", functools.partial(_compile, path, parts, chip, (binary, names)))
        for binary, names in shared_binaries(parts).items()
    ]


def _compile(
    path: Callable[[str], Path], parts: Parts, chip: str, binary: tuple[str, tuple[str, ...]]
) -> dict[str, Any]:
    """In a folder that is gone afterwards: its size is what is kept."""
    folder, chosen = WORK / f"compiled-{chip}-{binary[0]}", {name: parts[name] for name in binary[1]}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in {file for part in chosen.values() for file in (part.file, *part.data)}:
        (folder / file).symlink_to(path(file).resolve())
    started = time.monotonic()
    done = compile_binary(folder, chip, binary[0], chosen)
    wall = time.monotonic() - started
    shutil.rmtree(folder)
    return {**asdict(done), "chip": chip, "htp_arch": CHIPS[chip].htp_arch, "wall_seconds": wall}


def written(name: str) -> tuple[Callable[[str], Path], Parts]:
    """A preset's program without an export's passes through the model: random weights, and one scale for all values,
    since what compiling costs does not hang on them. Gives a file's path, and the parts."""
    folder = (WORK / f"{name}-program").resolve()
    listed = folder / "parts.json"
    if not listed.is_file():
        click.echo(f"{name}: write ...", err=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        checkpoint = open_checkpoint(preset(name))
        recipe = for_npu(checkpoint, with_options(load_recipe(QUICK), QnnOptions(compiled=False)))
        frontend, nothing = read_frontend(checkpoint), Reference(None, (), None, (), torch.zeros(0), {})
        finished = Finished(folder / "finished")
        job = Job(
            checkpoint, recipe, folder, REAL_LENGTH, frontend.tokens, frontend.sample, nothing, Silent(), finished
        )
        same: dict[str, float] = defaultdict(lambda: SCALE)
        with lower.stored_weights(job) as store:
            chunks = options_of(recipe).layers(checkpoint.config.text.num_hidden_layers)
            parts = lower.write_parts(job, store, Scales(same, same, MASK_VALUE), chunks)
        study.write({part: one.model_dump(mode="json") for part, one in parts.items()}, listed)
    raw = json.loads(listed.read_text(encoding="utf-8"))
    return folder.joinpath, {part: Part.model_validate(one) for part, one in raw.items()}


def exported(name: str, checkpoint: Path, recipe: str, *options: str) -> Bundle:
    """A bundle of the proof, made once."""
    path = WORK / name
    if not path.is_dir():
        click.echo(f"{name}: export ...", err=True)
        started = time.monotonic()
        study.export(checkpoint, path, recipe, *options)
        study.write({"seconds": time.monotonic() - started}, WORK / f"{name}.export.json")
    return open_bundle(path)


def preset(name: str) -> Path:
    """The checkpoint of a preset, random weights."""
    path = WORK / f"{name}-checkpoint"
    if not path.is_dir():
        command = [sys.executable, "-m", "pocketvlm", "init", name, str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


# --- Simulated --------------------------------------------------------------------------------------------------------


def answers(bundle: Bundle, engine: str, questions: int) -> list[dict[str, Any]]:
    """One engine's answers, those that are kept first."""
    path = WORK / f"answers-{engine}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    with path.open("a", encoding="utf-8") as stream:
        for line in _answered(bundle, engine, questions, len(lines)):
            stream.write(line + "\n")
            stream.flush()
            lines.append(line)
            if len(lines) % PROGRESS == 0:
                click.echo(f"{engine}: {len(lines)} of {questions} questions", err=True)
    return [json.loads(line) for line in lines[:questions]]


def _answered(bundle: Bundle, engine: str, questions: int, done: int) -> Iterator[str]:
    if done >= questions:
        return
    asked = list(open_data(f"generated:{SEED}", questions).items)[done:]
    with load(bundle.location, engine=engine, threads=1) as vlm:
        for one in evaluate.answer_all(vlm, asked, MAX_NEW_TOKENS):
            outcome = one.outcome
            yield json.dumps({"engine": vlm.engine_description, "got": outcome.got, "right": outcome.exact})


def simulated(bundle: Bundle, questions: int) -> dict[str, Any]:
    """Each engine's share of right answers, and the simulator's beside the others' on the same questions."""
    found = {engine: answers(bundle, engine, questions) for engine in ENGINES}
    ours = found["qnn-simulator"]
    return {
        "questions": questions,
        "engines": {
            engine: {"engine": own[0]["engine"], "right": sum(one["right"] for one in own)}
            for engine, own in found.items()
        },
        "beside": {
            engine: {
                "same_answers": sum(a["got"] == b["got"] for a, b in zip(ours, own, strict=True)),
                "paired": asdict(compare([one["right"] for one in ours], [one["right"] for one in own])),
            }
            for engine, own in found.items()
            if engine != "qnn-simulator"
        },
    }


def first_chunk(bundle: Bundle) -> dict[str, Any]:
    """The first layers of a bundle in the simulator beside the CPU, on the same numbers."""
    found = {}
    for tokens in (PREFILL, 1):
        feeds, seconds, outputs = _inputs(bundle, tokens), {}, {}
        for where in ("CPU", "simulator"):
            session = _session(bundle, decoder_part(0, tokens), simulated=where == "simulator")
            started = time.monotonic()
            outputs[where] = session.run(None, feeds)
            seconds[where] = time.monotonic() - started
        (wanted, *cache), (got, *cached) = outputs["CPU"], outputs["simulator"]
        found[str(tokens)] = {
            "layers": len(cache) // 2,
            "relative_error": float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted)),
            "cosine": float((wanted * got).sum() / np.linalg.norm(wanted) / np.linalg.norm(got)),
            "most_steps_of_the_cache": max(
                int(np.abs(a.astype(int) - b).max()) for a, b in zip(cache, cached, strict=True)
            ),
            "seconds": seconds,
        }
    return found


def _session(bundle: Bundle, part: str, *, simulated: bool) -> Any:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    path = str(bundle.path(bundle.manifest.engines["qnn"][part].file))
    if not simulated:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    use_htp(ort, options, CHIPS[CHIP])
    with stdout_to_stderr():
        session = ort.InferenceSession(path, options)
    if left := left_to_cpu(session):
        raise click.ClickException(f"{part}: Qualcomm's compiler leaves to the CPU {', '.join(left[:3])}")
    return session


def _inputs(bundle: Bundle, tokens: int) -> dict[str, np.ndarray]:
    """Random hidden states, and a cache whose second half is random codes."""
    manifest, rng = bundle.manifest, np.random.default_rng(tokens)
    program, kv, past = manifest.qnn, manifest.kv_cache, manifest.kv_cache.length // 2
    assert program is not None
    names = [f"past_{part}.{layer}" for part in ("key", "value") for layer in range(*program.chunks[0])]
    cache = {name: rng.integers(-127, 128, (1, kv.heads, kv.length, kv.head_dim)).astype(np.int8) for name in names}
    for codes in cache.values():
        codes[:, :, :past] = 0
    table = np.frombuffer(bundle.read(program.rope), "<f4").reshape(2, kv.length, kv.head_dim)
    return {
        "hidden": 0.5 * rng.standard_normal((1, tokens, manifest.model.hidden_size), np.float32),
        "mask": causal_mask(kv.length - past, tokens, kv.length, program.mask_value),
        "rope": np.ascontiguousarray(table[None, :, past : past + tokens]),
        **cache,
    }


# --- The report -------------------------------------------------------------------------------------------------------


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    rows = [
        "| model | chip (htp_arch) | binary | operators | MB | seconds | CPU seconds | GB |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for model, binaries in report["compiled"].items():
        for one in binaries:
            operators = " + ".join(str(graph["operators"]) for graph in one["graphs"])
            seconds = sum(graph["seconds"] for graph in one["graphs"])
            rows.append(
                f"| {model} | {one['chip']} ({one['htp_arch']}) | {one['name']} | {operators} "
                f"| {one['bytes'] / 1e6:.2f} | {seconds:.1f} | {one['cpu_seconds']:.1f} "
                f"| {one['peak_bytes'] / 1e9:.1f} |"
            )
    asked = report["simulated"]
    rows += ["", "| engine | right | same answers as simulated | difference (95 %) |", "| --- | ---: | ---: | --- |"]
    for engine, own in asked["engines"].items():
        beside = asked["beside"].get(engine)
        said = "| |"
        if beside is not None:
            paired = beside["paired"]
            said = (
                f"| {beside['same_answers']} of {asked['questions']} | {paired['difference']:+.1%} "
                f"({paired['low']:+.1%} to {paired['high']:+.1%}) |"
            )
        rows.append(f"| {engine} | {own['right']} of {asked['questions']} {said}")
    rows += [
        "",
        "| layers | tokens | relative error | cosine | most steps of the cache |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for tokens, one in report["first_chunk"].items():
        rows.append(
            f"| {one['layers']} | {tokens} | {one['relative_error']:.2g} | {one['cosine']:.6f} "
            f"| {one['most_steps_of_the_cache']} |"
        )
    return "\n".join(rows)


@click.command(help=__doc__)
@click.option("--questions", default=100, show_default=True, help="One about each picture.")
@click.option("--output", type=click.Path(path_type=Path), help="Where the report goes as JSON.")
def main(questions: int, output: Path | None) -> None:
    if why := problem():
        raise click.ClickException(why)
    WORK.mkdir(parents=True, exist_ok=True)
    both = ("--backend", "onnx", "--backend", "neuropilot", "--backend", "qnn", "--uncompiled", "--chunks", "1")
    reader = exported("reader", study.CHECKPOINT, RECIPE, *both, "--max-length", str(KV_LENGTH))
    parts = reader.manifest.engines["qnn"]
    binaries = {"built-in": [row for chip in CHIPS for row in compiled(reader.path, parts, chip, "reader")]}
    asked = simulated(reader, questions)
    whole = ("--backend", "qnn", "--uncompiled", "--max-length", str(REAL_LENGTH))
    real = exported(REAL, preset(REAL), QUICK, *whole)
    binaries[REAL] = compiled(real.path, real.manifest.engines["qnn"], CHIP, REAL)
    path, large = written(LARGE)
    # Its tower is the smaller one's.
    decoders = {name: part for name, part in large.items() if name.startswith("text")}
    binaries[LARGE] = compiled(path, decoders, CHIP, LARGE)
    command = f"python -m studies.npu_proof --questions {questions}"
    report = {
        **study.provenance(command, 1),
        "compiler": f"{PACKAGE} {VERSION}",
        "compiled": binaries,
        "simulated": asked,
        "first_chunk": kept("first-chunk", lambda: first_chunk(real)),
    }
    click.echo(table(report))
    if output is not None:
        study.write(report, output)


if __name__ == "__main__":
    main()
