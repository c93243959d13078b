"""Hostile and long use, counted: mutated images and bundles, odd prompts, many turns. Right, or one clear line.

python -m tests.soak --output bench/results/soak.json

Cases run one after the other in processes of their own. The exit status is 1 if one was wrong, hung or crashed. Each
part is written as it ends, with the commit it ran on; parts that were not asked for (of 0 cases) stay as the file has
them, so that the hours can be spent in pieces: make soak SOAK='--no-others --images 4000 --output ...'
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from studies.reader.study import CHECKPOINT, provenance, write
from tests.soak import processes, report
from tests.soak.cases import BUNDLES, PARTS, Setup
from tests.soak.processes import Judged
from tests.soak.turns import MOST_GROWTH

#: Fewer turns than this tell nothing of the memory.
LEAST_TURNS = 300
#: How often a terminal hears how far it is, in cases.
TELL_EVERY = 50


def make_bundles(folder: Path, parts: Collection[str] = PARTS) -> dict[str, Path]:
    """What these parts change: the built-in model with INT4 weights and INT8 cache, and a tiny one of random weights in
    float32, as an NPU's program, and for ExecuTorch and LiteRT with either cache."""
    from pocketvlm.export import export_bundle
    from pocketvlm.export.neuropilot.options import NpuOptions, with_options
    from pocketvlm.recipe import load_recipe
    from tests.support.checkpoints import tiny_config, write_checkpoint

    write_checkpoint(folder / "checkpoint", tiny_config("qwen2", tie_word_embeddings=False))
    export_bundle(CHECKPOINT, folder / "reader", recipe="bluelm-v-3b")
    made = [("tiny", load_recipe("fp32"), "onnx")]
    if "graphs" in parts:
        options = NpuOptions(chunks=1, prefill_tokens=32, compiled=False)
        made.append(("npu", with_options(load_recipe("int4-channel"), options), "neuropilot"))
    if "programs" in parts:
        made += [
            ("program", load_recipe("fp32"), "executorch"),
            ("program-int8", load_recipe("bluelm-v-3b"), "executorch"),
        ]
    if "tflites" in parts:
        made += [("tflite", load_recipe("fp32"), "litert"), ("tflite-int8", load_recipe("bluelm-v-3b"), "litert")]
    for name, recipe, engine in made:
        export_bundle(folder / "checkpoint", folder / name, recipe=recipe, backends=[engine])
    return {name: folder / name for name in ("reader", *(name for name, _, _ in made))}


def run_cases(
    part: str, indices: Sequence[int], seed: int, bundles: dict[str, Path], *, loud: bool = False
) -> list[Judged]:
    """Cases of one part, in a folder of their own; ``loud`` tells a terminal of failures and how far it is."""
    judged = []
    wanted = getattr(importlib.import_module(f"tests.soak.{part}"), "BUNDLES", BUNDLES)
    bundles = {name: bundles[name] for name in wanted if name in bundles}
    with tempfile.TemporaryDirectory(prefix="pocketvlm-soak-") as sandbox:
        for case in processes.run(part, indices, Setup(seed, Path(sandbox), bundles)):
            judged.append(case)
            if loud and report.failures([case]):
                click.echo(
                    f"{part}:{case.index} {case.outcome.verdict}: {case.what}\n    {case.outcome.line}", err=True
                )
            if loud and len(judged) % TELL_EVERY == 0 and sys.stderr.isatty():
                click.echo(f"{part}: {len(judged)} of {len(indices)}", err=True)
    return judged


def summary(part: str, judged: Sequence[Judged], command: str) -> dict[str, Any]:
    """A part's counts, the memory over the turns, and whether all is well."""
    numbers, leaking = report.summary(judged, command), False
    if part == "turns" and len(judged) >= LEAST_TURNS:
        memory = report.memory(judged)
        leaking = memory["growth_bytes"] > MOST_GROWTH
        numbers["memory"] = {**memory, "most_growth_bytes": MOST_GROWTH, "leaking": leaking}
    return {"passed": not report.failures(judged) and not leaking, **numbers}


def show_one(part: str, index: int, seed: int, bundles: dict[str, Path]) -> bool:
    """Run one case again, a turn with all before it; whether it is well."""
    case = run_cases(part, range(index + 1) if part == "turns" else [index], seed, bundles)[-1]
    outcome = case.outcome
    click.echo(f"{part}:{index} {case.what}\n{outcome.verdict}: {outcome.line}")
    click.echo(
        f"{outcome.seconds:.3f} s of the processor, memory grew by {outcome.peak_bytes / 1e6:.1f} MB at its peak"
    )
    return not report.failures([case])


def parse_only(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, int] | None:
    """PART:INDEX

    Raises:
        BadParameter: it is something else.
    """
    part, _, index = (value or "").partition(":")
    if value is None:
        return None
    if part not in PARTS or not index.isdecimal():
        raise click.BadParameter(f"{value} is not PART:INDEX with a part of {', '.join(PARTS)}", context, parameter)
    return part, int(index)


def kept(output: Path | None) -> dict[str, Any]:
    """The parts that a report has so far."""
    if output is None or not output.is_file():
        return {}
    parts: dict[str, Any] = json.loads(output.read_text())["parts"]
    return parts


@click.command(help=__doc__)
@click.option("--images", default=4000, show_default=True, type=click.IntRange(0))
@click.option("--bundles", default=3500, show_default=True, type=click.IntRange(0))
@click.option("--prompts", default=300, show_default=True, type=click.IntRange(0))
@click.option("--turns", default=500, show_default=True, type=click.IntRange(0))
@click.option("--tokenizers", default=3000, show_default=True, type=click.IntRange(0))
@click.option("--templates", default=1000, show_default=True, type=click.IntRange(0))
@click.option("--checkpoints", default=2000, show_default=True, type=click.IntRange(0))
@click.option("--configs", default=1500, show_default=True, type=click.IntRange(0))
@click.option("--terminal", default=1000, show_default=True, type=click.IntRange(0))
@click.option("--sizes", default=1200, show_default=True, type=click.IntRange(0))
@click.option("--graphs", default=2000, show_default=True, type=click.IntRange(0))
@click.option("--programs", default=1000, show_default=True, type=click.IntRange(0))
@click.option("--sources", default=1000, show_default=True, type=click.IntRange(0))
@click.option("--tflites", default=1000, show_default=True, type=click.IntRange(0))
@click.option("--no-others", is_flag=True, help="Only the parts that are named here.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", callback=parse_only, metavar="PART:INDEX", help="Run this case alone and show it.")
@click.option("--output", type=click.Path(path_type=Path), help="Where the report goes as JSON.")
@click.pass_context
def main(
    context: click.Context,
    /,
    *,
    no_others: bool,
    seed: int,
    only: tuple[str, int] | None,
    output: Path | None,
    **counts: int,
) -> None:
    if no_others:
        named = {part for part in counts if context.get_parameter_source(part) is not ParameterSource.DEFAULT}
        counts = {part: count for part, count in counts.items() if part in named}
    parts = kept(output)
    with tempfile.TemporaryDirectory(prefix="pocketvlm-soak-bundles-") as folder:
        made = make_bundles(Path(folder), [only[0]] if only else [part for part, count in counts.items() if count])
        if only is not None:
            sys.exit(not show_one(*only, seed, made))
        for part, count in counts.items():
            if not count:
                continue
            started = time.monotonic()
            command = f"python -m tests.soak --no-others --{part} {count} --seed {seed}"
            numbers = summary(part, run_cases(part, range(count), seed, made, loud=True), command)
            click.echo(f"{part:<11} {numbers['cases']} cases: {report.in_words(numbers)}")
            minutes = round((time.monotonic() - started) / 60, 1)
            parts[part] = {**provenance(command, threads=1), "minutes": minutes, **numbers}
            if output is not None:
                write(totals(parts), output)
    sys.exit(not totals(parts)["passed"])


def totals(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The report: whether all is well, how many cases there were, and each part."""
    cases = sum(numbers["cases"] for numbers in parts.values())
    return {"passed": all(numbers["passed"] for numbers in parts.values()), "cases": cases, "parts": parts}


if __name__ == "__main__":
    main()
